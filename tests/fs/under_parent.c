// SPDX-License-Identifier: GPL-2.0-only
/*
 * The filesystem once more, as fence_test_leader, compiled with
 * SCOUTFS_FENCE_PARENT: its requests are in /sys/fs/scoutfs/<name>/fence/.
 */
#include "fence_test_fs.c"
