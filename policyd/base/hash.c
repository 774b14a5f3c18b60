#include "base/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sysexits.h>

/* 192 bytes is the size that XXH3 makes for itself; 136 is its least. */
static unsigned char secret[HASH_SECRET_BYTES];

void
hash_init(void)
{
	if (getrandom(secret, sizeof(secret), 0) == (ssize_t)sizeof(secret))
		return;
	fprintf(stderr, "no random numbers: %s\n", strerror(errno));
	exit(EX_OSERR);
}

const void *
hash_secret(void)
{
	return secret;
}

void
hash_use_secret(const void *stored)
{
	memcpy(secret, stored, sizeof(secret));
}

uint64_t
hash(const void *p, size_t n)
{
	return XXH3_64bits_withSecret(p, n, secret, sizeof(secret));
}

uint64_t
hash_mix(uint64_t a, uint64_t b)
{
	uint64_t both[2] = {a, b};

	return hash(both, sizeof(both));
}
