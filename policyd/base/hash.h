#ifndef POLICYD_HASH_H
#define POLICYD_HASH_H

/*
 * hash - one keyed 64-bit hash for every table in the process.
 *
 * Floor 0.  XXH3 with a secret drawn from the kernel at start, so that nobody
 * outside can choose keys that collide.  A value means nothing in another
 * process or after a restart: never store one.
 */

#include <stddef.h>
#include <stdint.h>

/* Draw the secret.  Once, before the first hash(). */
void hash_init(void);

uint64_t hash(const void *p, size_t n);

/* One hash of two things, such as an instance and a recipient. */
uint64_t hash_mix(uint64_t a, uint64_t b);

#endif
