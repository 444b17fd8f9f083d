// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measures the cost of a fence request, and of its bare directory.
 *
 * Calls the eight functions of scoutfs's own fence.h for its own superblock.
 * Later functions are looked up at run time and are optional.
 *
 * A floor is a bare kobject with as many files as a request; making and
 * removing it is the minimum cost of a request.  Floors are in
 * /sys/fs/fence_bench, named like requests.  A notifying floor also sends
 * uevents and wakes pollers, as a request does.
 *
 * A program writes one command to the file fence_bench in debugfs, and then
 * reads the measurements as an array of u64: nanoseconds, or instructions on
 * a machine that counts its time in those.  The commands are in the table
 * bench_commands.
 */

#include <linux/completion.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/jiffies.h>
#include <linux/kobject.h>
#include <linux/kstrtox.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/mutex.h>
#include <linux/prandom.h>
#include <linux/pseudo_fs.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/timekeeping.h>
#include <linux/vmalloc.h>
#include <linux/wait.h>

#include "fence.h"

#define BENCH_MAGIC		0x62656e63
#define BENCH_FILES		16
#define BENCH_CAPACITY		100001
#define BENCH_VALUES		1000000
#define BENCH_WAITERS		100
#define BENCH_WORDS		3
#define BENCH_COMMAND_LENGTH	256
/* Number of calls per measurement of a function as fast as reading the clock. */
#define BENCH_CALLS		64
#define BENCH_PATIENCE		(60 * HZ)

#define BENCH_ADDRESS		htonl(0x0a000001)
/* The reason of most requests, and that of the one that finishes before the others. */
#define BENCH_REASON		SCOUTFS_FENCE_CLIENT_RECOVERY
#define BENCH_OTHER_REASON	SCOUTFS_FENCE_QUORUM_BLOCK_LEADER

static DEFINE_MUTEX(bench_mutex);
static struct rnd_state bench_random;

/* The last command's measurements. */
static u64 *bench_values;
static size_t bench_nr_values;

/* The mount with the requests, and another one. */
static struct vfsmount *bench_mount;
static struct vfsmount *bench_other_mount;

/* The parent of the requests' directories, and the number of files in each. */
static char bench_directory[128];
static unsigned int bench_nr_files;

/* The current requests and floors, in the order in which they were made. */
static u64 *bench_rids;
static size_t bench_nr_rids;
static struct kobject **bench_floors;
static size_t bench_nr_floors;

static bool (*bench_drained)(struct super_block *sb, bool *error);
static long (*bench_wait_next)(struct super_block *sb, long timeout_jiffies);

static u64 random_rid(void)
{
	return (u64)prandom_u32_state(&bench_random) << 32 | prandom_u32_state(&bench_random);
}

static struct super_block *bench_sb(void)
{
	return bench_mount->mnt_sb;
}

static int put_value(u64 value)
{
	if (bench_nr_values == BENCH_VALUES)
		return -ENOSPC;

	bench_values[bench_nr_values++] = value;
	return 0;
}

static int put_values(const u64 *values, size_t nr)
{
	int ret = 0;

	for (size_t i = 0; i < nr && !ret; i++)
		ret = put_value(values[i]);
	return ret;
}

/* The floor */

static struct kobject *bench_floor_directory;
/* Notifying floors have their own directory. */
static struct kset *bench_notifying;
static DECLARE_WAIT_QUEUE_HEAD(bench_floor_changed);
static bool bench_floor_fenced;

static ssize_t floor_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%d\n", READ_ONCE(bench_floor_fenced));
}

static void send_uevent(struct kobject *kobj, enum kobject_action action, const char *state)
{
	__be32 address = BENCH_ADDRESS;
	char variables[4][64];
	char *environment[ARRAY_SIZE(variables) + 1] = {};

	for (int i = 0; i < ARRAY_SIZE(variables); i++)
		environment[i] = variables[i];
	snprintf(variables[0], sizeof(variables[0]), "SCOUTFS_FENCE_RID=%s", kobject_name(kobj));
	snprintf(variables[1], sizeof(variables[1]), "SCOUTFS_FENCE_ADDRESS=%pI4", &address);
	snprintf(variables[2], sizeof(variables[2]), "SCOUTFS_FENCE_REASON=%s", "client_recovery");
	snprintf(variables[3], sizeof(variables[3]), "SCOUTFS_FENCE_STATE=%s", state);
	kobject_uevent_env(kobj, action, environment);
}

