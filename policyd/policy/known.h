#ifndef POLICYD_KNOWN_H
#define POLICYD_KNOWN_H

/*
 * known - what greylisting has heard from PostgreSQL: a bounded cache.
 *
 * Floor 6; uses base.  16 bytes an entry, four in a line of the processor's
 * cache, so that a question costs one miss.  Keys are hashes by base/hash.h:
 * nobody outside can choose some that fall into one line.  A line that is full
 * forgets the entry that was not used for longest, and keeps half of its places
 * for what has passed, so that a flood of senders that never come back pushes
 * out no more than that.
 *
 * Entries are doubted all at once, when changes may have been missed: they are
 * no longer sure, and still better than nothing while PostgreSQL is away.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct known;

enum known_kind {
	KNOWN_NOTHING,
	KNOWN_WAITING, /* a key; time: first_seen */
	KNOWN_PASSED,  /* a key; time: last_seen */
	KNOWN_CLIENT,  /* a client that is not greylisted; time: last_seen */
	KNOWN_CHANGED, /* a client that somebody has changed: ask */
};

/* A client that is exempt for good. */
#define KNOWN_FOREVER ((INT64_C(1) << 46) - 1)

struct known_entry {
	enum known_kind kind;
	bool sure;    /* not doubted since it was put there */
	int64_t time; /* milliseconds, less than 2^46 either way */
};

/*
 * entries may be 0: then it never knows anything.  epoch: 0, or that of the one
 * whose place it takes.
 */
struct known *known_new(size_t entries, uint32_t epoch);

/* NULL is allowed. */
void known_free(struct known *k);

struct known_entry known_find(const struct known *k, uint64_t key);

/* Changes with every known_doubt(). */
uint32_t known_epoch(const struct known *k);

/* epoch: when the question was asked that this answers. */
void known_put(struct known *k, uint64_t key, enum known_kind kind,
    int64_t time, uint32_t epoch);

void known_drop(struct known *k, uint64_t key);

void known_doubt(struct known *k);

/* Changes whenever an entry does. */
uint64_t known_version(const struct known *k);

/* Each entry in use, in turn; *cursor is 0 at first.  false: that was all. */
bool known_next(const struct known *k, size_t *cursor, uint64_t *key,
    struct known_entry *out);

/* Entries in use. */
size_t known_count(const struct known *k);

#endif
