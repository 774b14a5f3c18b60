#include "mail/address.h"

#include <arpa/inet.h>
#include <idn2.h>

static struct str
without_dot(struct str domain)
{
	if (domain.n > 0 && domain.p[domain.n - 1] == '.')
		domain.n--;
	return domain;
}

bool
address_split(struct str s, struct str *local, struct str *domain)
{
	const char *at = s.n > 0 ? memrchr(s.p, '@', s.n) : NULL;

	if (at == NULL || str_trim(s).n != s.n)
		return false;
	*local = (struct str){s.p, (size_t)(at - s.p)};
	*domain = without_dot(str_from(s, local->n + 1));
	return local->n > 0 && domain->n > 0;
}

/* What looks like a blank or a dot in a domain, and is neither. */
static bool
is_stranger(unsigned c)
{
	static const struct {
		unsigned from, to;
	} ranges[] = {
	    {0x01, 0x2c},
	    {0x2f, 0x2f},
	    {0x3a, 0x40},
	    {0x5b, 0x5e},
	    {0x60, 0x60},
	    {0x7b, 0xa0},
	    {0x1680, 0x1680},
	    {0x2000, 0x200f},
	    {0x2028, 0x202f},
	    {0x205f, 0x2060},
	    {0x3000, 0x3000},
	    {0x3002, 0x3002},
	    {0xfeff, 0xfeff},
	    {0xff0e, 0xff0e},
	    {0xff61, 0xff61},
	};

	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++)
		if (c >= ranges[i].from && c <= ranges[i].to)
			return true;
	return false;
}

static const char *
literal_error(struct str s)
{
	static const struct str v6 = STR_INIT("[IPv6:");
	char buf[64];
	unsigned char address[16];
	bool is_v6 = s.n > v6.n && str_ieq((struct str){s.p, v6.n}, v6);
	struct str inner = str_from(s, is_v6 ? v6.n : 1);

	if (inner.n < 2 || inner.n > sizeof(buf) ||
	    inner.p[inner.n - 1] != ']')
		return "no IP address stands in the brackets";
	memcpy(buf, inner.p, inner.n - 1);
	buf[inner.n - 1] = '\0';
	if (inet_pton(is_v6 ? AF_INET6 : AF_INET, buf, address) != 1)
		return "no IP address stands in the brackets";
	return NULL;
}

static const char *
label_error(struct str label)
{
	size_t characters = 0;

	for (size_t i = 0; i < label.n; i++)
		characters += ((unsigned char)label.p[i] & 0xc0) != 0x80;
	if (label.n == 0)
		return "an empty label";
	if (label.p[0] == '-' || label.p[label.n - 1] == '-')
		return "a label with a hyphen at its end";
	return characters > 63 ? "a label longer than 63 bytes" : NULL;
}

static const char *
characters_error(struct str s)
{
	bool number = true;

	for (size_t i = 0, len; i < s.n; i += len) {
		unsigned c = (unsigned char)s.p[i];

		len = utf8_len(s.p + i, s.n - i);
		if (len == 0)
			return "no valid UTF-8";
		if (len > 1)
			c &= 0x7fU >> len;
		for (size_t j = 1; j < len; j++)
			c = c << 6 | ((unsigned char)s.p[i + j] & 0x3fU);
		if (c == 0 || is_stranger(c))
			return "a character that is in no domain";
		number = number && (c == '.' || (c >= '0' && c <= '9'));
	}
	return number ? "a number: an IP address stands in brackets" : NULL;
}

const char *
domain_error(struct str s)
{
	const char *why;

	if (s.n == 0)
		return "no domain";
	if (s.p[0] == '[')
		return literal_error(s);
	if (s.n > DOMAIN_MAX_BYTES)
		return "longer than 255 bytes";
	why = characters_error(s);
	while (why == NULL) {
		const char *dot = memchr(s.p, '.', s.n);
		size_t n = dot == NULL ? s.n : (size_t)(dot - s.p);

		why = label_error((struct str){s.p, n});
		if (dot == NULL)
			break;
		s = str_from(s, n + 1);
	}
	return why;
}