static void notify_added(struct kobject *kobj)
{
	send_uevent(kobj, KOBJ_ADD, "pending");
}

static void notify_fenced(struct kobject *kobj)
{
	sysfs_notify(kobj, NULL, "fenced");
	send_uevent(kobj, KOBJ_CHANGE, "fenced");
}

static ssize_t floor_store(struct kobject *kobj, struct kobj_attribute *attr, const char *buf,
			   size_t size)
{
	WRITE_ONCE(bench_floor_fenced, true);
	wake_up_all(&bench_floor_changed);
	if (kobj->kset)
		notify_fenced(kobj);
	return size;
}

static char bench_floor_names[BENCH_FILES][16] = { "fenced" };
static struct kobj_attribute bench_floor_files[BENCH_FILES];
static const struct attribute *bench_floor_attributes[BENCH_FILES + 1];

static void name_floor_files(void)
{
	for (int i = 0; i < BENCH_FILES; i++) {
		struct kobj_attribute *file = &bench_floor_files[i];

		if (i)
			snprintf(bench_floor_names[i], sizeof(bench_floor_names[i]), "value%d", i);
		sysfs_attr_init(&file->attr);
		file->attr.name = bench_floor_names[i];
		file->attr.mode = 0644;
		file->show = floor_show;
		file->store = floor_store;
	}
}

static void floor_release(struct kobject *kobj)
{
	kfree(kobj);
}

static const struct kobj_type bench_floor_type = {
	.release	= floor_release,
	.sysfs_ops	= &kobj_sysfs_ops,
};

static void floor_remove(struct kobject *kobj)
{
	kobject_del(kobj);
	kobject_put(kobj);
}

/* Makes a floor in the set, or in the common directory if there is none. */
static struct kobject *floor_make(u64 rid, struct kset *set)
{
	struct kobject *parent = set ? &set->kobj : bench_floor_directory;
	struct kobject *kobj = kzalloc(sizeof(*kobj), GFP_KERNEL);
	int ret;

	if (!kobj)
		return ERR_PTR(-ENOMEM);

	kobj->kset = set;
	ret = kobject_init_and_add(kobj, &bench_floor_type, parent, "%016llx", rid) ?:
	      sysfs_create_files(kobj, bench_floor_attributes);
	if (ret) {
		floor_remove(kobj);
		return ERR_PTR(ret);
	}

	return kobj;
}

/* Measurements of each round */

/* The start of the last write. */
static u64 bench_written;

/* Writes to a file like userspace, and measures only the write. */
static int write_true(const char *directory, u64 rid, u64 *spent)
{
	struct file *file;
	char path[192];
	loff_t pos = 0;
	ssize_t ret;

	snprintf(path, sizeof(path), "%s/%016llx/fenced", directory, rid);
	file = filp_open(path, O_WRONLY, 0);
	if (IS_ERR(file))
		return PTR_ERR(file);

	bench_written = ktime_get_ns();
	ret = kernel_write(file, "1", 1, &pos);
	*spent = ktime_get_ns() - bench_written;

	/* Close now instead of on the return to userspace. */
	__fput_sync(file);
	return ret < 0 ? ret : 0;
}

static int write_floor(u64 rid, u64 *spent)
{
	return write_true("/sys/fs/fence_bench", rid, spent);
}

static int write_notifying_floor(u64 rid, u64 *spent)
{
	return write_true("/sys/fs/fence_bench_notifying", rid, spent);
}

static int write_fenced(u64 rid, u64 *spent)
{
	return write_true(bench_directory, rid, spent);
}

/* Only this module finishes requests, so an error is unexpected. */
static int next_of(struct super_block *sb, u64 *rid)
{
	bool error;
	int reason;

	return scoutfs_fence_next(sb, rid, &reason, &error) ?: (error ? -EIO : 0);
}

