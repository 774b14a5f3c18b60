#ifndef POLICYD_FOLLOWER_H
#define POLICYD_FOLLOWER_H

/*
 * follower - what is announced on a line, and what its owner wants, is read
 * again: a job at a time.
 *
 * Floor 5; uses base, config, tables/line, tables/reading, tables/schema.  It
 * owns the line, what is wanted and the job that is out; it says when a job
 * begins, whether it gets another round, and what a refusal means.  What is
 * read its owner puts in force: tables/feed.c, and tables/side.c beside it.
 *
 * What fails:
 *  - a table is locked: undone, read without it, and tried again with it after
 *    half a second, or when somebody tells of it;
 *  - the server ends a statement that took too long: the line is dropped, and
 *    a statement gets twice as long the next time;
 *  - any other refusal, a schema that is not ours, want of memory: the line is
 *    dropped; nothing is in force of what was read;
 *  - the line is lost: nothing is wanted any more, since all must be read.
 *
 * Callbacks run from the loop; none may free or reconfigure the follower.
 */

#include "tables/reading.h"

#include <stdbool.h>
#include <stdint.h>

struct config;
struct ev_loop;
struct follower;
struct line;

/* A job that is over. */
struct follower_read {
	const struct reading *reading; /* borrowed until the function returns */
	double began; /* clock_s() */
	bool complete; /* nothing of follower_want_all() is left to be read */
};

struct follower_handlers {
	/* Put it in force, or not. */
	void (*read)(void *arg, const struct follower_read *read);
	/* It listens: what was announced before may have been missed.  Or NULL. */
	void (*listening)(void *arg);
	/* The line is lost, or could not be had.  Or NULL. */
	void (*down)(void *arg);
	/* Are changes in force already without this one?  NULL: no. */
	bool (*can_wait)(void *arg);
	/* Is a job of use now?  Else what is wanted is forgotten.  NULL: it is. */
	bool (*may_begin)(void *arg);
	/* More than keys is wanted, where only keys are read.  Else NULL. */
	void (*too_much)(void *arg);
	void *arg;
};

/*
 * Borrows the config until it gets another, and the tables: it begins new ones.
 * beside: NULL; or the one that reads all, beside which this one reads keys
 * only.  That one looks at the schema, and says when lines come and go.
 */
struct follower *follower_new(struct ev_loop *loop,
    const struct config *config, struct tables *tables,
    const struct follower *beside, const struct follower_handlers *handlers);

/* NULL is allowed. */
void follower_free(struct follower *f);

/*
 * Go on with another config.  Where queries or the connection differ, the line
 * is made anew.
 */
void follower_reconfigure(struct follower *f, const struct config *config);

/* Read all, and look at the schema before. */
void follower_want_all(struct follower *f);

/* Are there tables to answer from, read with the same queries? */
bool follower_answers(const struct follower *f);

/* Is something of follower_want_all() left to be read? */
bool follower_is_behind(const struct follower *f);

/* Is all of a source wanted, or being read? */
bool follower_wants_whole(const struct follower *f);

/* Something is out. */
bool follower_is_busy(const struct follower *f);

/* So many jobs are over, in force or not. */
uint64_t follower_jobs(const struct follower *f);

/* To see how it is, or to drop it. */
struct line *follower_line(const struct follower *f);

#endif
