#ifndef POLICYD_CONDITION_H
#define POLICYD_CONDITION_H

/*
 * condition - one condition of a rule: parsed once, asked without allocation.
 *
 * Floor 5; uses base, mail, tables/subject, tables/list.
 *
 *	[not] ATTRIBUTE is empty | is not empty
 *	[not] ATTRIBUTE = TEXT        != TEXT
 *	[not] ATTRIBUTE < NUMBER      <= > >=
 *	[not] ATTRIBUTE in ITEM, …    in CIDR, …    in list:NAME
 *	[not] ATTRIBUTE under DOMAIN
 *	[not] ATTRIBUTE like GLOB
 *	[not] ATTRIBUTE matches REGEX
 *
 * policyd.rules(5) has all of it.  PostgreSQL checks the same language when a
 * row is written (sql/, policyd.condition_error); t/12-rules-schema.t holds the
 * two against each other.
 */

#include "mail/address.h"
#include "tables/subject.h"

struct condition;
struct lists;

enum {
	CONDITION_MAX_BYTES = 1000,
	CONDITION_VALUE_MAX_BYTES = 500,
};

/* NULL if the text is a condition; else what is wrong, and where in *part. */
const char *condition_error(struct str text, struct str *part);

/*
 * Compile a text that condition_error() passes.  Owned by the caller; lists
 * must outlive it.
 */
struct condition *condition_new(struct str text, struct lists *lists);

/* NULL is allowed. */
void condition_free(struct condition *c);

bool condition_holds(const struct condition *c, struct subject *s);

/* The text it was made of. */
struct str condition_text(const struct condition *c);

/*
 * Why its regular expression is none to PCRE2 (it never matches then), or
 * NULL.
 */
const char *condition_regex_error(const struct condition *c);

/* The list it asks, or an empty name. */
struct str condition_list(const struct condition *c);

/* ---- what an index can know of it: tables/rule.c ---- */

/*
 * A condition that can only hold for requests with one of some few keys says
 * which.  A key is a kind, an attribute and bytes.
 */
enum key_kind {
	KEY_TEXT,   /* the attribute's value, folded */
	KEY_DOMAIN, /* a domain that the value's domain is, or is below */
	KEY_NET,    /* a network that the address is in */
};

enum { KEY_MAX_BYTES = 1024 };

struct key {
	enum key_kind kind;
	int attribute;
	struct str bytes; /* in buf, or borrowed */
	struct cidr net;  /* KEY_NET */
	char buf[KEY_MAX_BYTES];
};

/* How many keys it has; 0: it may hold for any request. */
size_t condition_keys(const struct condition *c);

/* The i-th of them. */
void condition_key(const struct condition *c, size_t i, struct key *out);

/* How few requests it is likely to hold for: more is fewer.  0 without keys. */
int condition_selectivity(const struct condition *c);

/* A value as KEY_TEXT has it; false if it is too long to be one. */
bool condition_fold_value(int attribute, struct str value,
    char buf[KEY_MAX_BYTES], struct str *out);

/* The domain of a value, folded, as KEY_DOMAIN has it; false if none. */
bool condition_fold_domain(int attribute, struct str value,
    char buf[DOMAIN_MAX_BYTES + 1], struct str *out);

#endif
