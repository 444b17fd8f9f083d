// SPDX-License-Identifier: GPL-2.0-only
/*
 * The filesystem built again as fence_test_leader, with SCOUTFS_FENCE_PARENT:
 * its requests are in /sys/fs/scoutfs/<name>/fence/.
 */
#include "fence_test_fs.c"
