// SPDX-License-Identifier: GPL-2.0-only
/*
 * The elected leader of a cluster, as in scoutfs: it has previous leaders
 * fenced before it begins, has clients fenced that do not return, and
 * reclaims what they held.
 *
 * A mount's address is 10.0.0.N, where N is the last byte of its rid.
 */

#include <linux/kstrtox.h>
#include <linux/limits.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/workqueue.h>
#include <asm/byteorder.h>

#include "fence.h"
#include "leader.h"

#define MAX_RIDS	16

static uint election_ms = 15000;
module_param(election_ms, uint, 0644);
MODULE_PARM_DESC(election_ms, "milliseconds that previous leaders may take to be fenced");

static uint reclaim_ms = 1000;
module_param(reclaim_ms, uint, 0644);
MODULE_PARM_DESC(reclaim_ms, "milliseconds from one look for fenced mounts to the next");

static bool wait_next;
module_param(wait_next, bool, 0644);
MODULE_PARM_DESC(wait_next, "sleep in scoutfs_fence_wait_next instead");

enum leader_state { FOLLOWING, ELECTING, LEADING, STOPPING };

struct fence_test_leader {
	struct super_block *sb;
	/* Serializes elections. */
	struct mutex election;
	struct delayed_work reclaim;
	struct delayed_work recovery;
	struct work_struct shutdown;

	/* Protects the fields below.  Work is queued with it held, and only while leading. */
	spinlock_t lock;
	enum leader_state state;
	/* Why the leader was shut down. */
	int error;
	int reclaimed;
	/* The clients that have not returned yet. */
	u64 rids[MAX_RIDS];
	int nr_rids;
};

static struct workqueue_struct *leader_queue;

static int parse_rids(char *text, u64 *rids)
{
	char *word;
	int nr = 0;

	if (!strcmp(text, "-"))
		return 0;

	while ((word = strsep(&text, ","))) {
		if (nr == MAX_RIDS || kstrtou64(word, 16, &rids[nr]))
			return -EINVAL;
		nr++;
	}

	return nr;
}

static int start_each(struct super_block *sb, const u64 *rids, int nr, int reason)
{
	int ret = 0;

	for (int i = 0; i < nr && !ret; i++)
		ret = scoutfs_fence_start(sb, rids[i], cpu_to_be32(0x0a000000 | (rids[i] & 0xff)),
					  reason);

	return ret;
}

static bool queue_while_leading(struct fence_test_leader *leader, struct delayed_work *work,
				uint milliseconds)
{
	bool leading;

	spin_lock(&leader->lock);
	leading = leader->state == LEADING;
	if (leading)
		mod_delayed_work(leader_queue, work, msecs_to_jiffies(milliseconds));
	spin_unlock(&leader->lock);

	return leading;
}

/* Cannot wait for the shutdown, as workers that the shutdown waits for may call this. */
static void shut_down(struct fence_test_leader *leader, int error)
{
	spin_lock(&leader->lock);
	if (leader->state == LEADING || leader->state == ELECTING) {
		leader->state = STOPPING;
		leader->error = error;
		queue_work(leader_queue, &leader->shutdown);
	}
	spin_unlock(&leader->lock);
}

static void shutdown_worker(struct work_struct *work)
{
	struct fence_test_leader *leader = container_of(work, struct fence_test_leader, shutdown);

	/* The first stop wakes the waiters, the second drops requests started meanwhile. */
	scoutfs_fence_stop(leader->sb);
	cancel_delayed_work_sync(&leader->reclaim);
	cancel_delayed_work_sync(&leader->recovery);
	scoutfs_fence_stop(leader->sb);

	spin_lock(&leader->lock);
	leader->state = FOLLOWING;
	spin_unlock(&leader->lock);
}

/* Frees the oldest request if it is fenced; there is nothing else to reclaim here. */
static int reclaim_next(struct fence_test_leader *leader)
{
	int reason;
	bool error;
	u64 rid;
	int ret;

	ret = scoutfs_fence_next(leader->sb, &rid, &reason, &error);
	if (!ret && error)
		ret = -EIO;
	if (!ret)
		ret = scoutfs_fence_free(leader->sb, rid);
	if (ret)
		return ret;

	spin_lock(&leader->lock);
	leader->reclaimed++;
	spin_unlock(&leader->lock);
	return 0;
}

static void reclaim_worker(struct work_struct *work)
{
	struct fence_test_leader *leader = container_of(to_delayed_work(work),
							struct fence_test_leader, reclaim);
	uint delay = READ_ONCE(reclaim_ms);
	long ret = 0;

	if (READ_ONCE(wait_next)) {
		ret = scoutfs_fence_wait_next(leader->sb, msecs_to_jiffies(delay));
		delay = 0;
	}
	if (ret >= 0)
		ret = reclaim_next(leader);

	if (ret && ret != -ENOENT)
		shut_down(leader, ret);
	else
		queue_while_leading(leader, &leader->reclaim, ret ? delay : 0);
}

