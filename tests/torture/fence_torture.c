// SPDX-License-Identifier: GPL-2.0-only
/*
 * Calls every function of fence.h from many threads at once while it is
 * loaded, and reports wrong answers.
 *
 * The module uses a superblock only as an identity, so those here are just
 * memory with a device number.
 *
 * A judged mount has one request at a time, whose ending is decided before
 * the request is made: a judge waits for it with wait_fenced, a witness with
 * wait_next, and a partner frees, stops or destroys.  Nothing else happens on
 * that mount, so a lost wake-up leaves a waiter asleep.
 *
 * On the busy mounts anything can happen at any time, and the counts must add
 * up: each started request ends in exactly one way.
 *
 * The first digit of a rid encodes what agents may write: f fenced, e error,
 * a both, 0 nothing.
 */

#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/jiffies.h>
#include <linux/kdev_t.h>
#include <linux/kobject.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/random.h>
#include <linux/sched.h>

#include "fence.h"

#undef pr_fmt
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#define JUDGED		2
#define BUSY		2
#define MOUNTS		(JUDGED + BUSY)
#define LEADERS		2
#define WAITERS		2
#define SLOTS		6
#define THREADS		64
#define MAJOR_NR	511

/* A waiter that sleeps this long has missed a wake-up.  Shorter than the hung task timeout. */
#define PATIENCE	(12 * HZ)
/* The shortest timeout of requests, minus tolerance for ticks and rounding. */
#define LATE		msecs_to_jiffies(90)

enum may { NOTHING = 0x0, ANYTHING = 0xa, FAIL = 0xe, FENCE = 0xf };

enum ending { BY_FENCED, BY_ERROR, BY_TIMEOUT, BY_FREE, BY_STOP, BY_DESTROY, ENDINGS };

enum stage { COMES, WAITS_NOW, WAS_TOLD };

enum count { STARTED, FENCED, FAILED, UNANSWERED, DROPPED, JUDGEMENTS, WAITS, STOPS, DESTROYS,
	     WRONG, COUNTS };

static const char * const count_names[COUNTS] = {
	"started", "fenced", "failed", "unanswered", "dropped", "judgements", "waits", "stops",
	"destroys", "wrong",
};

struct torture_mount {
	int nr;
	struct super_block sb;
	/* NULL if the module's own directory is used. */
	struct kobject *parent;

	/* The current round of a judged mount. */
	enum ending ending;
	u64 rid;
	unsigned long since;
	/* The partner acts only once judge and witness wait. */
	bool sure;
	struct task_struct *judge;
	struct task_struct *witness;
	enum stage judge_stage;
	enum stage witness_stage;
	struct completion witness_go;
	struct completion witness_done;
	struct completion partner_go;
	struct completion partner_done;
};

static struct torture_mount mounts[MOUNTS];
static struct kobject *parents;
static struct task_struct *threads[THREADS];
static int nr_threads;
static atomic64_t counts[COUNTS];
static atomic64_t last_rid;

static void count(enum count which)
{
	atomic64_inc(&counts[which]);
}

