// SPDX-License-Identifier: GPL-2.0-only
/*
 * A filesystem that requests fencing like scoutfs, driven by test scripts.
 *
 *     mount -t fence_test [-o rid=HEX,nosetup,fail] none /mnt/a
 *
 * It is built twice: plain, and as fence_test_leader with
 * SCOUTFS_FENCE_PARENT and a leader in every mount; see under_parent.c.
 *
 * Each mount has its own superblock, and a single file "call" in its root.
 * Writing a command to the open file, once, calls a function of fence.h for
 * this superblock; reading it returns the result:
 *
 *     $ exec 3<>/mnt/a/call; echo 'start aa 10.0.0.7 0' >&3; cat <&3
 *     0
 *
 * The write blocks until the call returns.  The commands are in the table
 * fence_test_commands.  Prefixes to a command: "null" passes a null
 * superblock, "atomic" calls with a spinlock held.
 */

#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/fs_parser.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/inet.h>
#include <linux/jiffies.h>
#include <linux/kdev_t.h>
#include <linux/kernfs.h>
#include <linux/kobject.h>
#include <linux/kstrtox.h>
#include <linux/module.h>
#include <linux/random.h>
#include <linux/slab.h>
#include <linux/socket.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <linux/wait.h>

#include "fence.h"
#include "fence_test.h"
#include "leader.h"

#ifdef SCOUTFS_FENCE_PARENT
#define FENCE_TEST_TYPE		"fence_test_leader"
#else
#define FENCE_TEST_TYPE		"fence_test"
#endif
#define FENCE_TEST_MAGIC	0x66656e63
#define FENCE_TEST_WORDS	6
#define FENCE_TEST_ANSWER	96

/* A mount, with its options and its directory in sysfs. */
struct fence_test_mount {
	struct kobject kobj;
	struct completion released;
	bool published;
	/* The directory was removed before the unmount. */
	bool unpublished;
	dev_t dev;
	u64 rid;
	bool nosetup;
	bool fail;
	struct fence_test_leader *leader;
};

/*
 * A command.  The function gets the words after the command's name, exactly
 * as many as the table says, and writes the answer.  If a word is malformed,
 * it returns -EINVAL without calling anything.
 */
struct fence_test_command {
	const char *name;
	int words;
	int (*call)(struct super_block *sb, char **words, char *answer);
	/* The function never sleeps, or does not with a timeout of 0. */
	bool atomic;
	/* Acts on the mount itself; not a function of fence.h. */
	bool own;
};

static DEFINE_SPINLOCK(fence_test_lock);

static void put_answer(char *answer, long ret)
{
	snprintf(answer, FENCE_TEST_ANSWER, "%ld\n", ret);
}

struct kobject *fence_test_sysfs_dir(struct super_block *sb)
{
	struct fence_test_mount *mount = sb ? sb->s_fs_info : NULL;

	return mount ? &mount->kobj : NULL;
}

static int call_setup(struct super_block *sb, char **words, char *answer)
{
	put_answer(answer, scoutfs_fence_setup(sb));
	return 0;
}

static int call_setup_under(struct super_block *sb, char **words, char *answer)
{
	static struct kobject nameless;
	struct kobject *parent;

	if (!strcmp(words[0], "own"))
		parent = fence_test_sysfs_dir(sb);
	else if (!strcmp(words[0], "shared"))
		parent = fence_test_scoutfs;
	else if (!strcmp(words[0], "nameless"))
		parent = &nameless;
	else if (!strcmp(words[0], "none"))
		parent = NULL;
	else
		return -EINVAL;

	put_answer(answer, scoutfs_fence_setup_under(sb, parent));
	return 0;
}

static int call_start(struct super_block *sb, char **words, char *answer)
{
	__be32 ipv4_addr;
	int reason;
	u64 rid;

	if (kstrtou64(words[0], 16, &rid) ||
	    !in4_pton(words[1], -1, (u8 *)&ipv4_addr, -1, NULL) ||
	    kstrtoint(words[2], 0, &reason))
		return -EINVAL;

	put_answer(answer, scoutfs_fence_start(sb, rid, ipv4_addr, reason));
	return 0;
}

