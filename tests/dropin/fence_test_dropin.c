// SPDX-License-Identifier: GPL-2.0-only
/*
 * Calls the eight functions through their original declarations on loading;
 * meanwhile an agent has to fence the mount c0ffee.  Loading fails if a
 * function misbehaves.
 */

#include <linux/fs.h>
#include <linux/jiffies.h>
#include <linux/kdev_t.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "fence.h"

#define RID	0xc0ffee
#define REASON	SCOUTFS_FENCE_CLIENT_RECONNECT

static int expect(const char *what, int got, int wanted)
{
	if (got == wanted)
		return 0;

	pr_err("%s returned %d, and not %d\n", what, got, wanted);
	return -EPROTO;
}

static int call_each(struct super_block *sb)
{
	int reason = -1;
	bool error = true;
	u64 rid = 0;

	return expect("reason_pending", scoutfs_fence_reason_pending(sb, REASON), 0) ?:
	       expect("start", scoutfs_fence_start(sb, RID, htonl(0x0a000001), REASON), 0) ?:
	       expect("reason_pending", scoutfs_fence_reason_pending(sb, REASON), 1) ?:
	       expect("next", scoutfs_fence_next(sb, &rid, &reason, &error), -ENOENT) ?:
	       expect("wait_fenced", scoutfs_fence_wait_fenced(sb, 20 * HZ), 0) ?:
	       expect("next", scoutfs_fence_next(sb, &rid, &reason, &error), 0) ?:
	       expect("next's rid", rid == RID, true) ?:
	       expect("next's reason", reason, REASON) ?:
	       expect("next's error", error, false) ?:
	       expect("free", scoutfs_fence_free(sb, RID), 0) ?:
	       expect("free", scoutfs_fence_free(sb, RID), -ENOENT);
}

static int __init fence_test_dropin_init(void)
{
	struct super_block *sb = kzalloc(sizeof(*sb), GFP_KERNEL);
	int ret;

	if (!sb)
		return -ENOMEM;

	sb->s_dev = MKDEV(240, 7);
	ret = expect("setup", scoutfs_fence_setup(sb), 0) ?: call_each(sb);
	scoutfs_fence_stop(sb);
	scoutfs_fence_destroy(sb);
	kfree(sb);
	return ret;
}

static void __exit fence_test_dropin_exit(void)
{
}

module_init(fence_test_dropin_init);
module_exit(fence_test_dropin_exit);

MODULE_DESCRIPTION("Caller of scoutfs_fence that knows its eight old functions only");
MODULE_LICENSE("GPL");
