/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared by both builds of the test filesystem.
 */
#ifndef _FENCE_TEST_H_
#define _FENCE_TEST_H_

struct kobject;
struct super_block;

/* /sys/fs/scoutfs, made by the plain build. */
extern struct kobject *fence_test_scoutfs;

/* A mount's directory in /sys/fs/scoutfs. */
struct kobject *fence_test_sysfs_dir(struct super_block *sb);

#endif
