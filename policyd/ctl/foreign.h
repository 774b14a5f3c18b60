#ifndef POLICYD_FOREIGN_H
#define POLICYD_FOREIGN_H

/*
 * foreign - how other greylisting programs write down what they know.
 *
 * Pure: bytes in, slices of them out.
 */

#include "base/str.h"
#include "mail/cidr.h"

#include <stdint.h>

enum foreign_kind {
	FOREIGN_NONE,   /* it is nothing that we know */
	FOREIGN_KEY,    /* client, sender, recipient, first, last */
	FOREIGN_CLIENT, /* client, count, last */
	FOREIGN_HASHED, /* nobody can tell what it was */
};

struct foreign {
	struct cidr client; /* an address, or a network of theirs */
	struct str sender, recipient;
	int64_t first, last; /* seconds since 1970 */
	int64_t count;
};

/*
 * A record of postgrey's databases (1.37): `192.0.2.0/a@b/c@d` has `first,last`,
 * and `192.0.2.1` has `count,last`.  *out borrows from the key.
 */
enum foreign_kind foreign_postgrey(struct str key, struct str value,
    struct foreign *out);

/*
 * A client of sqlgrey (1.8): an address, `192.0.2` or `2001:0db8:0000:0001`.
 * false: it is none.
 */
bool foreign_sqlgrey_client(struct str src, struct cidr *out);

/* A client in a list of iRedAPD's: a network, or `192.0.2.*`; false: none. */
bool foreign_iredapd_client(struct str sender, struct cidr *out);

#endif