static bool
lower_into(struct str s, char *buf, size_t max)
{
	if (s.n > max)
		return false;
	for (size_t i = 0; i < s.n; i++)
		buf[i] = ascii_lower(s.p[i]);
	buf[s.n] = '\0';
	return true;
}

static bool
is_ascii(struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		if ((unsigned char)s.p[i] >= 0x80)
			return false;
	return true;
}

bool
domain_fold(struct str domain, char buf[DOMAIN_MAX_BYTES + 1], struct str *out)
{
	domain = without_dot(domain);
	if (domain.n == 0 || !lower_into(domain, buf, DOMAIN_MAX_BYTES))
		return false;
	*out = (struct str){buf, domain.n};
	if (!is_ascii(*out)) {
		char *ascii;

		if (idn2_to_ascii_8z(buf, &ascii, IDN2_NONTRANSITIONAL) != IDN2_OK)
			return true;
		/* Of a wide '@' it makes one that would end a local part. */
		if (strpbrk(ascii, "@ ") != NULL) {
			idn2_free(ascii);
			return true;
		}
		out->n = strlen(ascii);
		if (out->n <= DOMAIN_MAX_BYTES)
			memcpy(buf, ascii, out->n + 1);
		idn2_free(ascii);
		*out = without_dot(*out);
		return out->n > 0 && out->n <= DOMAIN_MAX_BYTES;
	}
	return true;
}

bool
local_fold(struct str local, bool fold, char buf[LOCAL_MAX_BYTES + 1],
    struct str *out)
{
	if (local.n > LOCAL_MAX_BYTES)
		return false;
	if (!fold) {
		*out = local;
		return true;
	}
	lower_into(local, buf, LOCAL_MAX_BYTES);
	*out = (struct str){buf, local.n};
	return true;
}

static bool
is_list_address(struct str local)
{
	static const struct str owner = STR_INIT("owner-");
	static const struct str request = STR_INIT("-request");

	if (local.n > owner.n && str_ieq((struct str){local.p, owner.n}, owner))
		return true;
	return local.n > request.n &&
	    str_ieq(str_from(local, local.n - request.n), request);
}

struct str
local_base(struct str local, struct str delimiters)
{
	if (delimiters.n == 0)
		return local;
	for (size_t i = 0; i < local.n; i++) {
		if (memchr(delimiters.p, local.p[i], delimiters.n) == NULL)
			continue;
		if (i == 0 ||
		    (memchr(delimiters.p, '-', delimiters.n) != NULL &&
			is_list_address(local)))
			return local;
		return (struct str){local.p, i};
	}
	return local;
}

/* Is it that domain in another spelling?  Not every A-label is one of IDNA. */
static bool
is_spelling(const char *other, const char *domain)
{
	char buf[DOMAIN_MAX_BYTES + 1];
	struct str folded;

	return strcmp(other, domain) != 0 &&
	    domain_fold(str_of(other), buf, &folded) &&
	    str_eq(folded, str_of(domain));
}

bool
address_respell(struct str s, char *buf, size_t size, struct str *out)
{
	size_t head = s.n;
	char domain[DOMAIN_MAX_BYTES + 1], *other = NULL;
	struct sbuf b = sbuf_over(buf, size);
	struct str name, folded;

	while (head > 0 && s.p[head - 1] != '@' && s.p[head - 1] != ' ')
		head--;
	name = str_from(s, head);
	if (!domain_fold(name, domain, &folded))
		return false;
	sbuf_add(&b, (struct str){s.p, head});
	if (!str_ieq(folded, without_dot(name)))
		sbuf_add(&b, folded);
	else if (idn2_to_unicode_8z8z(domain, &other, 0) == IDN2_OK &&
	    is_spelling(other, domain))
		sbuf_add(&b, str_of(other));
	idn2_free(other);
	*out = sbuf_str(&b);
	return !b.full && b.n > head;
}

struct str
domain_parent(struct str domain)
{
	const char *dot = memchr(domain.p, '.', domain.n);

	if (dot == NULL)
		return str_from(domain, domain.n);
	return str_from(domain, (size_t)(dot - domain.p) + 1);
}
