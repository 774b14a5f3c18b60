#ifndef POLICYD_DB_POOL_H
#define POLICYD_DB_POOL_H

/*
 * db pool - some sessions that share one bounded queue of statements.
 *
 * Floor 4.  Knows nothing of mail.  A call is answered by one call of its done
 * function, from the loop, within its time, whether it was sent or still
 * waited; or never, once it was cancelled.
 */

#include "db/session.h"

struct db_pool;
struct db_call;

enum { DB_QUEUE_MAX = 1000 };

/* What every new connection does first; all strings are copied. */
struct db_pool_setup {
	/* A statement to run, with the one parameter; or NULL. */
	const char *sql;
	const char *parameter;

	/*
	 * Statements to prepare, up to a NULL; or NULL.  db_pool_query() of the
	 * same text uses them.  One that cannot be prepared is sent as it is.
	 */
	const char *const *prepare;

	/*
	 * All of its statements write: a server that refused one is not asked
	 * again before it says that it can.
	 */
	bool writes;

	/* A session has failed, or could not be made; or NULL. */
	void (*down)(void *arg);
	void *arg;
};

/* A setup that bounds each of its statements, in ms. */
#define DB_SET_TIMEOUT "SELECT set_config('statement_timeout', $1, false)"

enum { DB_PREPARED_MAX = 8 };

/* setup may be NULL. */
struct db_pool *db_pool_new(struct ev_loop *loop,
    const struct db_options *options, int sessions,
    const struct db_pool_setup *setup);

/* NULL is allowed.  Calls that are not over are answered DB_LOST at once. */
void db_pool_free(struct db_pool *p);

/* Is a session up, or may one come up yet?  Else all have failed. */
bool db_pool_hopeful(const struct db_pool *p);

/* Add its sessions to those counted. */
void db_pool_count(const struct db_pool *p, struct db_count *count);

/*
 * Run one statement with n text parameters, all copied.  NULL if no session is
 * to be had (all have failed) or the queue is full: done is never called then.
 */
struct db_call *db_pool_query(struct db_pool *p, const char *sql, int n,
    const char *const *params, double timeout_s, db_done_fn *done, void *arg);

/* done will not be called.  The statement may go on at the server. */
void db_call_cancel(struct db_call *call);

#endif
