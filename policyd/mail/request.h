#ifndef POLICYD_REQUEST_H
#define POLICYD_REQUEST_H

/*
 * request - one block of name=value lines, as slices of the buffer it came in.
 *
 * Floor 1: pure, no I/O, no clock, no allocation.  The facts of the protocol
 * are those that a real Postfix shows: lines end in LF alone, the block in an
 * empty line, a value may hold any byte but LF and NUL, and the first '='
 * ends the name.  Unknown attributes are skipped; the first of two counts.
 */

#include "base/str.h"

#include <stdint.h>

/*
 * Every attribute a Postfix up to 3.12 sends, in the order in which it sends
 * them (which the parser uses to guess the next one: any order is understood).
 */
#define REQUEST_ATTRIBUTES(X)  \
	X(request)             \
	X(protocol_state)      \
	X(protocol_name)       \
	X(client_address)      \
	X(client_name)         \
	X(client_port)         \
	X(reverse_client_name) \
	X(server_address)      \
	X(server_port)         \
	X(helo_name)           \
	X(sender)              \
	X(recipient)           \
	X(recipient_count)     \
	X(queue_id)            \
	X(instance)            \
	X(size)                \
	X(etrn_domain)         \
	X(stress)              \
	X(sasl_method)         \
	X(sasl_username)       \
	X(sasl_sender)         \
	X(ccert_subject)       \
	X(ccert_issuer)        \
	X(ccert_fingerprint)   \
	X(ccert_pubkey_fingerprint) \
	X(encryption_protocol) \
	X(encryption_cipher)   \
	X(encryption_keysize)  \
	X(tls_sni)             \
	X(policy_context)      \
	X(compatibility_level) \
	X(mail_version)

enum attribute {
#define X(name) ATTR_##name,
	REQUEST_ATTRIBUTES(X)
#undef X
	    ATTRIBUTES
};
_Static_assert(ATTRIBUTES < 64, "request.present has a bit for each");

enum {
	REQUEST_MAX_BYTES = 64 * 1024,     /* with its empty line */
	REQUEST_LINE_MAX_BYTES = 16 * 1024, /* without its LF */
	REQUEST_MAX_ATTRIBUTES = 64,       /* known or not */
};

struct request {
	struct str value[ATTRIBUTES]; /* empty where absent */
	uint64_t present;             /* bit 1 << ATTR_… */
};

static inline bool
request_has(const struct request *r, enum attribute a)
{
	return (r->present >> a & 1) != 0;
}

enum request_status {
	REQUEST_MORE, /* no empty line yet, and no bound is broken */
	REQUEST_DONE,
	REQUEST_BAD,
};

/*
 * Parse the block at the head of the n bytes at buf.
 *
 * REQUEST_DONE: *used is the block's length, its empty line included, and the
 * slices of *out borrow from buf.  REQUEST_BAD: *why says what is wrong; there
 * is no going on with this connection.  REQUEST_MORE: call again with more
 * bytes from the same start; *scanned (0 at first, kept by the caller) spares
 * a client that writes byte by byte a new scan for each of them.
 */
enum request_status request_parse(struct request *out, const char *buf,
    size_t n, size_t *scanned, size_t *used, const char **why);

/* The attribute's name on the wire. */
struct str attribute_name(enum attribute a);

/* The attribute of that name, or ATTRIBUTES. */
enum attribute attribute_named(struct str name);

#endif
