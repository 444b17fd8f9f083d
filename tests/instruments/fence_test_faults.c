// SPDX-License-Identifier: GPL-2.0-only
/*
 * Makes a fault when its name is written to the parameter `plant`.  The kernel's own instruments
 * should report each fault, which does no lasting harm.
 */
#include <linux/delay.h>
#include <linux/kobject.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/timer.h>

static int shift_too_far(void)
{
	int bits = 40, number = 1;

	/* Keeps the compiler from removing the shift. */
	OPTIMIZER_HIDE_VAR(bits);
	number <<= bits;
	OPTIMIZER_HIDE_VAR(number);
	return 0;
}

static int corrupt_a_list(void)
{
	struct list_head first, second;

	INIT_LIST_HEAD(&first);
	list_add(&second, &first);
	second.prev = &second;
	list_del(&second);
	return 0;
}

static void never_called(struct timer_list *timer)
{
}

static int free_an_active_timer(void)
{
	struct timer_list *timer = kzalloc(sizeof(*timer), GFP_KERNEL);

	if (!timer)
		return -ENOMEM;
	timer_setup(timer, never_called, 0);
	mod_timer(timer, jiffies + 3600 * HZ);
	kfree(timer);
	return 0;
}

static void release(struct kobject *kobj)
{
}

static const struct kobj_type ktype = {
	.release = release,
};

static int free_a_kobject(void)
{
	struct kobject *kobj = kzalloc(sizeof(*kobj), GFP_KERNEL);

	if (!kobj)
		return -ENOMEM;
	kobject_init(kobj, &ktype);
	kobject_put(kobj);
	kfree(kobj);
	return 0;
}

static int shared;

static int count_without_a_lock(void *unused)
{
	while (!kthread_should_stop()) {
		shared++;
		cond_resched();
	}
	return 0;
}

static int race(void)
{
	struct task_struct *threads[2];
	int i;

	for (i = 0; i < ARRAY_SIZE(threads); i++)
		threads[i] = kthread_run(count_without_a_lock, NULL, "fence_test_race");
	msleep(3000);
	for (i = 0; i < ARRAY_SIZE(threads); i++)
		if (!IS_ERR(threads[i]))
			kthread_stop(threads[i]);
	return 0;
}

static const struct {
	const char *name;
	int (*plant)(void);
} faults[] = {
	{ "shift_too_far", shift_too_far },
	{ "corrupt_a_list", corrupt_a_list },
	{ "free_an_active_timer", free_an_active_timer },
	{ "free_a_kobject", free_a_kobject },
	{ "race", race },
};

static int plant_set(const char *value, const struct kernel_param *kp)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(faults); i++)
		if (sysfs_streq(value, faults[i].name))
			return faults[i].plant();
	return -EINVAL;
}

static const struct kernel_param_ops plant_ops = {
	.set = plant_set,
};

module_param_cb(plant, &plant_ops, NULL, 0200);
MODULE_PARM_DESC(plant, "the name of the fault to make");

MODULE_AUTHOR("The scoutfs-fence developers");
MODULE_DESCRIPTION("Faults for the kernel's instruments to find");
MODULE_LICENSE("GPL");