/* Also sets a port and a scope, which must be ignored. */
static int parse_address(const char *text, struct sockaddr_storage *addr)
{
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)addr;
	struct sockaddr_in *in = (struct sockaddr_in *)addr;
	u16 family;

	memset(addr, 0, sizeof(*addr));
	if (!strncmp(text, "family:", 7)) {
		if (kstrtou16(text + 7, 0, &family))
			return -EINVAL;
		addr->ss_family = family;
	} else if (in4_pton(text, -1, (u8 *)&in->sin_addr, -1, NULL)) {
		in->sin_family = AF_INET;
		in->sin_port = htons(12345);
	} else if (in6_pton(text, -1, (u8 *)&in6->sin6_addr, -1, NULL)) {
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(12345);
		in6->sin6_scope_id = 7;
	} else {
		return -EINVAL;
	}

	return 0;
}

static int call_start_addr(struct super_block *sb, char **words, char *answer)
{
	bool none = !strcmp(words[1], "none");
	struct sockaddr_storage addr;
	int reason;
	u64 rid;

	if (kstrtou64(words[0], 16, &rid) ||
	    (!none && parse_address(words[1], &addr)) ||
	    kstrtoint(words[2], 0, &reason))
		return -EINVAL;

	put_answer(answer, scoutfs_fence_start_addr(sb, rid, none ? NULL : &addr, reason));
	return 0;
}

static int call_next(struct super_block *sb, char **words, char *answer)
{
	int reason = 0;
	bool error = false;
	u64 rid = 0;
	int ret;

	ret = scoutfs_fence_next(sb, &rid, &reason, &error);
	if (ret)
		put_answer(answer, ret);
	else
		snprintf(answer, FENCE_TEST_ANSWER, "0 rid=%016llx reason=%d error=%d\n", rid,
			 reason, error);
	return 0;
}

static int call_next_null(struct super_block *sb, char **words, char *answer)
{
	int reason;
	bool error;
	u64 rid;
	int ret;

	if (!strcmp(words[0], "rid"))
		ret = scoutfs_fence_next(sb, NULL, &reason, &error);
	else if (!strcmp(words[0], "reason"))
		ret = scoutfs_fence_next(sb, &rid, NULL, &error);
	else if (!strcmp(words[0], "error"))
		ret = scoutfs_fence_next(sb, &rid, &reason, NULL);
	else
		return -EINVAL;

	put_answer(answer, ret);
	return 0;
}

static int call_wait_next(struct super_block *sb, char **words, char *answer)
{
	unsigned long timeout;
	int milliseconds;

	if (kstrtoint(words[0], 0, &milliseconds) || milliseconds < 0)
		return -EINVAL;

	timeout = msecs_to_jiffies(milliseconds);
	snprintf(answer, FENCE_TEST_ANSWER, "%ld timeout=%lu\n",
		 scoutfs_fence_wait_next(sb, timeout), timeout);
	return 0;
}

static int call_wait_next_jiffies(struct super_block *sb, char **words, char *answer)
{
	long timeout;

	if (kstrtol(words[0], 0, &timeout))
		return -EINVAL;

	put_answer(answer, scoutfs_fence_wait_next(sb, timeout));
	return 0;
}

static int call_drained(struct super_block *sb, char **words, char *answer)
{
	bool drained;
	bool error;

	if (kstrtobool(words[0], &error))
		return -EINVAL;

	drained = scoutfs_fence_drained(sb, &error);
	snprintf(answer, FENCE_TEST_ANSWER, "%d error=%d\n", drained, error);
	return 0;
}

static int call_drained_null(struct super_block *sb, char **words, char *answer)
{
	put_answer(answer, scoutfs_fence_drained(sb, NULL));
	return 0;
}

static int call_reason_pending(struct super_block *sb, char **words, char *answer)
{
	int reason;

	if (kstrtoint(words[0], 0, &reason))
		return -EINVAL;

	put_answer(answer, scoutfs_fence_reason_pending(sb, reason));
	return 0;
}

static int call_free(struct super_block *sb, char **words, char *answer)
{
	u64 rid;

	if (kstrtou64(words[0], 16, &rid))
		return -EINVAL;

	put_answer(answer, scoutfs_fence_free(sb, rid));
	return 0;
}

