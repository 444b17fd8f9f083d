// SPDX-License-Identifier: GPL-2.0-only
/*
 * Everything that Rust cannot do on every supported kernel: export symbols,
 * declare module parameters with bounds, define tracepoints, print, and call the
 * kernel's macros and static inline functions.
 */
#include <linux/kernel.h>
#include <linux/kobject.h>
#include <linux/lockdep.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/ratelimit.h>
#include <linux/sched/mm.h>
#include <linux/workqueue.h>

#include "glue.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

/* kobj_attribute of src/linux/sysfs.rs mirrors this layout. */
static_assert(offsetof(struct kobj_attribute, attr) == 0);
static_assert(offsetof(struct kobj_attribute, show) == sizeof(struct attribute));
static_assert(offsetof(struct kobj_attribute, store) ==
	      sizeof(struct attribute) + sizeof(void *));
static_assert(sizeof(struct kobj_attribute) == sizeof(struct attribute) + 2 * sizeof(void *));

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

static unsigned int timeout_ms = TIMEOUT_MS_DEFAULT;

static int timeout_ms_set(const char *value, const struct kernel_param *kp)
{
	/* A number too large for the variable is out of bounds: -EINVAL, not -ERANGE. */
	return param_set_uint_minmax(value, kp, TIMEOUT_MS_MIN, TIMEOUT_MS_MAX) ? -EINVAL : 0;
}

static const struct kernel_param_ops timeout_ms_ops = {
	.set = timeout_ms_set,
	.get = param_get_uint,
};

module_param_cb(timeout_ms, &timeout_ms_ops, &timeout_ms, 0644);
MODULE_PARM_DESC(timeout_ms,
		 "milliseconds before an unanswered request fails, 100 to 3600000 (default 30000); applies to requests started later");

unsigned int scoutfs_fence_glue_timeout_ms(void)
{
	/* Root may write the parameter concurrently. */
	return READ_ONCE(timeout_ms);
}

struct workqueue_struct *scoutfs_fence_glue_alloc_workqueue(const char *name)
{
	/* Memory reclaim can depend on a fenced mount's locks: keep a rescuer. */
	return alloc_workqueue("%s", WQ_UNBOUND | WQ_MEM_RECLAIM | WQ_HIGHPRI, 0, name);
}

void scoutfs_fence_glue_init_delayed_work(struct delayed_work *dwork,
					  void (*func)(struct work_struct *work),
					  const char *name, struct lock_class_key *key,
					  const char *timer_name,
					  struct lock_class_key *timer_key)
{
	INIT_DELAYED_WORK(dwork, func);
	/* Replaces the macro's lock classes, which all callers of this function would share. */
	lockdep_init_map(&dwork->work.lockdep_map, name, key, 0);
	lockdep_init_map(&dwork->timer.lockdep_map, timer_name, timer_key, 0);
}

void scoutfs_fence_glue_might_sleep(void)
{
	might_sleep();
}

int scoutfs_fence_glue_print_ipv6(char *buf, size_t size, const u8 addr[16])
{
	return scnprintf(buf, size, "%pI6c", addr);
}

unsigned int scoutfs_fence_glue_memalloc_nofs_save(void)
{
	return memalloc_nofs_save();
}

void scoutfs_fence_glue_memalloc_nofs_restore(unsigned int flags)
{
	memalloc_nofs_restore(flags);
}

/* scoutfs prints its errors in the same form. */
void scoutfs_fence_glue_log_error(const char *mount, const char *text, size_t len)
{
	pr_err("%s error: %.*s\n", mount, (int)len, text);
}

void scoutfs_fence_glue_log_debug(const char *mount, const char *text, size_t len)
{
	pr_debug("%s: %.*s\n", mount, (int)len, text);
}

void scoutfs_fence_glue_log_not_set_up(const char *function)
{
	static DEFINE_RATELIMIT_STATE(limit, HZ, 10);

	if (__ratelimit(&limit))
		pr_err("scoutfs_fence error: %s: the superblock is not set up\n", function);
}

/* Defines a function that emits a tracepoint, as DEFINE_RUST_DO_TRACE() of newer kernels does. */
#define DEFINE_GLUE_TRACE(name, proto, args)		\
	void scoutfs_fence_glue_trace_##name(proto)	\
	{						\
		trace_scoutfs_fence_##name(args);	\
	}

DEFINE_GLUE_TRACE(start,
		  TP_PROTO(const char *mount, u64 rid, const u8 *addr, size_t addr_len, int reason),
		  TP_ARGS(mount, rid, addr, addr_len, reason))
DEFINE_GLUE_TRACE(duplicate, TP_PROTO(const char *mount, u64 rid, int reason),
		  TP_ARGS(mount, rid, reason))
DEFINE_GLUE_TRACE(fenced, TP_PROTO(const char *mount, u64 rid), TP_ARGS(mount, rid))
DEFINE_GLUE_TRACE(failed, TP_PROTO(const char *mount, u64 rid, bool timed_out),
		  TP_ARGS(mount, rid, timed_out))
DEFINE_GLUE_TRACE(freed, TP_PROTO(const char *mount, u64 rid), TP_ARGS(mount, rid))
DEFINE_GLUE_TRACE(dropped, TP_PROTO(const char *mount, u64 rid), TP_ARGS(mount, rid))
DEFINE_GLUE_TRACE(wait_begin, TP_PROTO(const char *mount, bool next, unsigned long timeout),
		  TP_ARGS(mount, next, timeout))
DEFINE_GLUE_TRACE(wait_end, TP_PROTO(const char *mount, bool next, long result),
		  TP_ARGS(mount, next, result))

#ifdef RUST_INSIDE

/*
 * The kernel crate's calls of _printk(), a panic's among them, come here: a
 * kernel without Rust prints `(%pA?)` for their `%pA`.  Their formats are a level
 * of two characters, `%s: ` for the module's name or nothing, and `%pA`.
 */
int __wrap__printk(const char *fmt, ...)
{
	char text[256], *last = text + sizeof(text) - 1, *end;
	const char *module = NULL;
	va_list args;

	va_start(args, fmt);
	if (strstarts(fmt + 2, "%s"))
		module = va_arg(args, const char *);
	/* @end includes the text that did not fit. */
	end = rust_fmt_argument(text, last, va_arg(args, void *));
	va_end(args);
	*min(end, last) = '\0';

	return _printk("%.2s%s%s%s", fmt, module ?: "", module ? ": " : "", text);
}

#endif
