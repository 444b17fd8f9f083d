/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The C interface of scoutfs_fence: a filesystem asks for other mounts of its
 * cluster to be fenced and learns what came of it.
 *
 * A superblock is only ever an identity here; nothing behind the pointer but
 * its device number is looked at.  Every function that returns an int returns
 * -EINVAL for a null pointer and, with a line in the log, -ENODEV for a
 * superblock that is not set up.  All are for tasks, none for interrupts.
 */
#ifndef _SCOUTFS_FENCE_H_
#define _SCOUTFS_FENCE_H_

#include <linux/socket.h>
#include <linux/types.h>

struct kobject;
struct super_block;

/* Why a mount is to be fenced.  Other values are taken, and shown as unknown. */
enum {
	SCOUTFS_FENCE_CLIENT_RECOVERY,
	SCOUTFS_FENCE_CLIENT_RECONNECT,
	SCOUTFS_FENCE_QUORUM_BLOCK_LEADER,
};

/*
 * Asks for the mount @rid, last seen at @ipv4_addr, to be fenced.  Returns 0
 * once the request's directory is visible.  A rid that is listed already stays
 * one request, which then carries both reasons.  -ENOMEM.  May sleep, and
 * does not recurse into the filesystem.
 */
int scoutfs_fence_start(struct super_block *sb, u64 rid, __be32 ipv4_addr, int reason);

/*
 * The same for a mount last seen at @addr, of the family AF_INET or AF_INET6;
 * -EAFNOSUPPORT for others.  The port is not looked at.
 */
int scoutfs_fence_start_addr(struct super_block *sb, u64 rid,
			     const struct sockaddr_storage *addr, int reason);

/*
 * Tells the oldest finished request, which stays listed until it is freed:
 * its rid, its first reason, and whether fencing failed.  -ENOENT where none
 * is finished.  Never sleeps.
 */
int scoutfs_fence_next(struct super_block *sb, u64 *rid, int *reason, bool *error);

/*
 * Waits, uninterruptibly, until scoutfs_fence_next would tell a request: the
 * jiffies that were left then, at least 1.  0 where the time was over, and
 * -ESHUTDOWN where stop or destroy comes meanwhile: a caller who has something
 * else to do between two calls knows by itself whether it was stopped then.  A
 * timeout of 0 only looks, a negative one is -EINVAL.
 */
long scoutfs_fence_wait_next(struct super_block *sb, long timeout_jiffies);

/*
 * True where no request is listed any more: all were freed, not only fenced.
 * @error tells whether a listed request has failed.  For a superblock that is
 * not set up, false with @error.  Never sleeps.
 */
bool scoutfs_fence_drained(struct super_block *sb, bool *error);

/* 1 where any listed request, finished or not, carries @reason, else 0.  Never sleeps. */
int scoutfs_fence_reason_pending(struct super_block *sb, int reason);

/* Takes the request for @rid off the list, and its directory away.  -ENOENT.  May sleep. */
int scoutfs_fence_free(struct super_block *sb, u64 rid);

/*
 * Waits, uninterruptibly, until every listed request is fenced: 0, at once
 * where there is none.  -EIO as soon as one failed, -ETIMEDOUT,
 * -ESHUTDOWN where the requests were dropped by stop or destroy.  A timeout of
 * 0 only looks, a negative one is -EINVAL.
 */
int scoutfs_fence_wait_fenced(struct super_block *sb, long timeout_jiffies);

/*
 * Makes the mount's directory.  Once for each mount, before any other call:
 * -EBUSY where @sb is set up already.  -ENOMEM.  May sleep.
 */
int scoutfs_fence_setup(struct super_block *sb);

/*
 * The same for a mount whose directory, @parent, the filesystem has made: the
 * requests are shown in fence/ below it.  A reference to the parent is held until the
 * mount is destroyed.  -EBUSY also where the parent is another mount's.
 */
int scoutfs_fence_setup_under(struct super_block *sb, struct kobject *parent);

/*
 * A filesystem that is compiled with -DSCOUTFS_FENCE_PARENT=function, a
 * function of its own that tells a superblock's directory, gets its requests there
 * from a plain scoutfs_fence_setup(sb).
 */
#ifdef SCOUTFS_FENCE_PARENT
struct kobject *SCOUTFS_FENCE_PARENT(struct super_block *sb);

static inline int scoutfs_fence_setup_in_parent(struct super_block *sb)
{
	return scoutfs_fence_setup_under(sb, SCOUTFS_FENCE_PARENT(sb));
}

#define scoutfs_fence_setup scoutfs_fence_setup_in_parent
#endif

/* The leader steps down: drops every request.  The mount may lead again later.  May sleep. */
void scoutfs_fence_stop(struct super_block *sb);

/*
 * Stops, and takes the mount's directory away.  Harmless for a superblock
 * whose setup failed or never ran.  May sleep.
 */
void scoutfs_fence_destroy(struct super_block *sb);

#endif
