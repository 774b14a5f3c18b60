#ifndef POLICYD_HOST_H
#define POLICYD_HOST_H

/*
 * host - who a client is to greylisting: a sender, whichever of its hosts it
 * comes from, or a network.
 *
 * Floor 1: pure, but for the Public Suffix List, which is read once at start.
 * host_client() allocates nothing, but for a name that is not ASCII.
 */

#include "base/str.h"
#include "mail/address.h"

#include <stdint.h>

struct host_options {
	bool pools;
	uint8_t ipv4_prefix;
	uint8_t ipv6_prefix;
};

enum { HOST_CLIENT_MAX_BYTES = DOMAIN_MAX_BYTES + 1 };

/*
 * Read the system's Public Suffix List, or take libpsl's own where that is
 * newer.  Called again, it reads it anew.  false: there is none, and then every
 * client is its network.
 */
bool host_init(void);

/* Free it. */
void host_done(void);

/*
 * With pools, the registrable domain of client_name, a name that Postfix has
 * verified (`unknown` is none), unless it looks like an end user's line: its
 * address stands in it, or words such as dsl, dhcp or pool.  Else the network
 * of client_address, as mail/cidr.h writes it; what is no address stays as it
 * is, in lower case.  Borrows from buf.
 */
struct str host_client(const struct host_options *o,
    struct str client_address, struct str client_name,
    char buf[HOST_CLIENT_MAX_BYTES]);

#endif
