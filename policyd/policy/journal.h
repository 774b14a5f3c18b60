#ifndef POLICYD_JOURNAL_H
#define POLICYD_JOURNAL_H

/*
 * journal - what greylisting has judged in memory, and PostgreSQL has yet to
 * hear.
 *
 * Floor 6; uses base.  Its entries are keys that were tried, and clients that
 * were heard of.  While PostgreSQL is there, it holds what was used in the last
 * seconds; while it is away, everything.  It has a bound: what to do when it is
 * full is its caller's to say.
 *
 * Sending is in pieces: journal_take() marks some entries, journal_sent() or
 * journal_unsent() ends that.  What changes meanwhile goes again.
 */

#include "base/hash.h"
#include "base/str.h"
#include "policy/attempt.h"

struct journal;

enum {
	JOURNAL_MAX = 200000, /* about 250 bytes each: 50 MB */
	JOURNAL_ANEW = -1,
};

enum journal_kind {
	JOURNAL_CLIENT,
	JOURNAL_KNOWN_KEY,  /* of which PostgreSQL has, or had, a row */
	JOURNAL_PASSED_KEY, /* and it has passed here, or may be lost there */
	JOURNAL_NEW_KEY,
	JOURNAL_KINDS,
};

struct journal_entry {
	struct journal_entry *chain, *newer, *older;
	uint64_t key; /* base/hash.h */
	enum journal_kind kind;
	struct attempt_row row; /* of a client, last_seen only */

	/*
	 * Attempts of a key that PostgreSQL is to add; those that are being
	 * sent are among them.  Keys of a client that passed here: those
	 * PostgreSQL counts by itself.
	 */
	int32_t add, adding;
	bool changed; /* since it was taken */

	char *text[3]; /* client, sender, recipient; the last two of a key only */
};

/* The key of an entry that is one, by the hashes of its two halves. */
static inline uint64_t
journal_key(uint64_t client, uint64_t pair)
{
	return hash_mix(client, pair);
}

/* The hash of a sender and a recipient: of both, with a blank between. */
uint64_t journal_pair(struct str sender, struct str recipient);

struct journal *journal_new(void);

/* NULL is allowed. */
void journal_free(struct journal *j);

size_t journal_count(const struct journal *j);

/* Changes whenever anything in it does. */
uint64_t journal_version(const struct journal *j);
size_t journal_count_of(const struct journal *j, enum journal_kind kind);

/* NULL if there is none of that kind. */
struct journal_entry *journal_oldest(const struct journal *j,
    enum journal_kind kind);

struct journal_entry *journal_find(const struct journal *j, uint64_t key);

/* A new entry, or NULL if it is full.  Texts are copied; they hold no NUL. */
struct journal_entry *journal_add(struct journal *j, enum journal_kind kind,
    uint64_t key, const struct str *texts);

/* Its row or add has changed; kind: what it is now. */
void journal_touch(struct journal *j, struct journal_entry *e,
    enum journal_kind kind);

void journal_drop(struct journal *j, struct journal_entry *e);

/*
 * The oldest entries of a kind, at most max, sorted by their texts.  The array
 * is borrowed until journal_sent() or journal_unsent(); in it, what was
 * dropped meanwhile is NULL.  One piece is out at a time.
 */
struct journal_entry *const *journal_take(struct journal *j,
    enum journal_kind kind, size_t max, size_t *n);

/*
 * What was taken has arrived: arrived is called for each entry, and it goes;
 * what changed meanwhile stays, as something that PostgreSQL knows but for its
 * having passed, which it may be told twice.  arrived
 * may be NULL.
 */
void journal_sent(struct journal *j,
    void (*arrived)(void *arg, const struct journal_entry *e), void *arg);

/* It has not; it will go again. */
void journal_unsent(struct journal *j);

/*
 * All of it to a file, and back; ahead is what its times lack to those since
 * 1970.  0, or -1 with errno, or with what is wrong in *why; errno is ENOENT
 * where there is no file.
 */
int journal_save(const struct journal *j, const char *path, int64_t ahead);
int journal_load(struct journal *j, const char *path, int64_t ahead,
    const char **why);

#endif
