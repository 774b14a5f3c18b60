#ifndef POLICYD_DB_ARRAY_H
#define POLICYD_DB_ARRAY_H

/*
 * db array - strings as the text of an array parameter: {"a","b"}.
 *
 * Floor 4.
 */

#include <stdbool.h>
#include <stddef.h>

/* lower: in ASCII lower case.  The caller frees it. */
char *db_array(char *const *items, size_t count, bool lower);

#endif
