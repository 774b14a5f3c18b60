#ifndef POLICYD_ASIDE_H
#define POLICYD_ASIDE_H

/*
 * aside - what is in memory is written to disk by a child process.
 *
 * Floor 1.  A child has a still picture of all memory, for the price of one
 * fork, and may wait for the disk.  Changes are gathered for least_s, and for
 * 50 times as long as the last child took, but no longer than most_s: it runs
 * 2 % of the time, unless there is a hurry.  What fails is tried again after
 * 30 s.
 */

#include <stdbool.h>

struct aside;
struct ev_loop;

struct aside_job {
	/* Write it.  Called in the child.  0, or -1, errno. */
	int (*write)(void *arg);
	/* It failed; called from the loop or aside_end(). */
	void (*failed)(void *arg, int error);
	void *arg;
	double least_s, most_s;
	/* Let everybody else go first: on a busy machine it may take seconds. */
	bool patient;
};

struct aside *aside_new(struct ev_loop *loop, const struct aside_job *job);

/* Something has changed. */
void aside_soon(struct aside *a);

/* What has changed need not be written any more, but for what a child does. */
void aside_forget(struct aside *a);

/* Is a child at it? */
bool aside_is_busy(struct aside *a);

/* Did the last child fail?  NULL is allowed. */
bool aside_has_failed(const struct aside *a);

/*
 * From now on there is so much time for all that is to be ended: a disk that
 * hangs must not keep the process.
 */
void aside_end_within(double s);

/*
 * Write what is not on disk yet, and free it.  Blocks, for 5 s at most if nobody
 * said otherwise; after that what was on disk before stays there.  NULL is
 * allowed.
 */
void aside_end(struct aside *a);

#endif
