#include "mail/cidr.h"

#include <arpa/inet.h>

enum { V4_BITS = 32, V6_BITS = 128, MAPPED_BITS = 96 };

/* The decimal number at *p, at most three digits, without leading zeros. */
static bool
take_number(const char **p, const char *end, unsigned max, unsigned *out)
{
	const char *start = *p;
	unsigned v = 0;

	while (*p < end && *p - start < 3 && **p >= '0' && **p <= '9')
		v = v * 10 + (unsigned)(*(*p)++ - '0');
	*out = v;
	return *p > start && v <= max && (*start != '0' || *p - start == 1);
}

static bool
v4_parse(struct str s, uint8_t out[16])
{
	const char *p = s.p, *end = s.p + s.n;

	for (int i = 0; i < 4; i++) {
		unsigned v;

		if (i > 0 && (p == end || *p++ != '.'))
			return false;
		if (!take_number(&p, end, 255, &v))
			return false;
		out[i] = (uint8_t)v;
	}
	return p == end;
}

static bool
v6_parse(struct str s, uint8_t out[16])
{
	char buf[INET6_ADDRSTRLEN];

	if (s.n >= sizeof(buf) || memchr(s.p, '\0', s.n) != NULL)
		return false;
	memcpy(buf, s.p, s.n);
	buf[s.n] = '\0';
	return inet_pton(AF_INET6, buf, out) == 1;
}

static void
clear_beyond(struct cidr *c, unsigned prefix)
{
	unsigned whole = prefix / 8;

	if (whole >= sizeof(c->bytes))
		return;
	c->bytes[whole] &= (uint8_t)(0xff00U >> prefix % 8);
	memset(c->bytes + whole + 1, 0, sizeof(c->bytes) - whole - 1);
}

static void
unwrap_v4(struct cidr *c)
{
	static const uint8_t mapped[MAPPED_BITS / 8] = {[10] = 0xff,
	    [11] = 0xff};

	if (c->family != 6 || c->prefix < MAPPED_BITS ||
	    memcmp(c->bytes, mapped, sizeof(mapped)) != 0)
		return;
	c->family = 4;
	c->prefix -= MAPPED_BITS;
	memcpy(c->bytes, c->bytes + sizeof(mapped), 4);
	memset(c->bytes + 4, 0, sizeof(c->bytes) - 4);
}

const char *
cidr_parse(struct str s, struct cidr *out)
{
	const char *slash = s.n > 0 ? memchr(s.p, '/', s.n) : NULL;
	struct str address = s;
	struct cidr c = {.family = 4}, net;
	unsigned prefix;

	if (slash != NULL)
		address.n = (size_t)(slash - s.p);
	if (address.n == 0)
		return "there is no IP address";
	if (!v4_parse(address, c.bytes)) {
		c.family = 6;
		memset(c.bytes, 0, sizeof(c.bytes));
		if (!v6_parse(address, c.bytes))
			return "it is no IP address";
	}
	prefix = c.family == 4 ? V4_BITS : V6_BITS;
	if (slash != NULL) {
		const char *p = slash + 1, *end = s.p + s.n;

		if (!take_number(&p, end, prefix, &prefix) || p != end)
			return c.family == 4 ?
			    "the prefix is no number from 0 to 32" :
			    "the prefix is no number from 0 to 128";
		net = c;
		clear_beyond(&net, prefix);
		if (memcmp(net.bytes, c.bytes, sizeof(c.bytes)) != 0)
			return "bits beyond the prefix are set";
	}
	c.prefix = (uint8_t)prefix;
	unwrap_v4(&c);
	*out = c;
	return NULL;
}

bool
cidr_contains(const struct cidr *net, const struct cidr *address)
{
	struct cidr masked;

	if (net->family != address->family || net->prefix > address->prefix)
		return false;
	cidr_mask(address, net->prefix, &masked);
	return memcmp(masked.bytes, net->bytes, sizeof(net->bytes)) == 0;
}

void
cidr_mask(const struct cidr *address, uint8_t prefix, struct cidr *out)
{
	*out = *address;
	if (prefix < out->prefix)
		out->prefix = prefix;
	clear_beyond(out, out->prefix);
}

static void
add_number(struct sbuf *b, unsigned v)
{
	if (v >= 100)
		sbuf_addc(b, (char)('0' + v / 100));
	if (v >= 10)
		sbuf_addc(b, (char)('0' + v / 10 % 10));
	sbuf_addc(b, (char)('0' + v % 10));
}

struct str
cidr_format(const struct cidr *c, char buf[CIDR_TEXT_MAX_BYTES])
{
	struct sbuf b = sbuf_over(buf, CIDR_TEXT_MAX_BYTES);

	if (c->family == 4) {
		for (int i = 0; i < 4; i++) {
			if (i > 0)
				sbuf_addc(&b, '.');
			add_number(&b, c->bytes[i]);
		}
	} else if (inet_ntop(AF_INET6, c->bytes, buf, CIDR_TEXT_MAX_BYTES) !=
	    NULL) {
		b.n = strlen(buf);
	}
	if (c->prefix < (c->family == 4 ? V4_BITS : V6_BITS)) {
		sbuf_addc(&b, '/');
		add_number(&b, c->prefix);
	}
	return sbuf_str(&b);
}
