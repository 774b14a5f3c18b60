#ifndef POLICYD_SEE_H
#define POLICYD_SEE_H

/*
 * see - the statement that asks PostgreSQL about keys, and what it answers.
 *
 * Floor 6; uses base, db.  policyd.greylist_see as db/batch.h sends it: which
 * column is which, which row answers which key.  What is made of the rows is
 * greylist.c's.
 */

#include "db/batch.h"

enum see_column {
	SEE_CLIENT,
	SEE_SENDER,
	SEE_RECIPIENT,
	SEE_NETWORK,
	SEE_COLUMNS,
	SEE_KEY_COLUMNS = SEE_NETWORK, /* the first that many are the key */
};

extern const char SEE_SQL[];

/*
 * A row as it is after this attempt.  Times are PostgreSQL's, in seconds; the
 * text is the result's.
 */
struct see_row {
	const char *client;
	bool is_client;  /* not greylisted at all: last_seen, and no other time */
	bool has_passed;
	bool is_new;     /* first seen by this very attempt */
	bool passes;     /* passed by this very attempt */
	double first_seen, last_seen, clock;
};

struct see_row see_row(const PGresult *res, int row);

struct see_handlers {
	/* A client or network that is not greylisted; its hash. */
	void (*client)(void *arg, uint64_t hash, const struct see_row *row);
	/* A key that was asked for. */
	void (*key)(void *arg, const struct batch_item *item,
	    const struct see_row *row);
	/* A client or network that is greylisted like any; its hash. */
	void (*stranger)(void *arg, uint64_t hash);
	void *arg;
};

/* For batch_options: give each item its row, and tell of all of them. */
void see_match(struct batch_item *const *items, size_t n, const PGresult *res,
    const struct see_handlers *on);

#endif
