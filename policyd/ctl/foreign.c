#include "ctl/foreign.h"

#include "base/number.h"

/* Cut off what stands before a byte, and the byte; false: it is not there. */
static bool
cut(struct str *rest, char at, struct str *out)
{
	const char *end = rest->n > 0 ? memchr(rest->p, at, rest->n) : NULL;

	if (end == NULL)
		return false;
	*out = (struct str){rest->p, (size_t)(end - rest->p)};
	*rest = str_from(*rest, out->n + 1);
	return true;
}

/* Two numbers, and perhaps more behind another comma. */
static bool
parse_pair(struct str s, int64_t *a, int64_t *b)
{
	struct str first, second;

	if (!cut(&s, ',', &first))
		return false;
	if (!cut(&s, ',', &second))
		second = s;
	return number_parse(first, a) == 0 && number_parse(second, b) == 0;
}

/* ---- postgrey ---- */

/* It writes a network without its prefix, which is /24 or /64 by default. */
static void
guess_network(struct cidr *c)
{
	struct cidr net;

	cidr_mask(c, c->family == 4 ? 24 : 64, &net);
	if (memcmp(c->bytes, net.bytes, sizeof(c->bytes)) == 0)
		*c = net;
}

/* Nobody's domain has a slash, but a local part may. */
static bool
is_sender(struct str s)
{
	const char *at = s.n > 0 ? memrchr(s.p, '@', s.n) : NULL;

	if (at == NULL)
		return s.n == 0;
	return memchr(at, '/', s.n - (size_t)(at - s.p)) == NULL;
}

/* Where sender and recipient meet; without any address, at the last slash. */
static bool
split_addresses(struct str s, struct str *sender, struct str *recipient)
{
	bool found = false;

	for (size_t i = 0; i < s.n; i++) {
		struct str before = {s.p, i}, behind = str_from(s, i);

		if (s.p[i] != '/' || memchr(behind.p, '@', behind.n) == NULL)
			continue;
		*sender = before;
		*recipient = str_from(behind, 1);
		found = true;
		if (is_sender(before))
			break;
	}
	return found;
}

static bool
is_hash(struct str key)
{
	for (size_t i = 0; i < key.n; i++)
		if ((key.p[i] < '0' || key.p[i] > '9') &&
		    (key.p[i] < 'a' || key.p[i] > 'f'))
			return false;
	return key.n == 40;
}

enum foreign_kind
foreign_postgrey(struct str key, struct str value, struct foreign *out)
{
	struct str client;
	int64_t a, b;

	*out = (struct foreign){0};
	if (!parse_pair(value, &a, &b))
		return FOREIGN_NONE;
	out->last = b;
	if (is_hash(key))
		return FOREIGN_HASHED;
	if (!cut(&key, '/', &client)) {
		out->count = a;
		return cidr_parse(key, &out->client) == NULL ? FOREIGN_CLIENT :
							       FOREIGN_NONE;
	}
	out->first = a;
	if (cidr_parse(client, &out->client) != NULL ||
	    !split_addresses(key, &out->sender, &out->recipient))
		return FOREIGN_NONE;
	guess_network(&out->client);
	return FOREIGN_KEY;
}

/* ---- sqlgrey and iRedAPD ---- */

static bool
parse_with(struct str s, const char *behind, struct cidr *out)
{
	char buf[CIDR_TEXT_MAX_BYTES];
	struct sbuf b = sbuf_over(buf, sizeof(buf));

	sbuf_add(&b, s);
	sbuf_add(&b, str_of(behind));
	return !b.full && cidr_parse(sbuf_str(&b), out) == NULL;
}

bool
foreign_sqlgrey_client(struct str src, struct cidr *out)
{
	return cidr_parse(src, out) == NULL || parse_with(src, ".0/24", out) ||
	    parse_with(src, "::/64", out);
}

bool
foreign_iredapd_client(struct str sender, struct cidr *out)
{
	if (cidr_parse(sender, out) == NULL)
		return true;
	if (sender.n < 2 || sender.p[sender.n - 2] != '.' ||
	    sender.p[sender.n - 1] != '*')
		return false;
	sender.n -= 2;
	return parse_with(sender, ".0/24", out);
}
