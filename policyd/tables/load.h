#ifndef POLICYD_LOAD_H
#define POLICYD_LOAD_H

/*
 * load - read all tables once, waiting for PostgreSQL.
 *
 * Floor 5.  For programs that look at them and end: policyctl explain and
 * check.  The daemon has feed.
 */

#include "base/str.h"

#include <libpq-fe.h>

struct config;
struct tables;

/*
 * In one snapshot.  NULL, or the message of what failed (borrowed from conn)
 * and in *table which one it was.
 */
const char *tables_load(PGconn *conn, const struct config *config,
    struct tables *t, struct str *table);

#endif
