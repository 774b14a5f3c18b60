#ifndef POLICYD_CIDR_H
#define POLICYD_CIDR_H

/*
 * cidr - IP addresses and networks, from text and back.
 *
 * Floor 1: pure, and nothing is allocated.  A value is comparable as bytes:
 * what its family or its prefix does not use is zero.
 */

#include "base/str.h"

#include <stdint.h>

struct cidr {
	uint8_t family; /* 4 or 6 */
	uint8_t prefix; /* at most 32 or 128 */
	uint8_t bytes[16];
};

enum { CIDR_TEXT_MAX_BYTES = 64 };

/*
 * `192.0.2.1`, `192.0.2.0/24`, and IPv6 as inet_pton(3) takes it.  An address
 * is a network of its own, with a prefix of 32 or 128; no bit may be set
 * beyond the prefix.  IPv6 that only wraps IPv4 (::ffff:192.0.2.1, or a
 * network within ::ffff:0:0/96) becomes IPv4, as Postfix does with addresses.
 * Returns NULL, or what is wrong, and leaves *out alone then.
 */
const char *cidr_parse(struct str s, struct cidr *out);

/* Is all of `address` in it?  Never, if the families differ. */
bool cidr_contains(const struct cidr *net, const struct cidr *address);

/* The network of that prefix around an address; never a smaller one. */
void cidr_mask(const struct cidr *address, uint8_t prefix, struct cidr *out);

/*
 * `192.0.2.0/24`, `2001:db8::/32` (RFC 5952), an address without its prefix.
 * Borrows from buf, which holds a NUL after it.
 */
struct str cidr_format(const struct cidr *c, char buf[CIDR_TEXT_MAX_BYTES]);

#endif
