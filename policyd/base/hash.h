#ifndef POLICYD_HASH_H
#define POLICYD_HASH_H

/*
 * hash - one keyed 64-bit hash for every table in the process.
 *
 * Floor 0.  XXH3 with a secret drawn from the kernel at start, so that nobody
 * outside can choose keys that collide.  A value means nothing in another
 * process or after a restart, but with the secret that it was made with: never
 * store one without, nor either where others can read it.
 */

#include "base/str.h"

#include <stdint.h>

/* Draw the secret.  Once, before the first hash(). */
void hash_init(void);

/* Both need room for so many bytes; use a stored secret only as hash_init(). */
enum { HASH_SECRET_BYTES = 192 };
const void *hash_secret(void);
void hash_use_secret(const void *stored);

uint64_t hash(const void *p, size_t n);

static inline uint64_t
hash_str(struct str s)
{
	return hash(s.p, s.n);
}

/* The same of a C string. */
static inline uint64_t
hash_text(const char *s)
{
	return hash(s, strlen(s));
}

/* One hash of two things, such as an instance and a recipient. */
uint64_t hash_mix(uint64_t a, uint64_t b);

#endif
