#ifndef POLICYD_DB_SESSION_H
#define POLICYD_DB_SESSION_H

/*
 * db session - one PostgreSQL connection driven by the event loop.
 *
 * Floor 4.  Knows nothing of mail.
 *
 * A session is in exactly one state.  It connects by itself, and again when it
 * is lost: after 0.1 s, then twice as long each time, a random half of it more
 * or less, up to reconnect_max_s; or once another one to the same is up.  Where
 * there are several hosts and the time for an attempt is over, or its owner
 * dropped it, the next one begins with the host after the first.
 *
 * At most one query is in flight, and every wait has a deadline.  Each query
 * that db_query() takes is answered by one call of its done function: never
 * from inside db_query(), and never after db_session_free().  Callbacks run
 * from the loop; none may free the session.
 *
 * Hosts' names are looked up aside (db/places), since libpq would wait.
 */

#include "base/str.h"

#include <libpq-fe.h>

struct ev_loop;
struct db_session;

enum db_state {
	DB_DOWN,       /* no socket; the retry timer runs */
	DB_CONNECTING, /* hosts are looked up, or libpq is at it */
	DB_IDLE,       /* ready for db_query() */
	DB_BUSY,       /* a query is in flight */
};

enum db_outcome {
	DB_OK,      /* the result is good */
	DB_REFUSED, /* the server reported an error; the session is still good */
	DB_LOST,    /* the session failed first: the statement may have run */
	DB_TIMEOUT, /* our own deadline passed: the session was dropped */
};

/* res is NULL unless DB_OK or DB_REFUSED; the callee owns it and PQclears it. */
typedef void db_done_fn(void *arg, enum db_outcome outcome, PGresult *res);

struct db_handlers {
	void (*up)(void *arg);
	/* The connection, or an attempt at one, has failed. */
	void (*down)(void *arg, const char *why);
	/* payload is borrowed until the function returns. */
	void (*notified)(void *arg, const char *channel, const char *payload);
	void *arg;
};

struct db_options {
	const char *conninfo; /* string or URI; copied */
	double connect_timeout_s;
	double reconnect_max_s;
};

/* The first attempt starts in the next turn of the loop. */
struct db_session *db_session_new(struct ev_loop *loop,
    const struct db_options *options, const struct db_handlers *handlers);

/* NULL is allowed.  Drops the socket at once; a query in flight is forgotten. */
void db_session_free(struct db_session *s);

enum db_state db_session_state(const struct db_session *s);

/* Some connections: how many are up, and when one last came up or was lost. */
struct db_count {
	int up;
	int wanted;
	double since; /* seconds since 1970 */
};

/* Add this one to them. */
void db_session_count(const struct db_session *s, struct db_count *count);

/*
 * Run one statement with n text parameters (NULL is SQL NULL).  Keeps no
 * pointer to sql or params.  The session must be DB_IDLE.
 */
void db_query(struct db_session *s, const char *sql, int n,
    const char *const *params, double timeout_s, db_done_fn *done, void *arg);

/*
 * Prepare a statement for this connection; the next one knows nothing of it.
 * db_query_prepared() is db_query() of it.
 */
void db_prepare(struct db_session *s, const char *name, const char *sql,
    double timeout_s, db_done_fn *done, void *arg);
void db_query_prepared(struct db_session *s, const char *name, int n,
    const char *const *params, double timeout_s, db_done_fn *done, void *arg);

/* Drop the connection, as if it had failed; it is made again. */
void db_session_drop(struct db_session *s, const char *why);

/*
 * The first line of a libpq message, which says what happened; hints and the
 * failures of further hosts follow it.  Borrowed from the message.
 */
struct str db_first_line(const char *message);

#endif
