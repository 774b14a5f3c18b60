#ifndef POLICYD_SET_H
#define POLICYD_SET_H

/*
 * set - a growing set of 64-bit hashes.
 *
 * Floor 0.  For things of which only "was it there before?" is asked, by the
 * keyed hash of base/hash.h; two different things fall together once in 2^64.
 * A zeroed struct is an empty set, and
 * one element needs no memory besides.
 */

#include <stdbool.h>
#include <stdint.h>

struct set {
	uint64_t *slot; /* NULL while there is at most one element */
	uint64_t one;
	uint32_t slots; /* a power of two, or 0 */
	uint32_t count;
};

bool set_has(const struct set *s, uint64_t h);

/* Returns whether it is new. */
bool set_add(struct set *s, uint64_t h);

/* Empty it; a small one keeps its memory for the next use. */
void set_clear(struct set *s);

void set_free(struct set *s);

#endif