static int call_wait_fenced(struct super_block *sb, char **words, char *answer)
{
	int milliseconds;

	if (kstrtoint(words[0], 0, &milliseconds) || milliseconds < 0)
		return -EINVAL;

	put_answer(answer, scoutfs_fence_wait_fenced(sb, msecs_to_jiffies(milliseconds)));
	return 0;
}

static int call_wait_fenced_jiffies(struct super_block *sb, char **words, char *answer)
{
	long timeout;

	if (kstrtol(words[0], 0, &timeout))
		return -EINVAL;

	put_answer(answer, scoutfs_fence_wait_fenced(sb, timeout));
	return 0;
}

static int call_stop(struct super_block *sb, char **words, char *answer)
{
	scoutfs_fence_stop(sb);
	put_answer(answer, 0);
	return 0;
}

static int call_destroy(struct super_block *sb, char **words, char *answer)
{
	scoutfs_fence_destroy(sb);
	put_answer(answer, 0);
	return 0;
}

/* Prints an address with the kernel's own format. */
static int call_print_address(struct super_block *sb, char **words, char *answer)
{
	struct sockaddr_storage addr;

	if (parse_address(words[0], &addr))
		return -EINVAL;

	snprintf(answer, FENCE_TEST_ANSWER, "0 %pISc\n", &addr);
	return 0;
}

/*
 * Holds up the module's uevents by giving its kset a uevent callback that sleeps.
 * To the module this looks like another task holding the uevent mutex; other
 * modules' uevents are not affected.
 */
static DECLARE_WAIT_QUEUE_HEAD(fence_test_uevents_released);
static unsigned long fence_test_uevents_until;
static bool fence_test_uevents_held;
static atomic_t fence_test_uevents_waiting;

static int hold_uevent(const struct kobject *kobj, struct kobj_uevent_env *env)
{
	long left = READ_ONCE(fence_test_uevents_until) - jiffies;

	atomic_inc(&fence_test_uevents_waiting);
	if (left > 0)
		wait_event_idle_timeout(fence_test_uevents_released,
					!READ_ONCE(fence_test_uevents_held), left);
	atomic_dec(&fence_test_uevents_waiting);
	return 0;
}

/* Kernels before 6.2 pass a pointer without `const`. */
static const struct kset_uevent_ops hold_uevent_ops = {
	.uevent = (void *)hold_uevent,
};

static int set_uevent_ops(const struct kset_uevent_ops *ops)
{
	struct kernfs_node *kn = kernfs_find_and_get(fs_kobj->sd, "scoutfs_fence");
	struct kobject *kobj;

	if (!kn)
		return -ENOENT;

	kobj = kn->priv;
	WRITE_ONCE(container_of(kobj, struct kset, kobj)->uevent_ops, ops);
	kernfs_put(kn);
	return 0;
}

static void release_uevents(void)
{
	WRITE_ONCE(fence_test_uevents_held, false);
	wake_up_all(&fence_test_uevents_released);
	while (atomic_read(&fence_test_uevents_waiting))
		msleep(20);
}

static int call_hold_uevents(struct super_block *sb, char **words, char *answer)
{
	int milliseconds;

	if (kstrtoint(words[0], 0, &milliseconds) || milliseconds < 0)
		return -EINVAL;

	WRITE_ONCE(fence_test_uevents_until, jiffies + msecs_to_jiffies(milliseconds));
	WRITE_ONCE(fence_test_uevents_held, true);
	put_answer(answer, set_uevent_ops(&hold_uevent_ops));
	return 0;
}

static int call_release_uevents(struct super_block *sb, char **words, char *answer)
{
	put_answer(answer, set_uevent_ops(NULL));
	release_uevents();
	return 0;
}

/* The number of uevents held up. */
static int call_held_uevents(struct super_block *sb, char **words, char *answer)
{
	put_answer(answer, atomic_read(&fence_test_uevents_waiting));
	return 0;
}

/*
 * Holds up the removal of a request's directory: adds a file that blocks its
 * readers, which the removal drains like those of the request's own files.
 */
static DECLARE_WAIT_QUEUE_HEAD(fence_test_readers_released);
static unsigned long fence_test_readers_span;
static bool fence_test_readers_held;
static atomic_t fence_test_readers_waiting;

