#ifndef POLICYD_TABLES_H
#define POLICYD_TABLES_H

/*
 * tables - all that administrators wrote in PostgreSQL, in memory.
 *
 * Floor 5.  What a request asks, and what feed has filled, swaps and copies as one:
 * a request sees all of a transaction or nothing.
 */

#include <stdbool.h>
#include <stdint.h>

struct directory;
struct lists;
struct rules;

struct tables {
	struct directory *directory;
	struct lists *lists;
	struct rules *rules;
	uint64_t origin; /* source_origin() of what they were read with, or 0 */
};

void tables_init(struct tables *t, bool fold_local_part);
void tables_fini(struct tables *t);

/* Every table that was begun takes the place of the one that answers. */
void tables_swap(struct tables *t);

/* Drop every table that was begun. */
void tables_abandon(struct tables *t);

/*
 * Rows written between the two go to the tables that answer, also where new
 * ones have been begun.
 */
void tables_pause(struct tables *t);
void tables_resume(struct tables *t);

/* Is so much of it waste that all should be read anew? */
bool tables_wasteful(const struct tables *t);

#endif
