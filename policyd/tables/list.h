#ifndef POLICYD_LIST_H
#define POLICYD_LIST_H

/*
 * list - the named lists that rules ask, in memory.
 *
 * Floor 4; uses base, mail.  Asked by requests, without allocation (but for a
 * name that is not ASCII: mail/address.h); written by feed alone, between two
 * requests.
 *
 * Letter case is ignored, and U-labels and A-labels are equal.  Of each list
 * it is known which forms of entries, which prefix lengths and which depths of
 * domains occur in it: only those are looked for.
 */

#include "base/str.h"

#include <stdint.h>

struct lists;

/* What a value is, and what an entry is about. */
enum list_kind { LIST_MAIL, LIST_ADDRESS, LIST_NAME };

/* ---- asked by a request ---- */

/*
 * Is the value in list `id`?
 *
 * LIST_MAIL     an address: `user@domain`, `user@`, `@domain`, or `@.domain`
 *               for one above its own; a login without '@': a name equal to it
 * LIST_ADDRESS  an IP address: a network that it is in
 * LIST_NAME     a name equal to it, or `.domain` for one above it
 *
 * An empty value, and one that is nothing of its kind, is in no list.
 */
bool lists_has(const struct lists *l, uint32_t id, enum list_kind kind,
    struct str value);

/* ---- written by feed ---- */

struct lists *lists_new(void);

/* NULL is allowed. */
void lists_free(struct lists *l);

/*
 * The number of the list of that name, from 1.  It stands as long as l does,
 * whatever is read, and for a list that has no entries as well.
 */
uint32_t lists_id(struct lists *l, struct str name);

/*
 * Begin a new, empty table beside the one that answers.  Entries written from
 * then on go there, until lists_swap() puts it in place or lists_abandon()
 * drops it.
 */
void lists_begin(struct lists *l);
void lists_swap(struct lists *l);
void lists_abandon(struct lists *l);

/* Between the two, entries go to the table that answers all the same. */
void lists_pause(struct lists *l);
void lists_resume(struct lists *l);

/*
 * Write an entry.  What stands in it says its kind: an '@' makes it a mail
 * address; else it is a network, if it can be one; else a name.  false: it is
 * none of them, and is left out.
 */
bool lists_put(struct lists *l, struct str list, struct str value);

/*
 * Forget an entry of the table that answers, however it was written: two that
 * are equal when folded are one.
 */
void lists_forget(struct lists *l, struct str list, struct str value);

/* Of all lists, and of one. */
size_t lists_count(const struct lists *l);
size_t lists_entries(const struct lists *l, uint32_t id);

size_t lists_bytes(const struct lists *l);

/* Is so much of it waste that it should be read anew? */
bool lists_wasteful(const struct lists *l);

/* ---- copied to disk and back: tables/copy.h ---- */

struct strtab;

enum { LISTS_PARTS = 2 };

/* The entries that answer (0), and the names of lists (1). */
const struct strtab *lists_part(const struct lists *l, int part);

/*
 * Put a record of a copy back, into a table that was begun, names first.  The
 * numbers of a copy's names are its own; lists keep theirs.  false: it cannot
 * be one, or came twice.
 */
bool lists_restore(struct lists *l, int part, struct str key,
    struct str value);

#endif
