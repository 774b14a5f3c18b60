#ifndef POLICYD_BATCH_H
#define POLICYD_BATCH_H

/*
 * db batch - what waits now becomes one statement; each waiter gets its row.
 *
 * Floor 4.  Knows nothing of mail.  While one statement is out, keys gather;
 * when it is back, all that gathered go as the next one, each key once, in
 * their order (one that is asked for with other columns besides its key, in one
 * after that).  Nothing is held back in the hope of more: an idle daemon asks in
 * one round trip, a loaded one asks ever more at once.
 *
 * Nobody waits for longer than patience_s, which is the one thing that is timed:
 * whoever waits is told so then, nobody may wait until the statement is over,
 * and its rows are still learnt when it comes.
 */

#include "base/str.h"

#include <libpq-fe.h>
#include <stdint.h>

struct batch;
struct db_pool;
struct ev_loop;

enum {
	BATCH_COLUMNS_MAX = 8,
	BATCH_ROWS_MAX = 1000,     /* of one statement: BASELINE, K = 256 to 1024 */
	BATCH_WAITING_MAX = 10000, /* keys; beyond, batch_ask() says no */
};

/*
 * res is borrowed until the function returns.  NULL: no answer in time, the
 * statement failed, or it had no row for this key (then row is -1).
 */
typedef void batch_done_fn(void *arg, const PGresult *res, int row);

/* One who waits; the caller's, who leaves it alone until done or cancelled. */
struct batch_waiter {
	struct batch_item *item; /* NULL: it does not wait */
	struct batch_waiter *next, *prev;
	batch_done_fn *done;
	void *arg;
};

/* A key that is asked for. */
struct batch_item {
	struct batch_item *chain;
	uint64_t key;
	int count;    /* how often, of those that count */
	double since; /* when the first of them began to wait; monotonic */
	int row;   /* of the result, for match to set */
	struct batch_waiter *first;
	char *column[BATCH_COLUMNS_MAX]; /* text */
};

struct batch_options {
	/*
	 * Gets the columns as arrays of text, then the counts as one of
	 * integer, then what parameters adds.
	 */
	const char *sql;
	int columns;
	int key_columns; /* the first of them: items are sorted by these */

	/* Add further parameters, borrowed until the statement is sent. */
	int (*parameters)(void *arg, const char **more, int max);

	/* A statement is sent. */
	void (*sent)(void *arg);

	/*
	 * Find each item's row, -1 at first, in an answer, before anybody is
	 * told; items are sorted by memcmp of their key columns.
	 */
	void (*match)(void *arg, struct batch_item *const *items, size_t n,
	    const PGresult *res);

	/* For the log: a statement failed. */
	void (*failed)(void *arg, const char *why);
	void *arg;
};

/* Of use once batch_use() was called. */
struct batch *batch_new(struct ev_loop *loop,
    const struct batch_options *options);

/* NULL is allowed.  Nobody may wait any more. */
void batch_free(struct batch *b);

/*
 * From the next statement on, ask this pool, which is borrowed, and wait so
 * long: the statement timeout_s, a waiter patience_s.
 */
void batch_use(struct batch *b, struct db_pool *pool, double timeout_s,
    double patience_s);

/* Is it worth asking, that is, is there hope of an answer now? */
bool batch_ready(const struct batch *b);

/*
 * Wait for the row of this key.  done is called once, from the loop; false if
 * there is no hope of an answer now, and then it never is.  columns are
 * copied; they hold no NUL.
 */
bool batch_ask(struct batch *b, uint64_t key, const struct str *columns,
    bool counted, struct batch_waiter *w, batch_done_fn *done, void *arg);

/* done will not be called.  What is known of the key is still learnt. */
void batch_cancel(struct batch_waiter *w);

/* memcmp over the first n columns of an item and as many texts. */
int batch_compare(const struct batch_item *item, const char *const *texts,
    int n);

#endif
