#include "mail/cidr.h"
#include "mail/host.h"

#include "fuzz.h"

/*
 * A prefix length in two bytes, an address, a newline, a name: the client is
 * short, without control bytes where it is a domain, and part of the name.
 */

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static bool ready;
	char buf[HOST_CLIENT_MAX_BYTES], again[HOST_CLIENT_MAX_BYTES];
	const uint8_t *end = n > 2 ? memchr(data + 2, '\n', n - 2) : NULL;
	struct str address, name, client, other;
	struct host_options o = {.pools = true};
	struct cidr net;
	char *a, *b, text[CIDR_TEXT_MAX_BYTES];

	if (!ready)
		CHECK(host_init());
	ready = true;
	if (end == NULL)
		return 0;
	o.ipv4_prefix = data[0] % 33;
	o.ipv6_prefix = data[1] % 129;
	address = (struct str){(const char *)data + 2,
	    (size_t)(end - data) - 2};
	name = (struct str){(const char *)end + 1, n - address.n - 3};
	/* Buffers of their own, so that a read past an end is seen. */
	address.p = a = memcpy(malloc(address.n + 1), address.p, address.n);
	name.p = b = memcpy(malloc(name.n + 1), name.p, name.n);
	client = host_client(&o, address, name, buf);
	CHECK(client.n < HOST_CLIENT_MAX_BYTES);
	CHECK(client.p >= buf && client.p + client.n < buf + sizeof(buf));
	o.pools = false;
	other = host_client(&o, address, name, again);
	/* Without pools it is the network, whatever the name. */
	if (cidr_parse(address, &net) == NULL) {
		cidr_mask(&net, net.family == 4 ? o.ipv4_prefix : o.ipv6_prefix,
		    &net);
		CHECK(str_eq(other, cidr_format(&net, text)));
	}
	if (!str_eq(client, other)) {
		CHECK(memchr(client.p, '.', client.n) != NULL);
		for (size_t i = 0; i < client.n; i++)
			CHECK(client.p[i] > ' ' && client.p[i] < 0x7f);
	}
	free(a);
	free(b);
	return 0;
}
