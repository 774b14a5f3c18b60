#ifndef POLICYD_DB_LOOKUP_H
#define POLICYD_DB_LOOKUP_H

/*
 * db lookup - where a host is, found out by a child process.
 *
 * Floor 4.  A resolver that does not answer takes half a minute to say so, and
 * libpq would wait for it.  All who want the same name share one child at a
 * time and what it found: an answer is taken for true for a second, and the
 * last one is kept where no further one comes.
 */

#include <stdbool.h>

struct ev_loop;
struct lookup;

/* Something may be known now; called from the loop. */
struct lookup_waiter {
	void (*done)(void *arg);
	void *arg;
	struct lookup_waiter *next;
};

/* The one of this name; the waiter is the caller's until lookup_put(). */
struct lookup *lookup_get(struct ev_loop *loop, const char *name,
    struct lookup_waiter *waiter);
void lookup_put(struct lookup *l, struct lookup_waiter *waiter);

/* Begin, unless a child is at it or was a moment ago. */
void lookup_start(struct lookup *l);

/* For how long has a child been at it?  0 if none is. */
double lookup_takes_s(const struct lookup *l);

/* The last that is known, up to a NULL; the lookup's own. */
const char *const *lookup_addresses(const struct lookup *l);

/* Why the last one failed, or NULL. */
const char *lookup_error(const struct lookup *l);

#endif
