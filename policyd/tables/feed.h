#ifndef POLICYD_FEED_H
#define POLICYD_FEED_H

/*
 * feed - keeps the tables in memory true to PostgreSQL.
 *
 * Floor 5; uses base, config, tables/follower, tables/side, tables/copy.  It
 * borrows the tables, and is the only one who has them written.
 *
 * Its follower listens, then reads everything in one snapshot, and it is
 * swapped in.  A notification makes it read just that row again (or that
 * table, when there were many), everything that is known to have changed in
 * one snapshot, applied between two requests.  While all is read, and that
 * follower hears of nothing, its side does the same for changed rows, in the
 * tables that answer meanwhile.  All is read again every refresh, when a lost
 * connection is back, and where much of a table is waste.
 *
 * Each full read, and each quiet moment after a change, leaves a copy on disk,
 * which is what a start without PostgreSQL serves from.
 */

#include "db/session.h"

#include <stdbool.h>
#include <stdint.h>

struct config;
struct tables;
struct ev_loop;
struct feed;

/* What `policyctl status` and the log tell of it. */
struct feed_status {
	bool connected;
	bool from_copy;     /* the tables are those of the copy */
	bool copy_failed;   /* what is on disk is older than that */
	uint64_t reads;     /* full reads so far */
	uint64_t changes;   /* keys and tables read after a notification */
	double read_at;     /* when the last was over; s since 1970, 0: never */
	struct db_count db;
};

/*
 * settled is called once, from the loop: when the tables are there for the
 * first time, from PostgreSQL or the copy, or when it is known that neither
 * is to be had for now.
 */
struct feed *feed_new(struct ev_loop *loop, const struct config *config,
    struct tables *tables, void (*settled)(void *arg), void *arg);

/*
 * Stop, and write what the copy lacks.  Blocks for as long as that takes.
 * NULL is allowed.
 */
void feed_free(struct feed *f);

/*
 * Go on with another config, from the next turn of the loop.  Where queries or
 * the connection differ, all is read again; the tables answer meanwhile.
 */
void feed_reconfigure(struct feed *f, const struct config *config);

struct feed_status feed_status(const struct feed *f);

#endif