static ssize_t hold_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	atomic_inc(&fence_test_readers_waiting);
	wait_event_idle_timeout(fence_test_readers_released, !READ_ONCE(fence_test_readers_held),
				READ_ONCE(fence_test_readers_span));
	atomic_dec(&fence_test_readers_waiting);
	return 0;
}

static struct kobj_attribute hold_attribute = __ATTR_RO(hold);

/* Takes over the reference to @parent, which may be NULL. */
static struct kernfs_node *child_of(struct kernfs_node *parent, const char *name)
{
	struct kernfs_node *child = parent ? kernfs_find_and_get(parent, name) : NULL;

	kernfs_put(parent);
	return child;
}

/* Adds the file `hold` to the directory of a request. */
static int call_hold_readers(struct super_block *sb, char **words, char *answer)
{
	struct kernfs_node *kn = fs_kobj->sd;
	char device[32];
	int milliseconds;

	if (kstrtoint(words[1], 0, &milliseconds) || milliseconds < 0)
		return -EINVAL;

	snprintf(device, sizeof(device), "%u:%u", MAJOR(sb->s_dev), MINOR(sb->s_dev));
	kernfs_get(kn);
	kn = child_of(kn, "scoutfs_fence");
	kn = child_of(kn, device);
	kn = child_of(kn, "fence");
	kn = child_of(kn, words[0]);
	if (!kn)
		return -ENOENT;

	WRITE_ONCE(fence_test_readers_span, msecs_to_jiffies(milliseconds));
	WRITE_ONCE(fence_test_readers_held, true);
	put_answer(answer, sysfs_create_file(kn->priv, &hold_attribute.attr));
	kernfs_put(kn);
	return 0;
}

static int call_release_readers(struct super_block *sb, char **words, char *answer)
{
	WRITE_ONCE(fence_test_readers_held, false);
	wake_up_all(&fence_test_readers_released);
	put_answer(answer, 0);
	return 0;
}

/* The number of readers that sleep. */
static int call_held_readers(struct super_block *sb, char **words, char *answer)
{
	put_answer(answer, atomic_read(&fence_test_readers_waiting));
	return 0;
}

/* The number of references to the mount's directory. */
static int call_references(struct super_block *sb, char **words, char *answer)
{
	put_answer(answer, kref_read(&fence_test_sysfs_dir(sb)->kref));
	return 0;
}

/* Removes the mount's directory with everything that others have made below it. */
static int call_unpublish(struct super_block *sb, char **words, char *answer)
{
	struct fence_test_mount *mount = sb->s_fs_info;

	if (mount->unpublished)
		return -EINVAL;

	mount->unpublished = true;
	kobject_del(&mount->kobj);
	kobject_put(&mount->kobj);
	put_answer(answer, 0);
	return 0;
}

/* Whether the mount's directory has been released. */
static int call_released(struct super_block *sb, char **words, char *answer)
{
	struct fence_test_mount *mount = sb->s_fs_info;

	put_answer(answer, completion_done(&mount->released));
	return 0;
}

#ifdef SCOUTFS_FENCE_PARENT
static struct fence_test_leader *leader_of(struct super_block *sb)
{
	struct fence_test_mount *mount = sb->s_fs_info;

	return mount->leader;
}

static int call_elect(struct super_block *sb, char **words, char *answer)
{
	put_answer(answer, fence_test_leader_elect(leader_of(sb), words[0]));
	return 0;
}

static int call_recover(struct super_block *sb, char **words, char *answer)
{
	int milliseconds;

	if (kstrtoint(words[0], 0, &milliseconds) || milliseconds < 0)
		return -EINVAL;

	put_answer(answer, fence_test_leader_recover(leader_of(sb), milliseconds, words[1]));
	return 0;
}

static int call_step_down(struct super_block *sb, char **words, char *answer)
{
	fence_test_leader_step_down(leader_of(sb));
	put_answer(answer, 0);
	return 0;
}

static int call_leader(struct super_block *sb, char **words, char *answer)
{
	fence_test_leader_show(leader_of(sb), answer, FENCE_TEST_ANSWER);
	return 0;
}
#endif

