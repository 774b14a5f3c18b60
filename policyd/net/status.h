#ifndef POLICYD_STATUS_H
#define POLICYD_STATUS_H

/*
 * status - what the daemon knows of itself, as one table of values.
 *
 * Floor 7; uses base, config, db, policy, tables.  Whoever shows them (control)
 * walks the table: a new value is a field and a row.
 */

#include "config/config.h"
#include "mail/action.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct feed;
struct policy;
struct server;
struct tables;

/* Where the values come from; all is borrowed. */
struct status_sources {
	const struct server *server;
	const struct policy *policy;
	const struct feed *feed;
	const struct tables *tables;

	/* What main knows. */
	double started;  /* monotonic, as status_clock() */
	double reloaded; /* when it was tried last; seconds since 1970, 0: never */
	bool reload_failed;
	bool ready;
};

enum { PROBLEMS_MAX = 9 };

/* All numbers are int64_t; -1: not known. */
struct status {
	const char *version;
	int64_t pid, uptime, memory, ready, reloaded, reload_failed;
	int64_t connections, connections_max, connections_accepted, requests;
	int64_t answers[ACTION_MEANINGS], closed, replies[REPLIES];
	int64_t sessions;
	int64_t database_up, database_wanted, database_since;
	int64_t tables_from_copy, tables_read, tables_reads, tables_changes;
	int64_t domains, domain_aliases, addresses, aliases, list_entries;
	int64_t rules, tables_bytes;
	int64_t greylist_listening, greylist_known, greylist_unsaved;
	int64_t greylist_on_disk;

	/* What is not well; none: all is. */
	const char *problem[PROBLEMS_MAX];
	int problems;
};

enum value_kind {
	VALUE_TEXT,    /* const char *; the others int64_t */
	VALUE_YESNO,
	VALUE_GAUGE,   /* what there is now */
	VALUE_COUNTER, /* since the start */
	VALUE_TIME,    /* seconds since 1970; 0: never */
};

struct value {
	const char *name;
	enum value_kind kind;
	const char *unit; /* empty: it is counted */
	const char *help;
	size_t offset; /* in struct status */
};

extern const struct value status_values[];
extern const size_t status_count;

/* A word for a kind. */
const char *status_kind(enum value_kind kind);

/* Now: in bounded time, without waiting for anything. */
void status_read(const struct status_sources *from, struct status *out);

double status_clock(void);

#endif