static noinline int measure_floor(u64 *spent)
{
	u64 rid = random_rid();
	struct kobject *kobj;
	u64 begin;
	int ret;

	begin = ktime_get_ns();
	kobj = floor_make(rid, NULL);
	spent[0] = ktime_get_ns() - begin;
	if (IS_ERR(kobj))
		return PTR_ERR(kobj);

	ret = write_floor(rid, &spent[1]);

	begin = ktime_get_ns();
	floor_remove(kobj);
	spent[2] = ktime_get_ns() - begin;
	return ret;
}

static noinline int measure_notifying_floor(u64 *spent)
{
	u64 rid = random_rid();
	struct kobject *kobj;
	u64 begin;
	int ret;

	begin = ktime_get_ns();
	kobj = floor_make(rid, bench_notifying);
	if (IS_ERR(kobj))
		return PTR_ERR(kobj);
	notify_added(kobj);
	spent[0] = ktime_get_ns() - begin;

	ret = write_notifying_floor(rid, &spent[1]);

	begin = ktime_get_ns();
	send_uevent(kobj, KOBJ_REMOVE, "fenced");
	floor_remove(kobj);
	spent[2] = ktime_get_ns() - begin;
	return ret;
}

static noinline int measure_request(u64 *spent)
{
	struct super_block *sb = bench_sb();
	u64 rid = random_rid();
	u64 begin;
	u64 next;
	int ret;

	begin = ktime_get_ns();
	ret = scoutfs_fence_start(sb, rid, BENCH_ADDRESS, BENCH_REASON);
	spent[0] = ktime_get_ns() - begin;

	ret = ret ?: write_fenced(rid, &spent[1]);
	if (ret)
		return ret;

	begin = ktime_get_ns();
	ret = next_of(sb, &next);
	spent[2] = ktime_get_ns() - begin;
	if (ret)
		return ret;

	begin = ktime_get_ns();
	ret = scoutfs_fence_free(sb, rid);
	spent[3] = ktime_get_ns() - begin;
	return ret;
}

/* Measures BENCH_CALLS calls of a function together. */
#define MEASURE_CALLS(spent, call) do {				\
	u64 begin = ktime_get_ns();				\
								\
	for (int nr = 0; nr < BENCH_CALLS; nr++)		\
		call;						\
	*(spent) = ktime_get_ns() - begin;			\
} while (0)

static void measure_looking(u64 *spent)
{
	struct super_block *sb = bench_sb();
	bool error;
	int reason;
	u64 rid;

	MEASURE_CALLS(&spent[0], scoutfs_fence_next(sb, &rid, &reason, &error));
	MEASURE_CALLS(&spent[1], scoutfs_fence_reason_pending(sb, BENCH_OTHER_REASON));
	MEASURE_CALLS(&spent[2], scoutfs_fence_wait_fenced(sb, 0));
	spent[3] = 0;
	if (bench_drained)
		MEASURE_CALLS(&spent[3], bench_drained(sb, &error));
}

/* Sets up and destroys a mount while another one has requests. */
static int measure_mount(u64 *spent)
{
	struct super_block *sb = bench_other_mount->mnt_sb;
	u64 begin;
	int ret;

	begin = ktime_get_ns();
	ret = scoutfs_fence_setup(sb);
	spent[0] = ktime_get_ns() - begin;

	begin = ktime_get_ns();
	scoutfs_fence_stop(sb);
	spent[1] = ktime_get_ns() - begin;

	begin = ktime_get_ns();
	scoutfs_fence_destroy(sb);
	spent[2] = ktime_get_ns() - begin;
	return ret;
}

/* Commands */

static int parse_count(const char *word, size_t limit, size_t *count)
{
	unsigned long number;

	if (kstrtoul(word, 0, &number) || number > limit)
		return -EINVAL;

	*count = number;
	return 0;
}

/* Makes a request, so that its directory can be found. */
static int command_start(char **words)
{
	u64 rid;

	return kstrtou64(words[0], 16, &rid) ?:
	       scoutfs_fence_start(bench_sb(), rid, BENCH_ADDRESS, BENCH_REASON);
}

static int command_free(char **words)
{
	u64 rid;

	return kstrtou64(words[0], 16, &rid) ?: scoutfs_fence_free(bench_sb(), rid);
}

