// SPDX-License-Identifier: GPL-2.0-only
/*
 * What Rust cannot do: export symbols, declare module parameters with bounds,
 * and call the kernel's macros and static inline functions.
 */
#include <linux/hex.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/sched/mm.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "glue.h"

#define TIMEOUT_MS_DEFAULT 30000
#define TIMEOUT_MS_MIN 100
#define TIMEOUT_MS_MAX 3600000

EXPORT_SYMBOL_GPL(scoutfs_fence_setup);
EXPORT_SYMBOL_GPL(scoutfs_fence_setup_under);
EXPORT_SYMBOL_GPL(scoutfs_fence_start);
EXPORT_SYMBOL_GPL(scoutfs_fence_start_addr);
EXPORT_SYMBOL_GPL(scoutfs_fence_next);
EXPORT_SYMBOL_GPL(scoutfs_fence_wait_next);
EXPORT_SYMBOL_GPL(scoutfs_fence_drained);
EXPORT_SYMBOL_GPL(scoutfs_fence_reason_pending);
EXPORT_SYMBOL_GPL(scoutfs_fence_free);
EXPORT_SYMBOL_GPL(scoutfs_fence_wait_fenced);
EXPORT_SYMBOL_GPL(scoutfs_fence_stop);
EXPORT_SYMBOL_GPL(scoutfs_fence_destroy);

MODULE_AUTHOR("The scoutfs-fence developers");
MODULE_VERSION(SCOUTFS_FENCE_VERSION);

const char *scoutfs_fence_glue_version(void)
{
	return SCOUTFS_FENCE_VERSION;
}

static unsigned int timeout_ms = TIMEOUT_MS_DEFAULT;

static int timeout_ms_set(const char *value, const struct kernel_param *kp)
{
	/* A number that no variable holds is out of bounds too, and not -ERANGE. */
	return param_set_uint_minmax(value, kp, TIMEOUT_MS_MIN, TIMEOUT_MS_MAX) ? -EINVAL : 0;
}

static const struct kernel_param_ops timeout_ms_ops = {
	.set = timeout_ms_set,
	.get = param_get_uint,
};

module_param_cb(timeout_ms, &timeout_ms_ops, &timeout_ms, 0644);
MODULE_PARM_DESC(timeout_ms,
		 "milliseconds that a request waits for an answer before it fails, 100 to 3600000 (default 30000); for requests made from then on");

unsigned int scoutfs_fence_glue_timeout_ms(void)
{
	/* Root may be writing the parameter at this moment. */
	return READ_ONCE(timeout_ms);
}

struct workqueue_struct *scoutfs_fence_glue_alloc_workqueue(const char *name, bool highpri)
{
	/* Memory reclaim can wait for a fenced mount's locks: keep a rescuer. */
	unsigned int flags = WQ_UNBOUND | WQ_MEM_RECLAIM;

	return alloc_workqueue("%s", highpri ? flags | WQ_HIGHPRI : flags, 0, name);
}

void scoutfs_fence_glue_init_delayed_work(struct delayed_work *dwork,
					  void (*func)(struct work_struct *work))
{
	INIT_DELAYED_WORK(dwork, func);
}

void scoutfs_fence_glue_init_waitqueue_head(struct wait_queue_head *wq_head)
{
	init_waitqueue_head(wq_head);
}

int scoutfs_fence_glue_print_ipv6(char *buf, size_t size, const u8 addr[16])
{
	return scnprintf(buf, size, "%pI6c", addr);
}

void scoutfs_fence_glue_bin2hex(char *dst, const void *src, size_t count)
{
	bin2hex(dst, src, count);
}

unsigned int scoutfs_fence_glue_memalloc_nofs_save(void)
{
	return memalloc_nofs_save();
}

void scoutfs_fence_glue_memalloc_nofs_restore(unsigned int flags)
{
	memalloc_nofs_restore(flags);
}
