/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The work of an elected mount for its cluster, as in scoutfs.
 */
#ifndef _FENCE_TEST_LEADER_H_
#define _FENCE_TEST_LEADER_H_

#include <linux/types.h>

struct fence_test_leader;
struct super_block;

#ifdef SCOUTFS_FENCE_PARENT
int fence_test_leader_init(void);
void fence_test_leader_exit(void);

/* Allocates a leader that is not elected yet. */
struct fence_test_leader *fence_test_leader_new(struct super_block *sb);

/* Steps down first. */
void fence_test_leader_free(struct fence_test_leader *leader);

/*
 * Waits for the previous leaders to be fenced, then leads.  The rids are
 * separated by commas; "-" means none.
 */
int fence_test_leader_elect(struct fence_test_leader *leader, char *rids);

/* Requests fencing of these clients after a delay, unless the leader steps down first. */
int fence_test_leader_recover(struct fence_test_leader *leader, int milliseconds, char *rids);

/* Ends leadership or an election, and waits until that is done. */
void fence_test_leader_step_down(struct fence_test_leader *leader);

/* Prints the leader's state. */
void fence_test_leader_show(struct fence_test_leader *leader, char *buf, size_t size);
#else
static inline struct fence_test_leader *fence_test_leader_new(struct super_block *sb)
{
	return NULL;
}

static inline void fence_test_leader_free(struct fence_test_leader *leader)
{
}
#endif

#endif