static int command_directory(char **words)
{
	size_t nr;

	if (parse_count(words[1], BENCH_FILES, &nr) ||
	    strscpy(bench_directory, words[0], sizeof(bench_directory)) < 0)
		return -EINVAL;

	for (size_t i = 0; i < BENCH_FILES; i++)
		bench_floor_attributes[i] = i < nr ? &bench_floor_files[i].attr : NULL;
	bench_nr_files = nr;
	return 0;
}

static int start_one(int reason)
{
	u64 rid = random_rid();
	int ret;

	if (bench_nr_rids == BENCH_CAPACITY)
		return -ENOSPC;

	ret = scoutfs_fence_start(bench_sb(), rid, BENCH_ADDRESS, reason);
	if (!ret)
		bench_rids[bench_nr_rids++] = rid;
	return ret;
}

static int command_fill(char **words)
{
	size_t count;
	int ret = parse_count(words[0], BENCH_CAPACITY, &count);

	while (!ret && bench_nr_rids < count) {
		ret = start_one(BENCH_REASON);
		cond_resched();
	}
	return ret;
}

static int command_fill_floor(char **words)
{
	struct kobject *kobj;
	size_t count;

	if (parse_count(words[0], BENCH_CAPACITY, &count))
		return -EINVAL;

	while (bench_nr_floors < count) {
		kobj = floor_make(random_rid(), NULL);
		if (IS_ERR(kobj))
			return PTR_ERR(kobj);
		bench_floors[bench_nr_floors++] = kobj;
		cond_resched();
	}
	return 0;
}

/* Finishes the oldest request. */
static int command_finish_first(char **words)
{
	u64 spent;

	return bench_nr_rids ? write_fenced(bench_rids[0], &spent) : -EINVAL;
}

/* Adds a finished request with another reason after the others. */
static int command_add_finished(char **words)
{
	u64 spent;

	return start_one(BENCH_OTHER_REASON) ?:
	       write_fenced(bench_rids[bench_nr_rids - 1], &spent);
}

static int command_free_last(char **words)
{
	if (!bench_nr_rids)
		return -EINVAL;

	return scoutfs_fence_free(bench_sb(), bench_rids[--bench_nr_rids]);
}

/* Removes all floors. */
static int command_empty_floor(char **words)
{
	u64 begin = ktime_get_ns();

	while (bench_nr_floors)
		floor_remove(bench_floors[--bench_nr_floors]);
	return put_value(ktime_get_ns() - begin);
}

/* Waits until all requests' events have been sent, by way of destroy. */
static int wait_sent(void)
{
	scoutfs_fence_destroy(bench_sb());
	return scoutfs_fence_setup(bench_sb());
}

/*
 * Includes the time until the dropped requests' events have been sent.  Stop does
 * not wait for that, but a machine with one CPU sends some of them meanwhile.
 */
static int command_stop(char **words)
{
	u64 begin = ktime_get_ns();

	scoutfs_fence_stop(bench_sb());
	bench_nr_rids = 0;
	return wait_sent() ?: put_value(ktime_get_ns() - begin);
}

static int command_destroy(char **words)
{
	u64 begin = ktime_get_ns();

	scoutfs_fence_destroy(bench_sb());
	bench_nr_rids = 0;
	return put_value(ktime_get_ns() - begin) ?: scoutfs_fence_setup(bench_sb());
}

/* Measures both floors, a request, and the read-only functions in each round. */
static int command_rounds(char **words)
{
	u64 spent[3 + 3 + 4 + 4];
	u64 *floor = spent, *notifying = floor + 3;
	u64 *request = notifying + 3, *looking = request + 4;
	size_t count;
	int ret = parse_count(words[0], BENCH_VALUES, &count);

	for (size_t i = 0; i < count && !ret; i++) {
		/* Alternates the order, so that none is always last. */
		if (i % 2)
			ret = measure_floor(floor) ?: measure_notifying_floor(notifying) ?:
			      measure_request(request);
		else
			ret = measure_request(request) ?: measure_notifying_floor(notifying) ?:
			      measure_floor(floor);
		measure_looking(looking);
		ret = ret ?: put_values(spent, ARRAY_SIZE(spent));
		cond_resched();
	}
	return ret;
}

/* Measures whole lives of requests, one after the other, until all events have been sent. */
static int command_lives(char **words)
{
	u64 begin = ktime_get_ns();
	u64 spent[4];
	size_t count;
	int ret = parse_count(words[0], BENCH_VALUES, &count);

	for (size_t i = 0; i < count && !ret; i++)
		ret = measure_request(spent);
	return ret ?: wait_sent() ?: put_value(ktime_get_ns() - begin);
}

