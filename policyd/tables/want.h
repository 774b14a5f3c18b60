#ifndef POLICYD_WANT_H
#define POLICYD_WANT_H

/*
 * want - what is to be read of one source: all of it, or some keys.
 *
 * Floor 5; uses base.
 */

#include "base/str.h"

struct want {
	bool whole;
	char **keys;
	size_t count;
};

/* Nothing any more. */
void want_clear(struct want *w);

/* All of it. */
void want_whole(struct want *w);

/* One key more; an empty one, and one too many, want all of it. */
void want_key(struct want *w, struct str key);

/* What the other wants as well. */
void want_also(struct want *w, const struct want *other);

bool is_wanted(const struct want *w);

#endif
