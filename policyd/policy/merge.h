#ifndef POLICYD_MERGE_H
#define POLICYD_MERGE_H

/*
 * merge - the statements that write the journal to PostgreSQL.
 *
 * Floor 6; uses base, db.  What of an entry goes into which parameter of
 * policyd.greylist_merge and its like; when they are sent is writer.c's.
 */

#include "policy/journal.h"

enum { MERGE_PARAMS_MAX = 9 };

/* One statement, and its parameters, as text. */
struct merge {
	const char *sql;
	int n;
	char *param[MERGE_PARAMS_MAX];
};

/* The same for all entries of a kind. */
const char *merge_sql(enum journal_kind kind);

/*
 * Write these entries, all of that kind.  ahead: PostgreSQL's clock less that
 * of the entries, in ms; retry_window and max_age in seconds.
 */
struct merge merge_new(enum journal_kind kind,
    struct journal_entry *const *entries, size_t n, int64_t ahead,
    double retry_window_s, double max_age_s);

/* The parameters. */
void merge_free(struct merge *m);

#endif
