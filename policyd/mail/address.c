#include "mail/address.h"

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

bool
address_respell(struct str s, char *buf, size_t size, struct str *out)
{
	const char *at = s.n > 0 ? memrchr(s.p, '@', s.n) : NULL;
	size_t head = at == NULL ? 0 : (size_t)(at - s.p) + 1;
	char domain[DOMAIN_MAX_BYTES + 1], *other = NULL;
	struct sbuf b = sbuf_over(buf, size);
	struct str name = str_from(s, head), folded;

	if (!domain_fold(name, domain, &folded))
		return false;
	sbuf_add(&b, (struct str){s.p, head});
	if (!str_ieq(folded, without_dot(name)))
		sbuf_add(&b, folded);
	else if (idn2_to_unicode_8z8z(domain, &other, 0) == IDN2_OK &&
	    strcmp(domain, other) != 0)
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
