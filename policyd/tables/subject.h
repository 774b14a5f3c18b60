#ifndef POLICYD_SUBJECT_H
#define POLICYD_SUBJECT_H

/*
 * subject - what the conditions of a rule look at: a request's attributes, and
 * those that are worked out from them.
 *
 * Floor 5; uses base, mail.  The attributes of the protocol come first, under
 * the numbers of mail/request.h.
 */

#include "mail/cidr.h"
#include "mail/request.h"

/* Worked out when a rule asks for the first time. */
#define DERIVED_ATTRIBUTES(X) \
	X(sender_domain)      \
	X(sender_localpart)   \
	X(recipient_domain)   \
	X(recipient_localpart) \
	X(recipient_is_local) \
	X(client)

enum derived_attribute {
	DERIVED_FIRST = ATTRIBUTES - 1,
#define X(name) DERIVED_##name,
	DERIVED_ATTRIBUTES(X)
#undef X
	    SUBJECT_ATTRIBUTES
};

enum { DERIVED = SUBJECT_ATTRIBUTES - ATTRIBUTES };

enum attribute_kind {
	KIND_TEXT,
	KIND_MAIL,    /* user@domain, or a login */
	KIND_ADDRESS, /* of IP */
	KIND_NUMBER,
	KIND_YESNO,
};

struct subject {
	const struct request *request;
	struct str derived[DERIVED];
	uint32_t known; /* bits of those that were worked out */

	/*
	 * Works one out: the policy's, since only it knows what is local.
	 * What it returns lives as long as the request.
	 */
	struct str (*derive)(struct subject *s, int attribute);
	void *arg;

	bool parsed;         /* client_address was looked at */
	bool is_address;     /* and is one */
	struct cidr address;
	bool regex_failed;   /* an expression hit its bound: told by rule.c */
	double regex_s;      /* of the processor, spent on long values */
};

/* The value; empty where there is none. */
struct str subject_value(struct subject *s, int attribute);

/* An IP address among the attributes, or NULL. */
const struct cidr *subject_address(struct subject *s, int attribute,
    struct cidr *room);

/* The attribute of that name in any letter case (not `request`), or -1. */
int subject_attribute(struct str name);

struct str subject_name(int attribute);
enum attribute_kind subject_kind(int attribute);

/*
 * Is there a placeholder in s?  *why is set, and *part, if it names no
 * attribute.
 */
bool subject_placeholder(struct str s, const char **why, struct str *part);

/* s with its placeholders filled in, cut to what fits. */
struct str subject_expand(struct subject *s, struct str text, char *buf,
    size_t size);

#endif
