#ifndef POLICYD_SEALED_H
#define POLICYD_SEALED_H

/*
 * sealed - a file that is used whole or not at all.
 *
 * Floor 1.  It is written beside its place, synced and renamed, for nobody else
 * to read, and not a byte of it is believed before its length and its XXH3 sum are right.  Numbers in
 * it are in the machine's own order: it is read where it was written.
 */

#include "base/str.h"

#include <stdint.h>

/* What a file must be to be ours. */
struct seal {
	char magic[8];
	uint32_t format; /* raised with every change of what stands in it */
	uint64_t origin; /* what it was made from; another one is refused */
	const char *what; /* for messages: "it is no WHAT" */
};

struct sealed;

/* Add bytes; called by the put function of sealed_save(). */
void sealed_put(struct sealed *s, const void *p, size_t n);

/* Write path anew.  Blocks.  0, or -1 with errno. */
int sealed_save(const char *path, const struct seal *seal,
    void (*put)(struct sealed *s, const void *arg), const void *arg);

/* The next n bytes of *rest; false if there are fewer. */
bool sealed_take(struct str *rest, void *out, size_t n);

/*
 * Give the file's content to take, which returns NULL or what is wrong with it.
 * 0, or -1 with what is wrong with the file in *why; errno is ENOENT where
 * there is none.
 */
int sealed_load(const char *path, const struct seal *seal,
    const char *(*take)(void *arg, struct str body), void *arg,
    const char **why);

#endif
