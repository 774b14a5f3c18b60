#ifndef POLICYD_ROUND_H
#define POLICYD_ROUND_H

/*
 * round - what is read in one snapshot; and some rounds, one upon the other.
 *
 * Floor 5; uses tables/want, tables/source.  Pure but for the tables that it
 * is told to write to.  Rounds own what they want and the rows that were read
 * by keys.  All of a source is not kept here: it goes to new tables at once,
 * which tables_swap() puts in force.
 *
 * Of a key that stands in two rounds the later is true.
 */

#include "tables/want.h"

struct round {
	struct want want[SOURCES];
	bool declared[SOURCES];  /* there is a cursor for all of it */
	PGresult *rows[SOURCES]; /* of its keys */
};

/* Zeroed: none. */
struct rounds {
	struct round *at;
	int count;
};

/* One more, for what of the wants can be had, which is theirs no longer. */
struct round *rounds_add(struct rounds *r, struct wants *wants);

/* There must be one. */
struct round *rounds_last(const struct rounds *r);

/* All of it is read now: what earlier rounds read of it is older. */
void rounds_drop_keys(struct rounds *r, enum source source);

/* Is all of that source read in any of them; or of any source? */
bool rounds_whole(const struct rounds *r, enum source source);
bool rounds_any_whole(const struct rounds *r);

/* So many keys, and sources as a whole, are in them. */
uint64_t rounds_changes(const struct rounds *r);

/*
 * Swap the new tables in, where there are any, and put the rows in force one
 * round upon the other.  Returns how many rows made no sense.
 */
int rounds_apply(const struct rounds *r, struct tables *t);

/* It was in vain: what they were for is wanted once more.  Then none is left. */
void rounds_give_back(struct rounds *r, struct wants *wants);

void rounds_clear(struct rounds *r);

#endif
