/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What both builds of the test filesystem share.
 */
#ifndef _FENCE_TEST_H_
#define _FENCE_TEST_H_

struct kobject;
struct super_block;

/* /sys/fs/scoutfs, which the plain build makes. */
extern struct kobject *fence_test_scoutfs;

/* The directory that a mount has in /sys/fs/scoutfs. */
struct kobject *fence_test_sysfs_dir(struct super_block *sb);

#endif
