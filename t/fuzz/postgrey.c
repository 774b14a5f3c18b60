#include "ctl/foreign.c"

#include "fuzz.h"

#include <stdlib.h>

/*
 * A key, a newline, a value: what is taken for addresses lies in the key, in
 * its order, and the client is a network.  The key alone as what the others
 * call a client.
 */

static void
check(int good)
{
	if (!good)
		abort();
}

static void
check_client(const struct cidr *c)
{
	char buf[CIDR_TEXT_MAX_BYTES];
	struct cidr again;

	check(c->family == 4 || c->family == 6);
	check(cidr_parse(cidr_format(c, buf), &again) == NULL);
	check(memcmp(c, &again, sizeof(again)) == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	const uint8_t *end = n > 0 ? memchr(data, '\n', n) : NULL;
	struct str key, value;
	struct foreign f;
	struct cidr c;
	char *a, *b;

	if (end == NULL)
		return 0;
	key = (struct str){(const char *)data, (size_t)(end - data)};
	value = (struct str){(const char *)end + 1, n - key.n - 1};
	/* Buffers of their own, so that a read past an end is seen. */
	key.p = a = memcpy(malloc(key.n + 1), key.p, key.n);
	value.p = b = memcpy(malloc(value.n + 1), value.p, value.n);
	switch (foreign_postgrey(key, value, &f)) {
	case FOREIGN_KEY:
		check_client(&f.client);
		check(f.sender.p > a && f.recipient.p <= a + key.n);
		check(f.sender.p + f.sender.n + 1 == f.recipient.p);
		check(f.recipient.p + f.recipient.n == a + key.n);
		check(f.first >= 0 && f.last >= 0);
		break;
	case FOREIGN_CLIENT:
		check_client(&f.client);
		check(f.count >= 0 && f.last >= 0);
		break;
	case FOREIGN_HASHED:
	case FOREIGN_NONE:
		break;
	}
	if (foreign_sqlgrey_client(key, &c))
		check_client(&c);
	if (foreign_iredapd_client(key, &c))
		check_client(&c);
	free(a);
	free(b);
	return 0;
}