/* Some requests may already exist for another reason. */
static void recovery_worker(struct work_struct *work)
{
	struct fence_test_leader *leader = container_of(to_delayed_work(work),
							struct fence_test_leader, recovery);
	u64 rids[MAX_RIDS];
	int ret;
	int nr;

	spin_lock(&leader->lock);
	nr = leader->nr_rids;
	memcpy(rids, leader->rids, sizeof(rids));
	spin_unlock(&leader->lock);

	ret = start_each(leader->sb, rids, nr, SCOUTFS_FENCE_CLIENT_RECOVERY);
	if (ret)
		shut_down(leader, ret);
}

static int elect(struct fence_test_leader *leader, const u64 *rids, int nr)
{
	int ret;

	spin_lock(&leader->lock);
	ret = leader->state == FOLLOWING ? 0 : -EBUSY;
	if (!ret) {
		leader->state = ELECTING;
		leader->error = 0;
		leader->reclaimed = 0;
	}
	spin_unlock(&leader->lock);
	if (ret)
		return ret;

	ret = start_each(leader->sb, rids, nr, SCOUTFS_FENCE_QUORUM_BLOCK_LEADER) ?:
	      scoutfs_fence_wait_fenced(leader->sb, msecs_to_jiffies(READ_ONCE(election_ms)));

	spin_lock(&leader->lock);
	if (leader->state != ELECTING) {
		/* All were fenced, but the leader stepped down before it led. */
		ret = ret ?: -ECANCELED;
	} else if (ret) {
		leader->state = FOLLOWING;
		leader->error = ret;
	} else {
		leader->state = LEADING;
	}
	spin_unlock(&leader->lock);

	if (ret)
		scoutfs_fence_stop(leader->sb);
	else
		queue_while_leading(leader, &leader->reclaim, 0);
	return ret;
}

int fence_test_leader_elect(struct fence_test_leader *leader, char *rids)
{
	u64 previous[MAX_RIDS];
	int ret;
	int nr;

	nr = parse_rids(rids, previous);
	if (nr < 0)
		return nr;

	mutex_lock(&leader->election);
	flush_work(&leader->shutdown);
	ret = elect(leader, previous, nr);
	mutex_unlock(&leader->election);
	return ret;
}

int fence_test_leader_recover(struct fence_test_leader *leader, int milliseconds, char *rids)
{
	u64 clients[MAX_RIDS];
	int nr;

	nr = parse_rids(rids, clients);
	if (nr < 0)
		return nr;

	spin_lock(&leader->lock);
	memcpy(leader->rids, clients, sizeof(clients));
	leader->nr_rids = nr;
	spin_unlock(&leader->lock);
	return queue_while_leading(leader, &leader->recovery, milliseconds) ? 0 : -ESHUTDOWN;
}

void fence_test_leader_step_down(struct fence_test_leader *leader)
{
	shut_down(leader, 0);
	flush_work(&leader->shutdown);
}

void fence_test_leader_show(struct fence_test_leader *leader, char *buf, size_t size)
{
	/* Waits for a shutdown in progress, so that its final state is shown. */
	flush_work(&leader->shutdown);
	spin_lock(&leader->lock);
	snprintf(buf, size, "0 leading=%d reclaimed=%d error=%d\n", leader->state == LEADING,
		 leader->reclaimed, leader->error);
	spin_unlock(&leader->lock);
}

struct fence_test_leader *fence_test_leader_new(struct super_block *sb)
{
	struct fence_test_leader *leader = kzalloc(sizeof(*leader), GFP_KERNEL);

	if (!leader)
		return ERR_PTR(-ENOMEM);

	leader->sb = sb;
	mutex_init(&leader->election);
	INIT_DELAYED_WORK(&leader->reclaim, reclaim_worker);
	INIT_DELAYED_WORK(&leader->recovery, recovery_worker);
	INIT_WORK(&leader->shutdown, shutdown_worker);
	spin_lock_init(&leader->lock);
	return leader;
}

void fence_test_leader_free(struct fence_test_leader *leader)
{
	if (!leader)
		return;

	fence_test_leader_step_down(leader);
	kfree(leader);
}

int fence_test_leader_init(void)
{
	leader_queue = alloc_workqueue("fence_test_leader", WQ_UNBOUND, 0);
	return leader_queue ? 0 : -ENOMEM;
}

void fence_test_leader_exit(void)
{
	destroy_workqueue(leader_queue);
}