/* The same for notifying floors. */
static int command_notifying_lives(char **words)
{
	u64 begin = ktime_get_ns();
	u64 spent[3];
	size_t count;
	int ret = parse_count(words[0], BENCH_VALUES, &count);

	for (size_t i = 0; i < count && !ret; i++)
		ret = measure_notifying_floor(spent);
	return ret ?: put_value(ktime_get_ns() - begin);
}

static int command_mounts(char **words)
{
	u64 spent[3];
	size_t count;
	int ret = parse_count(words[0], BENCH_VALUES, &count);

	for (size_t i = 0; i < count && !ret; i++)
		ret = measure_mount(spent) ?: put_values(spent, ARRAY_SIZE(spent));
	return ret;
}

/*
 * Finishes the existing requests in reverse order and frees them, each at once or
 * all after the last has finished.  Measures first the removal of all floors, then
 * this, until all events have been sent.
 */
static int command_drain(char **words)
{
	bool at_once = !strcmp(words[0], "each");
	u64 begin;
	u64 write;
	u64 rid;
	int ret;

	ret = command_empty_floor(words);
	begin = ktime_get_ns();
	for (size_t i = bench_nr_rids; i-- > 0 && !ret;) {
		ret = write_fenced(bench_rids[i], &write);
		if (at_once && !ret) {
			ret = next_of(bench_sb(), &rid) ?: scoutfs_fence_free(bench_sb(), rid);
			bench_nr_rids--;
		}
		cond_resched();
	}
	if (ret)
		return ret;

	while (!next_of(bench_sb(), &rid)) {
		ret = scoutfs_fence_free(bench_sb(), rid);
		if (ret)
			return ret;
		bench_nr_rids--;
	}
	if (bench_nr_rids)
		return -EPROTO;

	return wait_sent() ?: put_value(ktime_get_ns() - begin);
}

/* Waiting tasks */

enum bench_wait { BENCH_WAIT_FLOOR, BENCH_WAIT_FENCED, BENCH_WAIT_NEXT };

struct bench_waiter {
	struct task_struct *task;
	u64 returned;
	int ret;
};

static struct bench_waiter bench_waiters[BENCH_WAITERS];
static enum bench_wait bench_wait;
static atomic_t bench_nr_waiting;
static DECLARE_COMPLETION(bench_all_returned);

static int wait_once(void)
{
	long left;

	switch (bench_wait) {
	case BENCH_WAIT_FLOOR:
		left = wait_event_timeout(bench_floor_changed, READ_ONCE(bench_floor_fenced),
					  BENCH_PATIENCE);
		break;
	case BENCH_WAIT_NEXT:
		left = bench_wait_next(bench_sb(), BENCH_PATIENCE);
		break;
	default:
		return scoutfs_fence_wait_fenced(bench_sb(), BENCH_PATIENCE);
	}
	return left < 0 ? left : left ? 0 : -ETIMEDOUT;
}

static int wait_thread(void *data)
{
	struct bench_waiter *waiter = data;

	waiter->ret = wait_once();
	waiter->returned = ktime_get_ns();
	if (atomic_dec_and_test(&bench_nr_waiting))
		complete(&bench_all_returned);

	/* The task stays alive, so that it can be inspected. */
	set_current_state(TASK_INTERRUPTIBLE);
	while (!kthread_should_stop()) {
		schedule();
		set_current_state(TASK_INTERRUPTIBLE);
	}
	__set_current_state(TASK_RUNNING);
	return 0;
}

