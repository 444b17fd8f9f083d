/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What src/glue.c does for the Rust code.  bindgen reads this file, and
 * include/fence.h through it, so neither side can drift from the other.
 */
#ifndef _SCOUTFS_FENCE_GLUE_H_
#define _SCOUTFS_FENCE_GLUE_H_

#include <linux/in.h>

#include "../include/fence.h"

struct delayed_work;
struct wait_queue_head;
struct work_struct;
struct workqueue_struct;

const char *scoutfs_fence_glue_version(void);
unsigned int scoutfs_fence_glue_timeout_ms(void);

struct workqueue_struct *scoutfs_fence_glue_alloc_workqueue(const char *name, bool highpri);
void scoutfs_fence_glue_init_delayed_work(struct delayed_work *dwork,
					  void (*func)(struct work_struct *work));
void scoutfs_fence_glue_init_waitqueue_head(struct wait_queue_head *wq_head);
int scoutfs_fence_glue_print_ipv6(char *buf, size_t size, const u8 addr[16]);
void scoutfs_fence_glue_bin2hex(char *dst, const void *src, size_t count);
unsigned int scoutfs_fence_glue_memalloc_nofs_save(void);
void scoutfs_fence_glue_memalloc_nofs_restore(unsigned int flags);

#endif
