#ifndef POLICYD_INI_H
#define POLICYD_INI_H

/*
 * ini - the file under iniparser, read so that nothing in it goes unseen.
 *
 * Floor 2.  iniparser gives the values, but it lets the last of two equal keys
 * win, cuts values at ';' and '#', takes a quote that is never closed, and
 * knows no line numbers.  This reads the lines beside it and reports each of
 * those; lines that are wrong are blanked before iniparser sees them, so that
 * one mistake does not hide the others.
 */

#include "base/str.h"

struct ini;

/* line is 0 where the mistake has no line; key and section may be empty. */
typedef void ini_error_fn(void *arg, int line, const char *section,
    const char *key, const char *what);

/* NULL if the file cannot be read at all (reported, too). */
struct ini *ini_load(const char *path, ini_error_fn *error, void *arg);

void ini_free(struct ini *ini);

/* The value, borrowed until ini_free; NULL if the key is not set. */
const char *ini_value(struct ini *ini, const char *section, const char *key,
    int *line);

/* Report every key that ini_value() was never asked for. */
void ini_report_unknown(struct ini *ini, ini_error_fn *error, void *arg);

#endif
