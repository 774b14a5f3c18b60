#ifndef POLICYD_ADDRESS_H
#define POLICYD_ADDRESS_H

/*
 * address - mail addresses, taken apart and folded so that equal ones are
 * equal bytes.
 *
 * Floor 1: pure.  Addresses come as Postfix hands them over: unquoted, without
 * brackets, route and comment.  Nothing is allocated, but for a domain that is
 * not ASCII (libidn2 does, and frees before returning).
 */

#include "base/str.h"

enum {
	DOMAIN_MAX_BYTES = 255, /* RFC 1035 */
	LOCAL_MAX_BYTES = 512,  /* longer ones are nobody's: Postfix takes 2 kB */
	ADDRESS_MAX_BYTES = LOCAL_MAX_BYTES + 1 + DOMAIN_MAX_BYTES,
};

/*
 * Split at the last '@'.  false if there is no usable address in s: empty, no
 * '@', nothing on one side of it, blanks around it, a domain that is a dot.
 * Both slices borrow from s; a trailing dot of the domain is dropped.
 */
bool address_split(struct str s, struct str *local, struct str *domain);

/*
 * NULL, or what is wrong with a domain as an administrator writes one: the
 * same that policyd.domain_error says in SQL.
 */
const char *domain_error(struct str s);

/*
 * The domain in the one form that tables hold: lower case, without a trailing
 * dot, a U-label as its A-label (RFC 5890; UTS #46, as libidn2 does).  What
 * IDNA does not take stays as it is, in ASCII lower case.  false if it is
 * empty or too long to be a domain; else *out borrows from buf.
 */
bool domain_fold(struct str domain, char buf[DOMAIN_MAX_BYTES + 1],
    struct str *out);

/*
 * The local part, in ASCII lower case if `fold`.  false if it is too long to
 * be in a table; else *out borrows from buf.
 */
bool local_fold(struct str local, bool fold, char buf[LOCAL_MAX_BYTES + 1],
    struct str *out);

/*
 * The local part without its extension: what stands before the first byte that
 * is one of `delimiters`.  As Postfix does, never an empty one, and owner-NAME
 * and NAME-request stay whole where '-' is a delimiter.  The same slice is
 * returned where there is nothing to cut.
 */
struct str local_base(struct str local, struct str delimiters);

/*
 * The address or domain with its domain in the other spelling: U-labels for
 * A-labels, or A-labels for U-labels.  The domain is what follows the last '@'
 * or blank: the key of a list's entry is its list, a blank and its value.  false where that is the same or does
 * not fit; else *out borrows from buf.
 */
bool address_respell(struct str s, char *buf, size_t size, struct str *out);

/* The domain above this one (`b.c` of `a.b.c`), or an empty slice. */
struct str domain_parent(struct str domain);

#endif