#define wrong(fmt, ...)						\
do {								\
	count(WRONG);						\
	pr_err("wrong: " fmt "\n", ##__VA_ARGS__);		\
} while (0)

static u64 new_rid(enum may may)
{
	return (u64)may << 60 | atomic64_inc_return(&last_rid);
}

static enum may may_of(u64 rid)
{
	return rid >> 60;
}

static unsigned long begin_wait(void)
{
	count(WAITS);
	return jiffies;
}

static void end_wait(struct torture_mount *mount, const char *function, unsigned long begin,
		     unsigned long timeout)
{
	if (jiffies - begin >= timeout + PATIENCE)
		wrong("mount %d: %s was left asleep for %u ms", mount->nr, function,
		      jiffies_to_msecs(jiffies - begin));
}

static int set_up(struct torture_mount *mount)
{
	if (mount->parent)
		return scoutfs_fence_setup_under(&mount->sb, mount->parent);

	return scoutfs_fence_setup(&mount->sb);
}

static int start(struct torture_mount *mount, u64 rid)
{
	struct sockaddr_storage addr = { .ss_family = AF_INET6 };
	int reason = get_random_u32_below(4);
	int ret;

	if (get_random_u32_below(2))
		ret = scoutfs_fence_start(&mount->sb, rid, cpu_to_be32(rid), reason);
	else
		ret = scoutfs_fence_start_addr(&mount->sb, rid, &addr, reason);
	if (!ret)
		count(STARTED);

	return ret;
}

static void destroy_and_set_up(struct torture_mount *mount)
{
	int ret;

	count(DESTROYS);
	scoutfs_fence_destroy(&mount->sb);
	if (get_random_u32_below(2))
		usleep_range(0, 2000);
	ret = set_up(mount);
	if (ret)
		wrong("mount %d: setup after destroy returned %d", mount->nr, ret);
}

/* Judged mounts. */

static bool is_late(struct torture_mount *mount)
{
	return jiffies - mount->since >= LATE;
}

static bool by_partner(enum ending ending)
{
	return ending >= BY_FREE;
}

/* If the request fails before both wait, they return: that counts too. */
static bool is_asleep(struct task_struct *task, enum stage *stage)
{
	return READ_ONCE(*stage) == WAS_TOLD ||
	       (READ_ONCE(*stage) == WAITS_NOW &&
		READ_ONCE(task->__state) & TASK_UNINTERRUPTIBLE);
}

static int partner(void *data)
{
	struct torture_mount *mount = data;
	int ret;

	while (!kthread_should_stop()) {
		if (!wait_for_completion_timeout(&mount->partner_go, HZ / 10))
			continue;

		if (!mount->sure)
			usleep_range(0, get_random_u32_below(5000) + 1);
		while (mount->sure && !(is_asleep(mount->judge, &mount->judge_stage) &&
					is_asleep(mount->witness, &mount->witness_stage)))
			usleep_range(100, 500);

		if (mount->ending == BY_FREE) {
			ret = scoutfs_fence_free(&mount->sb, mount->rid);
			if (ret)
				wrong("free of %016llx returned %d", mount->rid, ret);
			count(UNANSWERED);
		} else if (mount->ending == BY_STOP) {
			count(STOPS);
			scoutfs_fence_stop(&mount->sb);
		} else {
			destroy_and_set_up(mount);
		}
		complete(&mount->partner_done);
	}

	return 0;
}

/* Valid results of a wait whose request is dropped; a late waiter finds no request. */
static bool dropped_is_right(struct torture_mount *mount, long ret)
{
	switch (mount->ending) {
	case BY_STOP:
		return ret == -ESHUTDOWN || (!mount->sure && ret == 0);
	case BY_DESTROY:
		return ret == -ESHUTDOWN || (!mount->sure && (ret == 0 || ret == -ENODEV));
	default:
		return false;
	}
}

/* Valid results of wait_next for this ending. */
static bool witness_is_right(struct torture_mount *mount, long ret)
{
	/* The request finished before the partner acted. */
	if (ret > 0)
		return mount->ending <= BY_ERROR || is_late(mount);

	return mount->ending == BY_FREE ? ret == 0 : dropped_is_right(mount, ret);
}

static int witness(void *data)
{
	struct torture_mount *mount = data;
	unsigned long begin;
	long timeout;
	long ret;

	while (!kthread_should_stop()) {
		if (!wait_for_completion_timeout(&mount->witness_go, HZ / 10))
			continue;

		/* A free does not end this wait, nor does anything that happened before it. */
		timeout = PATIENCE;
		if (mount->ending == BY_FREE || (by_partner(mount->ending) && !mount->sure))
			timeout = HZ / 20;
		begin = begin_wait();
		WRITE_ONCE(mount->witness_stage, WAITS_NOW);
		ret = scoutfs_fence_wait_next(&mount->sb, timeout);
		WRITE_ONCE(mount->witness_stage, WAS_TOLD);
		end_wait(mount, "wait_next", begin, timeout == PATIENCE ? 0 : timeout);
		if (!witness_is_right(mount, ret))
			wrong("mount %d: wait_next returned %ld for %016llx, which ends by %d%s",
			      mount->nr, ret, mount->rid, mount->ending,
			      mount->sure ? " when all wait" : "");
		complete(&mount->witness_done);
	}

	return 0;
}

/* Valid results of wait_fenced for this ending. */
static bool answer_is_right(struct torture_mount *mount, int ret)
{
	/* Failed or timed out. */
	if (ret == -EIO)
		return mount->ending == BY_ERROR || is_late(mount);

	switch (mount->ending) {
	case BY_FENCED:
	case BY_FREE:
		return ret == 0;
	default:
		return dropped_is_right(mount, ret);
	}
}

/* Checks that the finished request is still listed and that next agrees with the wait. */
static void judge_finished(struct torture_mount *mount, int waited)
{
	int reason;
	bool error;
	u64 rid;
	int ret;

	ret = scoutfs_fence_next(&mount->sb, &rid, &reason, &error);
	if (ret || rid != mount->rid || error != !!waited)
		wrong("mount %d: next is %d, %016llx, %d after wait_fenced returned %d for %016llx",
		      mount->nr, ret, rid, error, waited, mount->rid);
	if (scoutfs_fence_drained(&mount->sb, &error) || error != !!waited)
		wrong("mount %d: drained knows nothing of %016llx", mount->nr, mount->rid);
	ret = scoutfs_fence_free(&mount->sb, mount->rid);
	if (ret)
		wrong("mount %d: free of %016llx returned %d", mount->nr, mount->rid, ret);
	count(waited ? FAILED : FENCED);
}

static void judge_gone(struct torture_mount *mount)
{
	bool error;
	int ret;

	ret = scoutfs_fence_free(&mount->sb, mount->rid);
	if (ret != -ENOENT)
		wrong("mount %d: free of %016llx, which had gone, returned %d", mount->nr,
		      mount->rid, ret);
	if (!scoutfs_fence_drained(&mount->sb, &error) || error)
		wrong("mount %d: not drained after %016llx has gone", mount->nr, mount->rid);
	if (mount->ending != BY_FREE)
		count(DROPPED);
}

static void judge_once(struct torture_mount *mount)
{
	static const enum may may[ENDINGS] = { [BY_FENCED] = FENCE, [BY_ERROR] = FAIL };
	unsigned long begin;
	int ret;

	count(JUDGEMENTS);
	mount->ending = get_random_u32_below(ENDINGS);
	mount->sure = get_random_u32_below(2) && mount->ending != BY_FREE;
	mount->rid = new_rid(may[mount->ending]);
	mount->judge_stage = COMES;
	mount->witness_stage = COMES;
	mount->since = jiffies;
	ret = start(mount, mount->rid);
	if (ret) {
		wrong("mount %d: start of %016llx returned %d", mount->nr, mount->rid, ret);
		return;
	}
	ret = scoutfs_fence_start(&mount->sb, mount->rid, 0, 7);
	if (ret || scoutfs_fence_reason_pending(&mount->sb, 7) != 1)
		wrong("mount %d: %016llx does not take a second reason", mount->nr, mount->rid);

	complete(&mount->witness_go);
	if (by_partner(mount->ending))
		complete(&mount->partner_go);
	begin = begin_wait();
	WRITE_ONCE(mount->judge_stage, WAITS_NOW);
	ret = scoutfs_fence_wait_fenced(&mount->sb, PATIENCE);
	WRITE_ONCE(mount->judge_stage, WAS_TOLD);
	end_wait(mount, "wait_fenced", begin, 0);
	if (!answer_is_right(mount, ret))
		wrong("mount %d: wait_fenced returned %d for %016llx, which ends by %d%s",
		      mount->nr, ret, mount->rid, mount->ending,
		      mount->sure ? " when all wait" : "");

	wait_for_completion(&mount->witness_done);
	if (by_partner(mount->ending)) {
		wait_for_completion(&mount->partner_done);
		judge_gone(mount);
	} else {
		judge_finished(mount, ret);
	}
}

static int judge(void *data)
{
	while (!kthread_should_stop()) {
		judge_once(data);
		usleep_range(0, get_random_u32_below(3000) + 1);
	}

	return 0;
}

/* Busy mounts. */

struct leader {
	struct torture_mount *mount;
	u64 rids[SLOTS];
};

/* Frees the request unless it was dropped. */
static void end_slot(struct leader *leader, int slot, enum count how)
{
	u64 rid = leader->rids[slot];
	int ret;

	if (!rid)
		return;
	ret = scoutfs_fence_free(&leader->mount->sb, rid);
	if (ret && ret != -ENOENT && ret != -ENODEV)
		wrong("mount %d: free of %016llx returned %d", leader->mount->nr, rid, ret);
	count(ret ? DROPPED : how);
	leader->rids[slot] = 0;
}

static void lead_on(struct leader *leader)
{
	struct torture_mount *mount = leader->mount;
	int reason;
	bool error;
	u64 rid;
	int ret;

	ret = scoutfs_fence_next(&mount->sb, &rid, &reason, &error);
	if (ret) {
		if (ret != -ENOENT && ret != -ENODEV)
			wrong("mount %d: next returned %d", mount->nr, ret);
		return;
	}
	if (!error && may_of(rid) != ANYTHING && may_of(rid) != FENCE)
		wrong("mount %d: %016llx is fenced, and no agent fenced it", mount->nr, rid);
	for (int slot = 0; slot < SLOTS; slot++) {
		if (leader->rids[slot] == rid)
			end_slot(leader, slot, error ? FAILED : FENCED);
	}
}

static int lead(void *data)
{
	static const enum may may[] = { ANYTHING, ANYTHING, FENCE, FAIL, NOTHING };
	struct leader leader = { .mount = data };
	int slot;
	u64 rid;
	int ret;

	while (!kthread_should_stop()) {
		slot = get_random_u32_below(SLOTS);
		if (!leader.rids[slot]) {
			rid = new_rid(may[get_random_u32_below(ARRAY_SIZE(may))]);
			ret = start(leader.mount, rid);
			if (!ret)
				leader.rids[slot] = rid;
			else if (ret != -ENODEV)
				wrong("mount %d: start returned %d", leader.mount->nr, ret);
		} else if (!get_random_u32_below(8)) {
			end_slot(&leader, slot, UNANSWERED);
		} else {
			scoutfs_fence_wait_next(&leader.mount->sb, get_random_u32_below(HZ / 50));
			lead_on(&leader);
		}
		usleep_range(0, get_random_u32_below(3000) + 1);
	}
	for (slot = 0; slot < SLOTS; slot++)
		end_slot(&leader, slot, UNANSWERED);

	return 0;
}

static int wait_at_random(void *data)
{
	struct torture_mount *mount = data;
	unsigned long begin;
	long timeout;
	bool error;
	long ret;

	while (!kthread_should_stop()) {
		timeout = get_random_u32_below(3) ? get_random_u32_below(HZ / 4) : PATIENCE;
		begin = begin_wait();
		if (get_random_u32_below(2)) {
			ret = scoutfs_fence_wait_fenced(&mount->sb, timeout);
			if (ret && ret != -EIO && ret != -ETIMEDOUT && ret != -ESHUTDOWN &&
			    ret != -ENODEV)
				wrong("mount %d: wait_fenced returned %ld", mount->nr, ret);
		} else {
			ret = scoutfs_fence_wait_next(&mount->sb, timeout);
			if (ret > max(1, timeout) ||
			    (ret < 0 && ret != -ESHUTDOWN && ret != -ENODEV))
				wrong("mount %d: wait_next returned %ld", mount->nr, ret);
		}
		end_wait(mount, "a wait", begin, timeout);
		scoutfs_fence_drained(&mount->sb, &error);
		scoutfs_fence_reason_pending(&mount->sb, get_random_u32_below(4));
		usleep_range(0, get_random_u32_below(3000) + 1);
	}

	return 0;
}

static int step_down(void *data)
{
	struct torture_mount *mount = data;

	while (!kthread_should_stop()) {
		usleep_range(1000, get_random_u32_below(200000) + 1001);
		if (get_random_u32_below(3)) {
			count(STOPS);
			scoutfs_fence_stop(&mount->sb);
		} else {
			destroy_and_set_up(mount);
		}
	}

	return 0;
}

static int run(int (*function)(void *), struct torture_mount *mount, const char *name)
{
	struct task_struct *task;

	task = kthread_create(function, mount, "torture_%s/%d", name, mount->nr);
	if (IS_ERR(task))
		return PTR_ERR(task);
	threads[nr_threads++] = task;
	return 0;
}

static int make_mount(struct torture_mount *mount, int nr)
{
	char name[4];

	mount->nr = nr;
	init_completion(&mount->witness_go);
	init_completion(&mount->witness_done);
	init_completion(&mount->partner_go);
	init_completion(&mount->partner_done);
	mount->sb.s_dev = MKDEV(MAJOR_NR, nr);
	if (nr % 2) {
		snprintf(name, sizeof(name), "%d", nr);
		mount->parent = kobject_create_and_add(name, parents);
		if (!mount->parent)
			return -ENOMEM;
	}

	return set_up(mount);
}

/* Threads are stopped in this order: none may wait for a thread that has ended. */
static int make_threads(void)
{
	int ret = 0;

	for (int i = 0; i < JUDGED && !ret; i++) {
		ret = run(judge, &mounts[i], "judge");
		if (!ret)
			mounts[i].judge = threads[nr_threads - 1];
	}
	for (int i = 0; i < JUDGED && !ret; i++) {
		ret = run(witness, &mounts[i], "witness");
		if (!ret)
			mounts[i].witness = threads[nr_threads - 1];
		if (!ret)
			ret = run(partner, &mounts[i], "partner");
	}
	for (int i = JUDGED; i < MOUNTS && !ret; i++) {
		for (int nr = 0; nr < LEADERS && !ret; nr++)
			ret = run(lead, &mounts[i], "leader");
		for (int nr = 0; nr < WAITERS && !ret; nr++)
			ret = run(wait_at_random, &mounts[i], "waiter");
		if (!ret)
			ret = run(step_down, &mounts[i], "stopper");
	}

	return ret;
}

static void fence_torture_exit(void)
{
	for (int i = 0; i < nr_threads; i++)
		kthread_stop(threads[i]);
	for (int i = 0; i < MOUNTS; i++) {
		scoutfs_fence_destroy(&mounts[i].sb);
		kobject_put(mounts[i].parent);
	}
	kobject_put(parents);
	for (int i = 0; i < COUNTS; i++)
		pr_info("%s %lld\n", count_names[i], atomic64_read(&counts[i]));
}

static int fence_torture_init(void)
{
	int ret = 0;

	/* Keeps rids unique across reloads. */
	atomic64_set(&last_rid, ktime_get_ns() & GENMASK_ULL(59, 0));
	parents = kobject_create_and_add("fence_torture", kernel_kobj);
	if (!parents)
		return -ENOMEM;
	for (int i = 0; i < MOUNTS && !ret; i++)
		ret = make_mount(&mounts[i], i);
	if (!ret)
		ret = make_threads();
	if (ret) {
		fence_torture_exit();
		return ret;
	}
	for (int i = 0; i < nr_threads; i++)
		wake_up_process(threads[i]);

	return 0;
}

module_init(fence_torture_init);
module_exit(fence_torture_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Calls the functions of scoutfs_fence from many threads at once");