static const struct fence_test_command fence_test_commands[] = {
	{ "setup", 0, call_setup },
	{ "setup_under", 1, call_setup_under },	/* own, shared, nameless or none: the parent */
	{ "start", 3, call_start },		/* RID IPV4 REASON */
	{ "start_addr", 3, call_start_addr },	/* RID IPV4|IPV6|family:NUMBER|none REASON */
	{ "next", 0, call_next, .atomic = true },
	{ "next_null", 1, call_next_null },	/* rid, reason or error: the null pointer */
	{ "wait_next", 1, call_wait_next },	/* MILLISECONDS */
	{ "wait_next_jiffies", 1, call_wait_next_jiffies, .atomic = true },	/* JIFFIES */
	{ "drained", 1, call_drained, .atomic = true },	/* 0 or 1: initial value of error */
	{ "drained_null", 0, call_drained_null, .atomic = true },
	{ "reason_pending", 1, call_reason_pending, .atomic = true },	/* REASON */
	{ "free", 1, call_free },		/* RID */
	{ "wait_fenced", 1, call_wait_fenced },	/* MILLISECONDS */
	{ "wait_fenced_jiffies", 1, call_wait_fenced_jiffies, .atomic = true },	/* JIFFIES */
	{ "stop", 0, call_stop },
	{ "destroy", 0, call_destroy },
	{ "print_address", 1, call_print_address, .own = true },	/* IPV4|IPV6 */
	{ "hold_uevents", 1, call_hold_uevents, .own = true },	/* MILLISECONDS at most */
	{ "release_uevents", 0, call_release_uevents, .own = true },
	{ "held_uevents", 0, call_held_uevents, .own = true },
	{ "hold_readers", 2, call_hold_readers, .own = true },	/* RID MILLISECONDS at most */
	{ "release_readers", 0, call_release_readers, .own = true },
	{ "held_readers", 0, call_held_readers, .own = true },
	{ "references", 0, call_references, .own = true },
	{ "unpublish", 0, call_unpublish, .own = true },
	{ "released", 0, call_released, .own = true },
#ifdef SCOUTFS_FENCE_PARENT
	{ "elect", 1, call_elect, .own = true },	/* RID,RID...|- */
	{ "recover", 2, call_recover, .own = true },	/* MILLISECONDS RID,RID... */
	{ "step_down", 0, call_step_down, .own = true },
	{ "leader", 0, call_leader, .own = true },
#endif
};

static int split_words(char *line, char **words)
{
	char *word;
	int nr = 0;

	while ((word = strsep(&line, "\n "))) {
		if (!*word)
			continue;
		if (nr == FENCE_TEST_WORDS)
			return -EINVAL;
		words[nr++] = word;
	}

	return nr;
}

static const struct fence_test_command *find_command(const char *name)
{
	for (int i = 0; i < ARRAY_SIZE(fence_test_commands); i++) {
		if (!strcmp(fence_test_commands[i].name, name))
			return &fence_test_commands[i];
	}

	return NULL;
}

static int run_command(struct super_block *sb, char *line, char *answer)
{
	const struct fence_test_command *command;
	char *all_words[FENCE_TEST_WORDS];
	char **words = all_words;
	bool atomic = false;
	int ret;
	int nr;

	nr = split_words(line, words);
	for (; nr > 0; nr--, words++) {
		if (!strcmp(*words, "null"))
			sb = NULL;
		else if (!strcmp(*words, "atomic"))
			atomic = true;
		else
			break;
	}
	if (nr <= 0)
		return -EINVAL;

	command = find_command(words[0]);
	if (!command || nr != command->words + 1 || (atomic && !command->atomic) ||
	    (!sb && command->own))
		return -EINVAL;

	if (atomic)
		spin_lock(&fence_test_lock);
	ret = command->call(sb, words + 1, answer);
	if (atomic)
		spin_unlock(&fence_test_lock);

	return ret;
}

static ssize_t fence_test_call_write(struct file *file, const char __user *buf, size_t size,
				     loff_t *pos)
{
	struct super_block *sb = file_inode(file)->i_sb;
	char answer[FENCE_TEST_ANSWER];
	char *line;
	int ret;

	line = simple_transaction_get(file, buf, size);
	if (IS_ERR(line))
		return PTR_ERR(line);

	ret = run_command(sb, line, answer);
	if (ret)
		return ret;

	/* From here on the transaction file's buffer holds the answer. */
	strscpy(line, answer, FENCE_TEST_ANSWER);
	simple_transaction_set(file, strlen(answer));
	return size;
}

