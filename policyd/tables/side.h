#ifndef POLICYD_SIDE_H
#define POLICYD_SIDE_H

/*
 * side - follows changed rows while another follower reads all.
 *
 * Floor 5; uses tables/follower.  That one hears of nothing in the meantime;
 * the side has a line of its own, and puts changed rows in force in the tables
 * that answer.  The other one reads them once more itself, into what it puts in
 * force at its end: whatever was begun here and is not over by then is of no
 * use, and is dropped.  At any other time what the side hears is forgotten.
 *
 * It reads keys only.  Where a table changes as a whole, that and all that
 * follows wait for the end of the job of the other one.
 *
 * It owns its follower and borrows the rest.  It calls nobody.
 */

#include <stdbool.h>

struct config;
struct db_count;
struct ev_loop;
struct follower;
struct side;
struct tables;

/* To be freed before the one that it goes beside of. */
struct side *side_new(struct ev_loop *loop, const struct config *config,
    struct tables *tables, const struct follower *beside);

/* NULL is allowed. */
void side_free(struct side *s);

/* As follower_reconfigure(). */
void side_reconfigure(struct side *s, const struct config *config);

/* Is what changes in force without the other one? */
bool side_follows(const struct side *s);

/* Add its connection to those counted. */
void side_count(const struct side *s, struct db_count *count);

#endif
