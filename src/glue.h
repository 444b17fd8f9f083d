/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Functions that src/glue.c provides for the Rust code.  bindgen reads this file
 * and include/fence.h, so the declarations on both sides agree.
 */
#ifndef _SCOUTFS_FENCE_GLUE_H_
#define _SCOUTFS_FENCE_GLUE_H_

#include <linux/in.h>

#include "../include/fence.h"

struct delayed_work;
struct lock_class_key;
struct work_struct;
struct workqueue_struct;

unsigned int scoutfs_fence_glue_timeout_ms(void);

/* Kernel macros and static inline functions. */
struct workqueue_struct *scoutfs_fence_glue_alloc_workqueue(const char *name);
void scoutfs_fence_glue_init_delayed_work(struct delayed_work *dwork,
					  void (*func)(struct work_struct *work),
					  const char *name, struct lock_class_key *key,
					  const char *timer_name,
					  struct lock_class_key *timer_key);
void scoutfs_fence_glue_might_sleep(void);
int scoutfs_fence_glue_print_ipv6(char *buf, size_t size, const u8 addr[16]);
unsigned int scoutfs_fence_glue_memalloc_nofs_save(void);
void scoutfs_fence_glue_memalloc_nofs_restore(unsigned int flags);

/* Log lines of a mount.  @text is not NUL-terminated.  Context as for printk(). */
void scoutfs_fence_glue_log_error(const char *mount, const char *text, size_t len);
void scoutfs_fence_glue_log_debug(const char *mount, const char *text, size_t len);
void scoutfs_fence_glue_log_not_set_up(const char *function);

/* Tracepoints of src/trace.h.  Any context. */
void scoutfs_fence_glue_trace_start(const char *mount, u64 rid, const u8 *addr, size_t addr_len,
				    int reason);
void scoutfs_fence_glue_trace_duplicate(const char *mount, u64 rid, int reason);
void scoutfs_fence_glue_trace_fenced(const char *mount, u64 rid);
void scoutfs_fence_glue_trace_failed(const char *mount, u64 rid, bool timed_out);
void scoutfs_fence_glue_trace_freed(const char *mount, u64 rid);
void scoutfs_fence_glue_trace_dropped(const char *mount, u64 rid);
void scoutfs_fence_glue_trace_wait_begin(const char *mount, bool next, unsigned long timeout);
void scoutfs_fence_glue_trace_wait_end(const char *mount, bool next, long result);

#ifdef RUST_INSIDE

/* Of the kernel crate: formats a `%pA` between @buf and @end, and returns its end. */
char *rust_fmt_argument(char *buf, char *end, void *ptr);

int __wrap__printk(const char *fmt, ...);

#endif

#endif
