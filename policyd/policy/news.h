#ifndef POLICYD_NEWS_H
#define POLICYD_NEWS_H

/*
 * news - what is announced of the rows of greylisting.
 *
 * Floor 6; uses base, config, db.  Heard on a connection that does nothing but
 * listen (db/ear.h).  An answer that is on its way may be older than what is
 * announced meanwhile: so what was announced since a moment is remembered.
 */

#include <stdbool.h>
#include <stdint.h>

struct config;
struct db_count;
struct ev_loop;
struct news;

struct news_handlers {
	/*
	 * A key, as journal_key() makes it: its row is not what it was.  merged:
	 * by another host, which has heard more of it; else by somebody who
	 * wants it so.
	 */
	void (*key)(void *arg, uint64_t key, bool merged);
	/* A client, its hash: the same. */
	void (*client)(void *arg, uint64_t client);
	/* Many of either. */
	void (*many)(void *arg);

	/* Listening from now on: what was announced before may be missed. */
	void (*begun)(void *arg);
	/* No longer: PostgreSQL, or the way to it, has failed. */
	void (*ended)(void *arg);
	/* PostgreSQL's clock, in seconds since 1970. */
	void (*clock)(void *arg, double seconds);
	void *arg;
};

struct news *news_new(struct ev_loop *loop, const struct config *config,
    const struct news_handlers *handlers);

/* NULL is allowed. */
void news_free(struct news *n);

/* Connect anew.  Nobody is told that it ended. */
void news_reconfigure(struct news *n, const struct config *config);

/* One announcement, as the connection hears it.  Most are not of this room. */
void news_hear(struct news *n, const char *payload);

/* Is all heard that is announced? */
bool news_is_heard(const struct news *n);

/* Add its connection to those counted. */
void news_count(const struct news *n, struct db_count *count);

/* From now on, remember what is announced, until the next call of this. */
void news_watch(struct news *n);

/* Has this key or client been announced since? */
bool news_had(const struct news *n, uint64_t hash);

#endif