/* Measures the time from the write that ends the waits to each return. */
static int measure_waiting(u64 rid, size_t count)
{
	u64 spent;
	size_t nr;
	int ret = 0;

	reinit_completion(&bench_all_returned);
	atomic_set(&bench_nr_waiting, count);
	for (nr = 0; nr < count; nr++) {
		struct task_struct *task = kthread_run(wait_thread, &bench_waiters[nr],
						       "fence_bench/%zu", nr);

		if (IS_ERR(task)) {
			ret = PTR_ERR(task);
			break;
		}
		bench_waiters[nr].task = task;
	}
	if (nr < count && !atomic_sub_return(count - nr, &bench_nr_waiting))
		complete(&bench_all_returned);

	for (size_t i = 0; i < nr; i++) {
		while (!(READ_ONCE(bench_waiters[i].task->__state) & TASK_NORMAL))
			usleep_range(1000, 2000);
	}
	/* The last one may not have gone to sleep yet. */
	usleep_range(4000, 5000);

	ret = (bench_wait == BENCH_WAIT_FLOOR ? write_notifying_floor(rid, &spent) :
						write_fenced(rid, &spent)) ?: ret;
	wait_for_completion(&bench_all_returned);
	for (size_t i = 0; i < nr; i++) {
		kthread_stop(bench_waiters[i].task);
		ret = ret ?:
		      bench_waiters[i].ret ?:
		      put_value(bench_waiters[i].returned - bench_written);
	}
	return ret;
}

static int wait_for_floor(size_t count)
{
	u64 rid = random_rid();
	struct kobject *kobj;
	int ret;

	WRITE_ONCE(bench_floor_fenced, false);
	kobj = floor_make(rid, bench_notifying);
	if (IS_ERR(kobj))
		return PTR_ERR(kobj);

	ret = measure_waiting(rid, count);
	floor_remove(kobj);
	return ret;
}

static int wait_for_request(size_t count)
{
	u64 rid = random_rid();
	int ret;

	ret = scoutfs_fence_start(bench_sb(), rid, BENCH_ADDRESS, BENCH_REASON);
	if (ret)
		return ret;

	ret = measure_waiting(rid, count);
	return ret ?: scoutfs_fence_free(bench_sb(), rid);
}

static int command_wait(char **words)
{
	size_t rounds;
	size_t count;
	int ret;

	if (!strcmp(words[0], "floor"))
		bench_wait = BENCH_WAIT_FLOOR;
	else if (!strcmp(words[0], "wait_fenced"))
		bench_wait = BENCH_WAIT_FENCED;
	else if (!strcmp(words[0], "wait_next"))
		bench_wait = BENCH_WAIT_NEXT;
	else
		return -EINVAL;

	if (bench_wait == BENCH_WAIT_NEXT && !bench_wait_next)
		return -EOPNOTSUPP;

	ret = parse_count(words[1], BENCH_WAITERS, &count) ?:
	      parse_count(words[2], BENCH_VALUES, &rounds);
	while (!ret && rounds--)
		ret = bench_wait == BENCH_WAIT_FLOOR ? wait_for_floor(count) :
						       wait_for_request(count);
	return ret;
}

/* A command with its number of arguments.  The function returns 0 or a negative errno. */
struct bench_command {
	const char *name;
	int words;
	int (*run)(char **words);
};

static const struct bench_command bench_commands[] = {
	{ "start", 1, command_start },		/* RID */
	{ "free", 1, command_free },		/* RID */
	{ "directory", 2, command_directory },	/* PATH FILES: where requests were seen */
	{ "fill", 1, command_fill },		/* COUNT: starts requests up to this number */
	{ "fill_floor", 1, command_fill_floor },	/* COUNT */
	{ "finish_first", 0, command_finish_first },
	{ "add_finished", 0, command_add_finished },
	{ "free_last", 0, command_free_last },
	{ "empty_floor", 0, command_empty_floor },
	{ "stop", 0, command_stop },
	{ "destroy", 0, command_destroy },	/* and sets up again */
	{ "rounds", 1, command_rounds },	/* COUNT */
	{ "lives", 1, command_lives },		/* COUNT */
	{ "notifying_lives", 1, command_notifying_lives },	/* COUNT */
	{ "mounts", 1, command_mounts },	/* COUNT */
	{ "drain", 1, command_drain },		/* each or all */
	{ "wait", 3, command_wait },	/* floor, wait_fenced or wait_next, WAITERS, ROUNDS */
};

static int run_command(char *line)
{
	char *words[BENCH_WORDS + 1];
	char *word;
	int nr = 0;

	line = strim(line);
	while ((word = strsep(&line, " "))) {
		if (nr == ARRAY_SIZE(words))
			return -EINVAL;
		words[nr++] = word;
	}
	bench_nr_values = 0;
	for (int i = 0; i < ARRAY_SIZE(bench_commands); i++) {
		const struct bench_command *command = &bench_commands[i];

		if (!strcmp(command->name, words[0]) && command->words == nr - 1)
			return command->run(words + 1);
	}
	return -EINVAL;
}

