#ifndef POLICYD_COPY_H
#define POLICYD_COPY_H

/*
 * copy - the tables on disk, for a start while PostgreSQL is away.
 *
 * Floor 4.  One file, checked by its length and an XXH3 sum before a byte of it
 * is believed, and read into tables beside those that answer: it is used whole
 * or not at all.  It is bound to the queries it was read with.
 */

#include "base/str.h"

#include <stdint.h>

struct tables;

/* Name of the copy in state_dir; the caller frees it. */
char *copy_path(const char *state_dir);

/*
 * Write beside path, sync, rename.  Blocks: called in a child or at exit.
 * origin is the sum of what the tables were read with.  0, or -1 with errno.
 */
int copy_save(const struct tables *t, const char *path, uint64_t origin);

/*
 * Fill the tables and swap them in: what they had before is gone.  0; or -1 with
 * what is wrong in *why, and the tables answer as before.
 */
int copy_load(struct tables *t, const char *path, uint64_t origin,
    const char **why);

#endif
