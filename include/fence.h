/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The C interface of scoutfs_fence: a filesystem requests that other mounts of
 * its cluster be fenced, and gets the results.
 *
 * A superblock is only an identity here: the module reads nothing from it except
 * for its device number.  Every function that returns an errno returns -EINVAL for
 * a null pointer and, with a rate-limited line in the log, -ENODEV for a
 * superblock that is not set up.  All are for task context.
 *
 * Only scoutfs_fence_destroy() waits for uevents and the console, and none waits
 * for another mount.
 * No function recurses into the filesystem to allocate memory.
 */
#ifndef _SCOUTFS_FENCE_H_
#define _SCOUTFS_FENCE_H_

#include <linux/socket.h>
#include <linux/types.h>

struct kobject;
struct super_block;

/* Why a mount is to be fenced.  Other values are accepted, and shown as unknown. */
enum {
	SCOUTFS_FENCE_CLIENT_RECOVERY,
	SCOUTFS_FENCE_CLIENT_RECONNECT,
	SCOUTFS_FENCE_QUORUM_BLOCK_LEADER,
};

/*
 * Requests that the mount @rid, last seen at @ipv4_addr, be fenced.  Returns 0
 * once the request's directory is visible.  If @rid is listed already, adds the
 * reason to that request.  -ENOMEM; -ENODEV also if the filesystem has removed
 * the directory that it passed.  May sleep.
 */
int scoutfs_fence_start(struct super_block *sb, u64 rid, __be32 ipv4_addr, int reason);

/*
 * The same for a mount last seen at @addr, of family AF_INET or AF_INET6;
 * -EAFNOSUPPORT for others.  The port is ignored.
 */
int scoutfs_fence_start_addr(struct super_block *sb, u64 rid,
			     const struct sockaddr_storage *addr, int reason);

/*
 * Returns the oldest finished request, which stays listed until it is freed:
 * its rid, its first reason, and whether it failed.  -ENOENT if none is
 * finished.  Never sleeps.
 */
int scoutfs_fence_next(struct super_block *sb, u64 *rid, int *reason, bool *error);

/*
 * Waits, uninterruptibly, until scoutfs_fence_next() would return a request.
 * Returns the jiffies left then, at least 1, or 0 on timeout.  -ESHUTDOWN if
 * stop or destroy is called meanwhile; a stop between two waits is not reported.
 * A timeout of 0 does not sleep, a negative one is -EINVAL.
 */
long scoutfs_fence_wait_next(struct super_block *sb, long timeout_jiffies);

/*
 * Returns true if no request is listed: all were freed, not only fenced.
 * Sets @error if a listed request has failed.  For a superblock that is not set
 * up, returns false and sets @error.  Returns false if @error is null.  Never
 * sleeps.
 */
bool scoutfs_fence_drained(struct super_block *sb, bool *error);

/*
 * Returns 1 if any listed request, finished or not, has @reason, else 0.  The
 * reasons without a name count as one.  Never sleeps.
 */
int scoutfs_fence_reason_pending(struct super_block *sb, int reason);

/* Takes the request for @rid off the list and removes its directory.  -ENOENT.  May sleep. */
int scoutfs_fence_free(struct super_block *sb, u64 rid);

/*
 * Waits, uninterruptibly, until every listed request is fenced.  Returns 0, at
 * once if none is listed; -EIO as soon as one fails; -ETIMEDOUT; -ESHUTDOWN if
 * stop or destroy drops requests meanwhile.  Requests that were dropped before the
 * call, or are freed unanswered, are not reported, and not fenced.  A timeout of 0
 * does not sleep, a negative one is -EINVAL.
 */
int scoutfs_fence_wait_fenced(struct super_block *sb, long timeout_jiffies);

/*
 * Creates the mount's directory.  Once per mount, before any other call: -EBUSY
 * if @sb is set up, or being destroyed.  -ENOMEM.  May sleep.
 */
int scoutfs_fence_setup(struct super_block *sb);

/*
 * The same for a mount whose directory, @parent, the filesystem has created: the
 * requests are in fence/ below it.  Holds a reference to @parent until the mount
 * is destroyed.  -EBUSY also if another mount has this parent.
 */
int scoutfs_fence_setup_under(struct super_block *sb, struct kobject *parent);

/*
 * For a filesystem that is compiled with -DSCOUTFS_FENCE_PARENT=function, where
 * its function returns a superblock's directory, scoutfs_fence_setup(sb) puts the
 * requests below that directory.
 */
#ifdef SCOUTFS_FENCE_PARENT
struct kobject *SCOUTFS_FENCE_PARENT(struct super_block *sb);

static inline int scoutfs_fence_setup_in_parent(struct super_block *sb)
{
	return scoutfs_fence_setup_under(sb, SCOUTFS_FENCE_PARENT(sb));
}

#define scoutfs_fence_setup scoutfs_fence_setup_in_parent
#endif

/*
 * The leader steps down: drops every request.  The mount may lead again later.
 * Waits for other calls on this mount that change its requests, and for readers
 * and writers of the requests' files.  May sleep.
 */
void scoutfs_fence_stop(struct super_block *sb);

/*
 * Stops, removes the mount's directory, and waits until the events of its
 * requests have been sent.  Harmless for a superblock whose setup failed or was
 * never called.  May sleep.
 */
void scoutfs_fence_destroy(struct super_block *sb);

#endif