static ssize_t bench_write(struct file *file, const char __user *buf, size_t size, loff_t *pos)
{
	char *line;
	int ret;

	if (size > BENCH_COMMAND_LENGTH)
		return -EINVAL;
	line = memdup_user_nul(buf, size);
	if (IS_ERR(line))
		return PTR_ERR(line);

	mutex_lock(&bench_mutex);
	ret = run_command(line);
	mutex_unlock(&bench_mutex);
	kfree(line);
	return ret ?: size;
}

static ssize_t bench_read(struct file *file, char __user *buf, size_t size, loff_t *pos)
{
	ssize_t ret;

	mutex_lock(&bench_mutex);
	ret = simple_read_from_buffer(buf, size, pos, bench_values,
				      bench_nr_values * sizeof(*bench_values));
	mutex_unlock(&bench_mutex);
	return ret;
}

static const struct file_operations bench_file_operations = {
	.owner	= THIS_MODULE,
	.write	= bench_write,
	.read	= bench_read,
	.llseek	= default_llseek,
};

/* The module */

static int bench_init_context(struct fs_context *fc)
{
	return init_pseudo(fc, BENCH_MAGIC) ? 0 : -ENOMEM;
}

/* Only this module mounts it.  No owner, or its own mounts would pin the module. */
static struct file_system_type bench_filesystem = {
	.name			= "fence_bench",
	.init_fs_context	= bench_init_context,
	.kill_sb		= kill_anon_super,
};

static struct dentry *bench_file;

static void bench_undo(void)
{
	debugfs_remove(bench_file);
	if (!IS_ERR_OR_NULL(bench_mount)) {
		scoutfs_fence_destroy(bench_sb());
		kern_unmount(bench_mount);
	}
	if (!IS_ERR_OR_NULL(bench_other_mount))
		kern_unmount(bench_other_mount);
	while (bench_nr_floors)
		floor_remove(bench_floors[--bench_nr_floors]);
	kobject_put(bench_floor_directory);
	if (bench_notifying)
		kset_unregister(bench_notifying);
	if (bench_drained)
		symbol_put(scoutfs_fence_drained);
	if (bench_wait_next)
		symbol_put(scoutfs_fence_wait_next);
	vfree(bench_floors);
	vfree(bench_rids);
	vfree(bench_values);
}

static int bench_do(void)
{
	bench_values = vcalloc(BENCH_VALUES, sizeof(*bench_values));
	bench_rids = vcalloc(BENCH_CAPACITY, sizeof(*bench_rids));
	bench_floors = vcalloc(BENCH_CAPACITY, sizeof(*bench_floors));
	bench_floor_directory = kobject_create_and_add("fence_bench", fs_kobj);
	bench_notifying = kset_create_and_add("fence_bench_notifying", NULL, fs_kobj);
	if (!bench_values || !bench_rids || !bench_floors || !bench_floor_directory ||
	    !bench_notifying)
		return -ENOMEM;

	bench_other_mount = kern_mount(&bench_filesystem);
	if (IS_ERR(bench_other_mount))
		return PTR_ERR(bench_other_mount);
	bench_mount = kern_mount(&bench_filesystem);
	if (IS_ERR(bench_mount))
		return PTR_ERR(bench_mount);

	bench_file = debugfs_create_file("fence_bench", 0600, NULL, NULL, &bench_file_operations);
	return scoutfs_fence_setup(bench_sb());
}

static int __init bench_init(void)
{
	int ret;

	/* Use the same names in every run. */
	prandom_seed_state(&bench_random, 1);
	name_floor_files();
	bench_drained = symbol_get(scoutfs_fence_drained);
	bench_wait_next = symbol_get(scoutfs_fence_wait_next);
	ret = bench_do();
	if (ret)
		bench_undo();
	return ret;
}

static void __exit bench_exit(void)
{
	bench_undo();
}

module_init(bench_init);
module_exit(bench_exit);

MODULE_DESCRIPTION("Measures fence requests against bare directories");
MODULE_LICENSE("GPL");