static const struct file_operations fence_test_call_operations = {
	.owner		= THIS_MODULE,
	.write		= fence_test_call_write,
	.read		= simple_transaction_read,
	.release	= simple_transaction_release,
	.llseek		= default_llseek,
};

#ifdef SCOUTFS_FENCE_PARENT
static int fence_test_build_init(void)
{
	return fence_test_leader_init();
}

static void fence_test_build_exit(void)
{
	fence_test_leader_exit();
}
#else
/* Both builds publish their mounts here.  The plain one is loaded first. */
struct kobject *fence_test_scoutfs;
EXPORT_SYMBOL_GPL(fence_test_scoutfs);

static int fence_test_build_init(void)
{
	fence_test_scoutfs = kobject_create_and_add("scoutfs", fs_kobj);
	return fence_test_scoutfs ? 0 : -ENOMEM;
}

static void fence_test_build_exit(void)
{
	kobject_put(fence_test_scoutfs);
}
#endif

static struct inode *new_test_inode(struct super_block *sb, ino_t ino, umode_t mode)
{
	struct inode *inode = new_inode(sb);

	if (inode) {
		inode->i_ino = ino;
		inode->i_mode = mode;
	}

	return inode;
}

/*
 * Finds the file by lookup instead of pinning a dentry for it at mount, because
 * kernels differ in how a pinned dentry is released at unmount.
 */
static struct dentry *fence_test_lookup(struct inode *dir, struct dentry *dentry,
					unsigned int flags)
{
	struct inode *inode = NULL;

	if (!strcmp(dentry->d_name.name, "call")) {
		inode = new_test_inode(dir->i_sb, 2, S_IFREG | 0600);
		if (!inode)
			return ERR_PTR(-ENOMEM);
		inode->i_fop = &fence_test_call_operations;
	}

	return d_splice_alias(inode, dentry);
}

static const struct inode_operations fence_test_root_inode_operations = {
	.lookup		= fence_test_lookup,
};

static const struct super_operations fence_test_super_operations = {
	.statfs		= simple_statfs,
};

static struct attribute rid_attr = { .name = "rid", .mode = 0444 };
static struct attribute device_attr = { .name = "data_device_maj_min", .mode = 0444 };

static ssize_t fence_test_show(struct kobject *kobj, struct attribute *attr, char *buf)
{
	struct fence_test_mount *mount = container_of(kobj, struct fence_test_mount, kobj);

	if (attr == &rid_attr)
		return sysfs_emit(buf, "%016llx\n", mount->rid);

	return sysfs_emit(buf, "%u:%u\n", MAJOR(mount->dev), MINOR(mount->dev));
}

static void kobj_released(struct kobject *kobj)
{
	complete(&container_of(kobj, struct fence_test_mount, kobj)->released);
}

static const struct sysfs_ops fence_test_sysfs_ops = {
	.show = fence_test_show,
};

static struct attribute *fence_test_attrs[] = { &rid_attr, &device_attr, NULL };
ATTRIBUTE_GROUPS(fence_test);

static const struct kobj_type fence_test_ktype = {
	.release	= kobj_released,
	.sysfs_ops	= &fence_test_sysfs_ops,
	.default_groups	= fence_test_groups,
};

/*
 * Like scoutfs: /sys/fs/scoutfs/f.FSID.r.RID/, with the first six digits of
 * both.  The device number stands in for the filesystem's id, so that no two
 * mounts get the same name.
 */
static int publish(struct super_block *sb)
{
	struct fence_test_mount *mount = sb->s_fs_info;

	mount->published = true;
	mount->dev = sb->s_dev;
	init_completion(&mount->released);
	return kobject_init_and_add(&mount->kobj, &fence_test_ktype, fence_test_scoutfs,
				    "f.%06x.r.%06llx", MINOR(sb->s_dev), mount->rid >> 40);
}

static void unpublish(struct super_block *sb)
{
	struct fence_test_mount *mount = sb->s_fs_info;

	if (!mount->published)
		return;

	if (!mount->unpublished)
		kobject_put(&mount->kobj);
	/* The kobject is embedded in the mount, and its release function is in this module. */
	wait_for_completion(&mount->released);
}

