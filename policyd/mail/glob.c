#include "mail/glob.h"

#include <stdint.h>

enum { BEYOND_UNICODE = 0x110000 };

/* The character at *at, which moves past it. */
static uint32_t
take(struct str s, size_t *at)
{
	const unsigned char *u = (const unsigned char *)s.p + *at;
	size_t len = utf8_len(s.p + *at, s.n - *at);
	uint32_t c;

	if (len < 2) {
		(*at)++;
		return len == 1 ? u[0] : (uint32_t)BEYOND_UNICODE + u[0];
	}
	*at += len;
	c = u[0] & (0x7fU >> len);
	for (size_t i = 1; i < len; i++)
		c = c << 6 | (u[i] & 0x3fU);
	return c;
}

static uint32_t
other_case(uint32_t c)
{
	uint32_t lower = c | 0x20;

	return lower >= 'a' && lower <= 'z' ? c ^ 0x20 : c;
}

static bool
is_between(uint32_t c, uint32_t from, uint32_t to)
{
	return c >= from && c <= to;
}

/*
 * Does c stand in the set that begins at *at, after its [ ?  *at moves past
 * its ].
 */
static const char *
take_set(struct str p, size_t *at, uint32_t c, bool *in)
{
	bool outside = *at < p.n && p.p[*at] == '!', found = false;
	size_t i = *at + outside, first = i;

	for (; i < p.n && (p.p[i] != ']' || i == first);) {
		uint32_t from = take(p, &i), to = from;

		if (i + 1 < p.n && p.p[i] == '-' && p.p[i + 1] != ']') {
			i++;
			to = take(p, &i);
			if (to < from)
				return "a range in a [ ] runs backwards";
		}
		found = found || is_between(c, from, to) ||
		    is_between(other_case(c), from, to);
	}
	if (i >= p.n)
		return "a [ is never closed";
	*at = i + 1;
	*in = found != outside;
	return NULL;
}

/* What stands for itself, where a backslash may have been before it. */
static const char *
take_literal(struct str p, size_t *at, uint32_t *c)
{
	if (p.p[*at] == '\\' && ++*at == p.n)
		return "a \\ stands at its end";
	*c = take(p, at);
	return NULL;
}

const char *
glob_error(struct str pattern)
{
	const char *why = NULL;
	size_t i = 0;

	while (i < pattern.n && why == NULL) {
		uint32_t c;
		bool in;

		if (pattern.p[i] == '[') {
			i++;
			why = take_set(pattern, &i, 0, &in);
		} else {
			why = take_literal(pattern, &i, &c);
		}
	}
	return why;
}

/* One character of the text against what stands at *p; moves both past it. */
static bool
take_match(struct str pattern, size_t *p, struct str text, size_t *t)
{
	uint32_t c = take(text, t), want;
	bool in;

	if (pattern.p[*p] == '?') {
		(*p)++;
		return true;
	}
	if (pattern.p[*p] == '[') {
		(*p)++;
		return take_set(pattern, p, c, &in) == NULL && in;
	}
	return take_literal(pattern, p, &want) == NULL &&
	    (c == want || other_case(c) == want);
}

/*
 * On a mismatch only the last star takes one character more: whatever an
 * earlier one might have taken more, the last could as well.  So there is one
 * place to go back to, and no recursion.
 */
bool
glob_match(struct str pattern, struct str text)
{
	size_t p = 0, t = 0, star = 0, taken = 0;
	bool starred = false;

	while (t < text.n) {
		size_t p_after = p, t_after = t;

		if (p < pattern.n && pattern.p[p] == '*') {
			starred = true;
			star = ++p;
			taken = t;
			continue;
		}
		if (p < pattern.n &&
		    take_match(pattern, &p_after, text, &t_after)) {
			p = p_after;
			t = t_after;
			continue;
		}
		if (!starred)
			return false;
		if (star == pattern.n)
			return true;
		take(text, &taken);
		t = taken;
		p = star;
	}
	while (p < pattern.n && pattern.p[p] == '*')
		p++;
	return p == pattern.n;
}
