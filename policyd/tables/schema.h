#ifndef POLICYD_SCHEMA_H
#define POLICYD_SCHEMA_H

/*
 * schema - is the database's schema the one that this program knows?
 *
 * Floor 5; uses base, config.  Pure: it asks nobody, but has the questions, and
 * says what an answer means.
 */

#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>

struct config;

/* A statement of one row and column: is there a schema of ours at all? */
extern const char SCHEMA_IS_THERE[];

/* An expression: its version; it fails where there is none. */
extern const char SCHEMA_VERSION[];

/* Is anything read from it, or does [lookup] read another one? */
bool schema_is_needed(const struct config *config);

/* The version as PostgreSQL writes it; 0 where it is none. */
int64_t schema_version_of(const char *text);

bool schema_is_known(int64_t version);

/* Of one that is not: why is added, and what is to be run is returned. */
const char *schema_fault(int64_t version, struct sbuf *why);

#endif
