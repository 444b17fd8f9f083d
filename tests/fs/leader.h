/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a mount does for its cluster while it is elected, as scoutfs does it.
 */
#ifndef _FENCE_TEST_LEADER_H_
#define _FENCE_TEST_LEADER_H_

#include <linux/types.h>

struct fence_test_leader;
struct super_block;

#ifdef SCOUTFS_FENCE_PARENT
int fence_test_leader_init(void);
void fence_test_leader_exit(void);

/* A mount that is not elected yet. */
struct fence_test_leader *fence_test_leader_new(struct super_block *sb);

/* Steps down as well. */
void fence_test_leader_free(struct fence_test_leader *leader);

/*
 * Has the previous leaders fenced, and leads from then on.  The rids are
 * separated by commas; "-" is none.
 */
int fence_test_leader_elect(struct fence_test_leader *leader, char *rids);

/* Has these clients fenced, unless the leader has stepped down by then. */
int fence_test_leader_recover(struct fence_test_leader *leader, int milliseconds, char *rids);

/* Returns once it neither leads nor is being elected. */
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