static int fence_test_fill_super(struct super_block *sb, struct fs_context *fc)
{
	struct fence_test_mount *mount = sb->s_fs_info;
	struct inode *root;
	int ret;

	sb->s_magic = FENCE_TEST_MAGIC;
	sb->s_op = &fence_test_super_operations;
	sb->s_time_gran = 1;

	ret = publish(sb);
	if (ret)
		return ret;

	if (!mount->nosetup) {
		ret = scoutfs_fence_setup(sb);
		if (ret)
			return ret;
	}

	mount->leader = fence_test_leader_new(sb);
	if (IS_ERR(mount->leader)) {
		ret = PTR_ERR(mount->leader);
		mount->leader = NULL;
		return ret;
	}

	if (mount->fail)
		return -EIO;

	root = new_test_inode(sb, 1, S_IFDIR | 0755);
	if (!root)
		return -ENOMEM;
	set_nlink(root, 2);
	root->i_op = &fence_test_root_inode_operations;
	root->i_fop = &simple_dir_operations;
	sb->s_root = d_make_root(root);
	return sb->s_root ? 0 : -ENOMEM;
}

/* Also called for failed mounts, wherever fill_super stopped. */
static void fence_test_kill_sb(struct super_block *sb)
{
	struct fence_test_mount *mount = sb->s_fs_info;

	fence_test_leader_free(mount->leader);
	scoutfs_fence_destroy(sb);
	unpublish(sb);
	kill_anon_super(sb);
	kfree(mount);
}

enum { OPT_RID, OPT_NOSETUP, OPT_FAIL };

static const struct fs_parameter_spec fence_test_parameters[] = {
	fsparam_string("rid", OPT_RID),
	fsparam_flag("nosetup", OPT_NOSETUP),
	fsparam_flag("fail", OPT_FAIL),
	{}
};

static int fence_test_parse_param(struct fs_context *fc, struct fs_parameter *param)
{
	struct fence_test_mount *mount = fc->s_fs_info;
	struct fs_parse_result result;
	int opt;

	opt = fs_parse(fc, fence_test_parameters, param, &result);
	switch (opt) {
	case OPT_RID:
		if (kstrtou64(param->string, 16, &mount->rid))
			return invalf(fc, "fence_test: rid is not a hexadecimal number");
		return 0;
	case OPT_NOSETUP:
		mount->nosetup = true;
		return 0;
	case OPT_FAIL:
		mount->fail = true;
		return 0;
	default:
		return opt;
	}
}

static int fence_test_get_tree(struct fs_context *fc)
{
	return get_tree_nodev(fc, fence_test_fill_super);
}

/* Once there is a superblock, it owns s_fs_info and the context's pointer is NULL. */
static void fence_test_free_context(struct fs_context *fc)
{
	kfree(fc->s_fs_info);
}

static const struct fs_context_operations fence_test_context_operations = {
	.parse_param	= fence_test_parse_param,
	.get_tree	= fence_test_get_tree,
	.free		= fence_test_free_context,
};

static int fence_test_init_context(struct fs_context *fc)
{
	struct fence_test_mount *mount = kzalloc(sizeof(*mount), GFP_KERNEL);

	if (!mount)
		return -ENOMEM;

	mount->rid = get_random_u64();
	fc->s_fs_info = mount;
	fc->ops = &fence_test_context_operations;
	return 0;
}

static struct file_system_type fence_test_type = {
	.owner			= THIS_MODULE,
	.name			= FENCE_TEST_TYPE,
	.init_fs_context	= fence_test_init_context,
	.parameters		= fence_test_parameters,
	.kill_sb		= fence_test_kill_sb,
};
MODULE_ALIAS_FS(FENCE_TEST_TYPE);

static int __init fence_test_init(void)
{
	int ret;

	ret = fence_test_build_init();
	if (ret)
		return ret;

	ret = register_filesystem(&fence_test_type);
	if (ret)
		fence_test_build_exit();
	return ret;
}

static void __exit fence_test_exit(void)
{
	unregister_filesystem(&fence_test_type);
	set_uevent_ops(NULL);
	release_uevents();
	fence_test_build_exit();
}

module_init(fence_test_init);
module_exit(fence_test_exit);

MODULE_DESCRIPTION("Filesystem that calls scoutfs_fence for tests");
MODULE_LICENSE("GPL");
