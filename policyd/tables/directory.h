#ifndef POLICYD_DIRECTORY_H
#define POLICYD_DIRECTORY_H

/*
 * directory - the domains, addresses and aliases of the site, in memory.
 *
 * Floor 4; uses base, mail.  Asked once or twice a request, without
 * allocation; written by feed alone, between two requests.
 *
 * An address is kept as the number of its domain's name and its local part, so
 * that a long domain costs four bytes.  Numbers come from one list of names
 * that only grows.
 */

#include "base/str.h"

#include <stdint.h>

struct directory;

enum directory_table {
	DIRECTORY_DOMAIN,
	DIRECTORY_DOMAIN_ALIAS,
	DIRECTORY_ADDRESS,
	DIRECTORY_ALIAS,
	DIRECTORY_TABLES
};

/* domain.recipients */
enum domain_recipients {
	RECIPIENTS_LISTED,
	RECIPIENTS_ANY,
	RECIPIENTS_VERIFY
};

/* null, false, true */
enum tristate { UNSET = -1, NO, YES };

#define NEVER_EXPIRES INT64_MAX

/* ---- asked by a request ---- */

struct domain {
	uint32_t id;       /* of its name; 0: no address can be under it */
	uint32_t target;   /* of the name it is an alias of, or 0 */
	enum domain_recipients recipients;
	enum tristate greylist;
	uint32_t max_recipients; /* 0: the default */
};

/* Is there anything in it to answer from yet? */
bool directory_ready(const struct directory *d);

/* Is the folded name (mail/address.h) local?  Then *out is filled. */
bool directory_domain(const struct directory *d, struct str name,
    struct domain *out);

enum address_state {
	ADDRESS_NONE, /* no row for it */
	ADDRESS_DEAD, /* there is one, but it is expired or not enabled */
	ADDRESS_ALIVE,
};

struct address {
	enum tristate greylist;
	struct str reply; /* empty: none; borrowed until the next change */
};

/*
 * Look for the address in a local domain: exact, without its extension, as an
 * alias, as the domain's catch-all; in the domain and then in the one that it
 * is an alias of.  The first row found decides; now is in seconds since 1970.
 */
enum address_state directory_address(const struct directory *d,
    const struct domain *domain, struct str local, struct str delimiters,
    int64_t now, struct address *out);

/*
 * Write where mail for the address goes, blanks between: an alias'
 * destinations, or `address` itself where it is no alias.  Where there is no
 * room for all of them, some whole ones and " ...".
 */
void directory_expand(const struct directory *d, const struct domain *domain,
    struct str local, struct str delimiters, struct str address, int64_t now,
    struct sbuf *out);

/* ---- written by feed ---- */

struct directory *directory_new(bool fold_local_part);

/* NULL is allowed. */
void directory_free(struct directory *d);

/*
 * Begin a new, empty table beside the one that answers.  Rows written from
 * then on go there, until directory_swap() puts all new tables in place at
 * once or directory_abandon() drops them.
 */
void directory_begin(struct directory *d, enum directory_table table);
void directory_swap(struct directory *d);
void directory_abandon(struct directory *d);

/* Between the two, rows go to the tables that answer all the same. */
void directory_pause(struct directory *d);
void directory_resume(struct directory *d);

/* How local parts of the tables begun from now on are folded. */
void directory_set_fold(struct directory *d, bool fold_local_part);

/*
 * Write one row; of two with the same key the later stands (alias rows of one
 * address add up, to 16 KiB: of more, only how long they live counts).  false: its name or address is none, and it is left out.
 */
bool directory_put_domain(struct directory *d, struct str name,
    enum domain_recipients recipients, enum tristate greylist,
    int64_t max_recipients, bool subdomains, bool enabled);
bool directory_put_domain_alias(struct directory *d, struct str name,
    struct str target);
bool directory_put_address(struct directory *d, struct str address,
    enum tristate greylist, struct str reply, int64_t expires_at, bool enabled);
bool directory_put_alias(struct directory *d, struct str address,
    struct str destination, int64_t expires_at, bool enabled);

/* Forget a key of the table that answers: a name or an address. */
void directory_forget(struct directory *d, enum directory_table table,
    struct str key);

size_t directory_count(const struct directory *d, enum directory_table table);
size_t directory_bytes(const struct directory *d);

/* Is so much of it waste that it should be read anew? */
bool directory_wasteful(const struct directory *d);

/* ---- copied to disk and back: tables/copy.h ---- */

struct strtab;

enum { DIRECTORY_PARTS = DIRECTORY_TABLES + 1 };

/* The tables that answer, and the list of names, as tables of bytes. */
const struct strtab *directory_part(const struct directory *d, int part);

/*
 * Begin all tables anew for a copy, and the list of names too: its numbers are
 * those of the copy, whatever was read before.
 */
void directory_begin_restore(struct directory *d);

/*
 * Put a record of a copy back, names first.  false: it cannot be one.
 */
bool directory_restore(struct directory *d, int part, struct str key,
    struct str value);

bool directory_folds(const struct directory *d);

#endif
