#ifndef POLICYD_LINE_H
#define POLICYD_LINE_H

/*
 * line - a connection that listens, and reads when it is asked to.
 *
 * Floor 5; uses base, config, db.  It makes itself ready (times in one form,
 * LISTEN), tells the server its limits, and shows every 10 s that it is alive.
 * While a transaction is open on it, it hears of nothing: what was announced
 * comes with the answer to COMMIT.  What a lost connection missed nobody tells.
 *
 * Callbacks run from the loop, and may call anything here but line_free() and
 * line_reconfigure().  Durations are seconds.
 */

#include "db/session.h"

#include <stdbool.h>

struct config;
struct ev_loop;
struct line;

struct line_handlers {
	/* It listens from now on. */
	void (*listening)(void *arg);
	/* It is lost, or could not be had.  It is made again by itself. */
	void (*down)(void *arg);
	/* The payload is borrowed until the function returns. */
	void (*heard)(void *arg, const char *payload);
	/* Nothing is out any more that the line asked for itself. */
	void (*free)(void *arg);
	void *arg;
};

/*
 * Borrows the config until it gets another.  quiet: nothing is logged when the
 * connection comes and goes.
 */
struct line *line_new(struct ev_loop *loop, const struct config *config,
    bool quiet, const struct line_handlers *handlers);

/* NULL is allowed.  What is out is forgotten. */
void line_free(struct line *l);

/*
 * Go on with another config.  Where it says so, or anew is set, the connection
 * is dropped, without a word to anybody, and made again: then true.
 */
bool line_reconfigure(struct line *l, const struct config *config, bool anew);

/* There is a connection, though it may not be ready. */
bool line_is_up(const struct line *l);

bool line_is_listening(const struct line *l);

/* A statement of its own is out. */
bool line_is_busy(const struct line *l);

/* Nothing is out: line_ask() and line_read() may be called. */
bool line_is_free(const struct line *l);

/*
 * One statement with at most one parameter (NULL: none); the outcome as with
 * db_query().  line_ask: it is answered at once, or the connection is dropped;
 * line_read: within the limits that were set.
 */
void line_ask(struct line *l, const char *sql, const char *param,
    db_done_fn *done, void *arg);
void line_read(struct line *l, const char *sql, const char *param,
    db_done_fn *done, void *arg);

/*
 * How long the server lets a statement take, and wait for a lock; 0: for ever.
 * true: it has to be told first, and free() comes when it is.
 */
bool line_limit(struct line *l, double statement_s, double lock_s);

/* Does a statement give up where something is locked? */
bool line_is_impatient(const struct line *l);

/* The server refused it: say so, with the table (or none), and drop the line. */
void line_refused(struct line *l, const PGresult *res, struct str table);

/* Drop it, as if it had failed.  false: there is none. */
bool line_drop(struct line *l, const char *why);

/* Add it to those counted. */
void line_count(const struct line *l, struct db_count *count);

#endif
