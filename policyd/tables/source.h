#ifndef POLICYD_SOURCE_H
#define POLICYD_SOURCE_H

/*
 * source - where each table is read from, and what a row of it means.
 *
 * Floor 4; uses base, config, mail.  One table (source.c) has for each of our
 * own tables the SQL for all of it and for some keys of it.  [lookup] queries
 * of the administrator's take the place of some: `domains` that of domain and
 * domain_alias, `addresses` that of address and alias.  Columns but the first
 * are found by name, and any of them may be absent.
 */

#include "base/str.h"

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

struct config;
struct tables;

enum source {
	SOURCE_DOMAIN,
	SOURCE_DOMAIN_ALIAS,
	SOURCE_ADDRESS,
	SOURCE_ALIAS,
	SOURCE_LIST_ENTRY,
	SOURCE_RULE,
	SOURCES
};

/* Is anything read for it, or do its rows come with those of another? */
bool source_is_read(const struct config *config, enum source source);

/* The query for all of it, to be freed; NULL: nothing is read for it. */
char *source_query(const struct config *config, enum source source);

/*
 * The query for the keys in $1 (text[], in ASCII lower case); NULL: it must be
 * read whole.
 */
const char *source_keyed_query(const struct config *config,
    enum source source);

/*
 * To be asked as a column at the end of a transaction that reads: is there a
 * table among those it locked that was written anew, made or renamed since its
 * snapshot?  Rows that came with such a table are not in the snapshot, nor are
 * those that were there before (TRUNCATE, ALTER TABLE, REFRESH).
 */
const char *source_is_stale(void);

/* Its table in our schema. */
struct str source_name(enum source source);

/* The source to read again when that table has changed; SOURCES if none. */
enum source source_named(const struct config *config, struct str table);

/* May a row of it have that key?  Anybody may notify of anything. */
bool source_has_key(enum source source, struct str key);

/* Begin new tables for all that the source writes to. */
void source_begin(const struct config *config, struct tables *t,
    enum source source);

/* Forget a key before its rows are put again (not for a custom query). */
void source_forget(struct tables *t, enum source source, struct str key);

/*
 * Put all rows of a result; returns how many were none and left out.  The first
 * of them is logged, or (_try) handed over, as it stands in the result.
 */
int source_put(struct tables *t, enum source source, const PGresult *res);
int source_try(struct tables *t, enum source source, const PGresult *res,
    struct str *first);

/* Keyed rows of this source were forgotten and put: make them answer. */
void source_ready(struct tables *t, enum source source);

/* A sum of all that decides what is read: tables/copy.h. */
uint64_t source_origin(const struct config *config);

/* Do the tables answer, and were they read as this config says? */
bool source_answers(const struct config *config, const struct tables *t);

/*
 * Text of a timestamp with time zone as PostgreSQL writes it with DateStyle ISO
 * and TimeZone UTC, or seconds since 1970.  0, or -1.
 */
int source_time(struct str text, int64_t *out);

#endif
