#ifndef POLICYD_WANT_H
#define POLICYD_WANT_H

/*
 * want - what is to be read: of one source, all of it or some keys; and of all
 * sources.
 *
 * Floor 5; uses base, mail, config and tables/source.  Pure: it knows of no
 * connection and no clock.  A want owns its keys; what is zeroed wants nothing.
 */

#include "base/str.h"
#include "tables/source.h"

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

/* Is all of any source wanted? */
bool is_any_whole(const struct want of[SOURCES]);

/* What is held is locked by somebody else: wanted, but not to be had for now. */
struct wants {
	struct want of[SOURCES];
	bool held[SOURCES];
};

/* Nothing any more; what is held stays so. */
void wants_clear(struct wants *w);

/* All of each source. */
void wants_whole(struct wants *w);

/* Nothing is held any longer. */
void wants_release(struct wants *w);

/* Is there anything that can be had? */
bool wants_any(const struct wants *w);

/* Hand over what can be had: out, whose content is lost, wants it then. */
void wants_take(struct wants *w, struct want out[SOURCES]);

/*
 * Want what a notification names: TABLE:KEY, TABLE for all of one, or nothing,
 * for all there is.  Anybody may notify of anything: what there is not is
 * passed over.  What it names is held no longer.
 */
void wants_hear(struct wants *w, const struct config *config,
    const char *payload);

#endif
