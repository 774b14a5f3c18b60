#include "ctl/key.h"

#include "base/mem.h"

#include <stdlib.h>

struct key_options
key_options_of(const struct config *config)
{
	return (struct key_options){
	    .host = {
		.pools = config->greylist.pools != 0,
		.ipv4_prefix = (uint8_t)config->greylist.ipv4_prefix,
		.ipv6_prefix = (uint8_t)config->greylist.ipv6_prefix,
	    },
	    .fold_local_part = config->rcpt.fold_local_part != 0,
	};
}

void
key_clients_free(struct key_clients *clients)
{
	for (size_t i = 0; i < clients->count; i++)
		free(clients->name[i]);
	free(clients->name);
	*clients = (struct key_clients){0};
}

static void
add(struct key_clients *clients, struct str name)
{
	clients->name = mem_realloc(clients->name,
	    (clients->count + 1) * sizeof(*clients->name));
	clients->name[clients->count++] = mem_strndup(name.p, name.n);
}

static uint8_t
prefix_for(const struct host_options *o, const struct cidr *c)
{
	return c->family == 4 ? o->ipv4_prefix : o->ipv6_prefix;
}

struct str
key_network(const struct host_options *o, const struct cidr *c,
    char buf[CIDR_TEXT_MAX_BYTES])
{
	struct cidr net;

	cidr_mask(c, prefix_for(o, c), &net);
	return cidr_format(&net, buf);
}

/* The next network of the same size. */
static void
step(struct cidr *net)
{
	for (int bit = net->prefix - 1; bit >= 0; bit--) {
		uint8_t mask = (uint8_t)(0x80 >> bit % 8);

		net->bytes[bit / 8] ^= mask;
		if (net->bytes[bit / 8] & mask)
			return;
	}
}

static const char *
split_network(const struct host_options *o, struct cidr net,
    struct key_clients *out)
{
	char buf[CIDR_TEXT_MAX_BYTES];
	unsigned bits = prefix_for(o, &net) - (unsigned)net.prefix;

	if (bits > 16 || 1U << bits > CLIENTS_MAX)
		return "policyd would know it by more than 4096 networks";
	net.prefix = prefix_for(o, &net);
	out->prefix = net.prefix;
	for (size_t i = 0; i < (size_t)1 << bits; i++) {
		add(out, cidr_format(&net, buf));
		step(&net);
	}
	return NULL;
}

const char *
key_clients(const struct key_options *o, struct str text,
    struct key_clients *out)
{
	/* An address that stands in no name. */
	static const char none[] = "255.255.255.255";
	char buf[HOST_CLIENT_MAX_BYTES], network[HOST_CLIENT_MAX_BYTES];
	struct host_options pools = o->host;
	struct str client;
	struct cidr c;
	const char *why = cidr_parse(text, &c);

	*out = (struct key_clients){0};
	if (why == NULL && c.prefix < prefix_for(&o->host, &c))
		return split_network(&o->host, c, out);
	if (why == NULL) {
		add(out, key_network(&o->host, &c, network));
		return NULL;
	}
	if (memchr(text.p, '/', text.n) != NULL ||
	    memchr(text.p, ':', text.n) != NULL)
		return why;
	if (!o->host.pools)
		return "with pools = no, policyd knows clients by their "
		       "networks alone";
	/* A name that gets the client no domain leaves it its network. */
	client = host_client(&pools, STR(none), text, buf);
	pools.pools = false;
	if (!str_eq(client, host_client(&pools, STR(none), STR(""), network))) {
		add(out, client);
		return NULL;
	}
	return "it is no host's name, or policyd would take such a host by "
	       "its network";
}

static void
add_printable(struct sbuf *b, struct str s)
{
	for (size_t i = 0, len; i < s.n; i += len) {
		len = utf8_printable_len(s.p + i, s.n - i);
		if (len > 0)
			sbuf_add(b, (struct str){s.p + i, len});
		else
			sbuf_addc(b, '?');
		len += len == 0;
	}
}

bool
key_recipient(const struct key_options *o, struct str text,
    char buf[ADDRESS_MAX_BYTES + 1], struct str *out)
{
	char local_buf[LOCAL_MAX_BYTES + 1], domain_buf[DOMAIN_MAX_BYTES + 1];
	struct sbuf b = sbuf_over(buf, ADDRESS_MAX_BYTES + 1);
	struct str local, domain;

	if (!address_split(text, &local, &domain) ||
	    !domain_fold(domain, domain_buf, &domain) ||
	    !local_fold(local, o->fold_local_part, local_buf, &local))
		return false;
	add_printable(&b, local);
	sbuf_addc(&b, '@');
	add_printable(&b, domain);
	*out = sbuf_str(&b);
	return true;
}
