/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tracepoints, in /sys/kernel/tracing/events/scoutfs_fence/.  The module's Rust
 * code emits them through src/glue.c; src/mount.rs says under which lock.
 *
 * @mount is the mount's label, which also begins its lines in the log.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM scoutfs_fence

#if !defined(_SCOUTFS_FENCE_TRACE_H_) || defined(TRACE_HEADER_MULTI_READ)
#define _SCOUTFS_FENCE_TRACE_H_

#include <linux/in.h>
#include <linux/in6.h>
#include <linux/string.h>
#include <linux/tracepoint.h>

#include "../include/fence.h"

/* Longer labels are cut. */
#define SCOUTFS_FENCE_TRACE_LABEL	64

#define show_scoutfs_fence_reason(reason)				\
	__print_symbolic(reason,					\
		{ SCOUTFS_FENCE_CLIENT_RECOVERY,	"client_recovery" },	\
		{ SCOUTFS_FENCE_CLIENT_RECONNECT,	"client_reconnect" },	\
		{ SCOUTFS_FENCE_QUORUM_BLOCK_LEADER,	"quorum_block_leader" })

TRACE_DEFINE_ENUM(SCOUTFS_FENCE_CLIENT_RECOVERY);
TRACE_DEFINE_ENUM(SCOUTFS_FENCE_CLIENT_RECONNECT);
TRACE_DEFINE_ENUM(SCOUTFS_FENCE_QUORUM_BLOCK_LEADER);

/* start listed a request, whose directory is complete. */
TRACE_EVENT(scoutfs_fence_start,
	TP_PROTO(const char *mount, u64 rid, const u8 *addr, size_t addr_len, int reason),
	TP_ARGS(mount, rid, addr, addr_len, reason),

	TP_STRUCT__entry(
		__array(char, mount, SCOUTFS_FENCE_TRACE_LABEL)
		__field(u64, rid)
		__array(unsigned char, addr, sizeof(struct sockaddr_in6))
		__field(int, reason)
	),

	TP_fast_assign(
		struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)__entry->addr;
		struct sockaddr_in *in = (struct sockaddr_in *)__entry->addr;

		strscpy(__entry->mount, mount, SCOUTFS_FENCE_TRACE_LABEL);
		__entry->rid = rid;
		memset(__entry->addr, 0, sizeof(struct sockaddr_in6));
		if (addr_len == sizeof(in->sin_addr)) {
			in->sin_family = AF_INET;
			memcpy(&in->sin_addr, addr, sizeof(in->sin_addr));
		} else {
			in6->sin6_family = AF_INET6;
			memcpy(&in6->sin6_addr, addr, sizeof(in6->sin6_addr));
		}
		__entry->reason = reason;
	),

	TP_printk("%s rid %016llx addr %pISc reason %d (%s)", __entry->mount, __entry->rid,
		  __entry->addr, __entry->reason, show_scoutfs_fence_reason(__entry->reason))
);

/* start found the rid listed, and added @reason to that request. */
TRACE_EVENT(scoutfs_fence_duplicate,
	TP_PROTO(const char *mount, u64 rid, int reason),
	TP_ARGS(mount, rid, reason),

	TP_STRUCT__entry(
		__array(char, mount, SCOUTFS_FENCE_TRACE_LABEL)
		__field(u64, rid)
		__field(int, reason)
	),

	TP_fast_assign(
		strscpy(__entry->mount, mount, SCOUTFS_FENCE_TRACE_LABEL);
		__entry->rid = rid;
		__entry->reason = reason;
	),

	TP_printk("%s rid %016llx reason %d (%s)", __entry->mount, __entry->rid,
		  __entry->reason, show_scoutfs_fence_reason(__entry->reason))
);

DECLARE_EVENT_CLASS(scoutfs_fence_request,
	TP_PROTO(const char *mount, u64 rid),
	TP_ARGS(mount, rid),

	TP_STRUCT__entry(
		__array(char, mount, SCOUTFS_FENCE_TRACE_LABEL)
		__field(u64, rid)
	),

	TP_fast_assign(
		strscpy(__entry->mount, mount, SCOUTFS_FENCE_TRACE_LABEL);
		__entry->rid = rid;
	),

	TP_printk("%s rid %016llx", __entry->mount, __entry->rid)
);

/* The agent wrote to fenced. */
DEFINE_EVENT(scoutfs_fence_request, scoutfs_fence_fenced,
	TP_PROTO(const char *mount, u64 rid),
	TP_ARGS(mount, rid)
);

/* free removed a request. */
DEFINE_EVENT(scoutfs_fence_request, scoutfs_fence_freed,
	TP_PROTO(const char *mount, u64 rid),
	TP_ARGS(mount, rid)
);

/* stop or destroy dropped a request. */
DEFINE_EVENT(scoutfs_fence_request, scoutfs_fence_dropped,
	TP_PROTO(const char *mount, u64 rid),
	TP_ARGS(mount, rid)
);

/* The agent wrote to error, or the timeout expired. */
TRACE_EVENT(scoutfs_fence_failed,
	TP_PROTO(const char *mount, u64 rid, bool timed_out),
	TP_ARGS(mount, rid, timed_out),

	TP_STRUCT__entry(
		__array(char, mount, SCOUTFS_FENCE_TRACE_LABEL)
		__field(u64, rid)
		__field(bool, timed_out)
	),

	TP_fast_assign(
		strscpy(__entry->mount, mount, SCOUTFS_FENCE_TRACE_LABEL);
		__entry->rid = rid;
		__entry->timed_out = timed_out;
	),

	TP_printk("%s rid %016llx why %s", __entry->mount, __entry->rid,
		  __entry->timed_out ? "timed_out" : "indicated")
);

/* wait_fenced or wait_next (@next) begins.  @timeout is in jiffies. */
TRACE_EVENT(scoutfs_fence_wait_begin,
	TP_PROTO(const char *mount, bool next, unsigned long timeout),
	TP_ARGS(mount, next, timeout),

	TP_STRUCT__entry(
		__array(char, mount, SCOUTFS_FENCE_TRACE_LABEL)
		__field(bool, next)
		__field(unsigned long, timeout)
	),

	TP_fast_assign(
		strscpy(__entry->mount, mount, SCOUTFS_FENCE_TRACE_LABEL);
		__entry->next = next;
		__entry->timeout = timeout;
	),

	TP_printk("%s wait_%s timeout %lu", __entry->mount, __entry->next ? "next" : "fenced",
		  __entry->timeout)
);

/* It returns @result. */
TRACE_EVENT(scoutfs_fence_wait_end,
	TP_PROTO(const char *mount, bool next, long result),
	TP_ARGS(mount, next, result),

	TP_STRUCT__entry(
		__array(char, mount, SCOUTFS_FENCE_TRACE_LABEL)
		__field(bool, next)
		__field(long, result)
	),

	TP_fast_assign(
		strscpy(__entry->mount, mount, SCOUTFS_FENCE_TRACE_LABEL);
		__entry->next = next;
		__entry->result = result;
	),

	TP_printk("%s wait_%s result %ld", __entry->mount, __entry->next ? "next" : "fenced",
		  __entry->result)
);

#endif /* _SCOUTFS_FENCE_TRACE_H_ */

/* Kbuild puts src/ on the include path of glue.c. */
#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
