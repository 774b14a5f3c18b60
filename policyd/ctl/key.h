#ifndef POLICYD_CTL_KEY_H
#define POLICYD_CTL_KEY_H

/*
 * key - clients, senders and recipients as policyd writes them into the tables
 * of greylisting, from what people and other programs call them.
 *
 * Pure, but for the Public Suffix List: host_init() first.
 */

#include "config/config.h"
#include "mail/address.h"
#include "mail/cidr.h"
#include "mail/host.h"
#include "mail/sender.h"

enum { CLIENTS_MAX = 4096 }; /* that one network may be in the table as */

struct key_options {
	struct host_options host;
	bool fold_local_part;
};

struct key_options key_options_of(const struct config *config);

/* The names that one client has in the tables; key_clients_free() frees them. */
struct key_clients {
	char **name;
	size_t count;
	uint8_t prefix; /* of each, where they are a network's parts; else 0 */
};

void key_clients_free(struct key_clients *clients);

/*
 * What policyd calls the client: the registrable domain of a host name; the
 * network around an address; a wider network in parts.  NULL, or why it has no
 * name for it, with *out empty.
 */
const char *key_clients(const struct key_options *o, struct str text,
    struct key_clients *out);

/* The network that an address, or a smaller network, is known as. */
struct str key_network(const struct host_options *o, const struct cidr *c,
    char buf[CIDR_TEXT_MAX_BYTES]);

/* In printable characters, as columns have it.  false: it is no address. */
bool key_recipient(const struct key_options *o, struct str text,
    char buf[ADDRESS_MAX_BYTES + 1], struct str *out);

#endif
