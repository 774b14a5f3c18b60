#ifndef POLICYD_VERIFY_H
#define POLICYD_VERIFY_H

/*
 * verify - can the daemon read what it needs?  For `policyd -t`.
 *
 * Floor 4.  Blocks, at most for query_timeout a query: a server that says
 * nothing for longer ends the process, with status 1 and a message.  Never
 * called while serving.
 */

#include <stdio.h>

struct config;

/*
 * Connect, look at the schema, and try every query.  Each thing that is wrong
 * is a line on `to` that names the file and the key; returns how many there
 * were.
 */
int tables_verify(const struct config *config, const char *file, FILE *to);

#endif
