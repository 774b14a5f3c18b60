#include "base/str.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

static bool
is_blank(char c)
{
	return c == ' ' || c == '\t';
}

struct str
str_trim(struct str s)
{
	while (s.n > 0 && is_blank(s.p[0]))
		s = str_from(s, 1);
	while (s.n > 0 && is_blank(s.p[s.n - 1]))
		s.n--;
	return s;
}

struct str
str_word(struct str *rest)
{
	struct str s = *rest, word;

	while (s.n > 0 && is_blank(s.p[0]))
		s = str_from(s, 1);
	word = (struct str){s.p, 0};
	while (word.n < s.n && !is_blank(s.p[word.n]))
		word.n++;
	*rest = str_from(s, word.n);
	while (rest->n > 0 && is_blank(rest->p[0]))
		*rest = str_from(*rest, 1);
	return word;
}

size_t
utf8_len(const char *p, size_t n)
{
	const unsigned char *u = (const unsigned char *)p;
	size_t len;
	uint32_t c;

	if (n == 0)
		return 0;
	if (u[0] < 0x80)
		return 1;
	if (u[0] < 0xc2 || u[0] > 0xf4)
		return 0;
	len = u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : 4;
	if (n < len)
		return 0;
	c = u[0] & (0x7fU >> len);
	for (size_t i = 1; i < len; i++) {
		if ((u[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (u[i] & 0x3fU);
	}
	/* Overlong forms, surrogates, and what lies beyond Unicode. */
	if ((len == 3 && c < 0x800) || (len == 4 && c < 0x10000) ||
	    (c >= 0xd800 && c <= 0xdfff) || c > 0x10ffff)
		return 0;
	return len;
}

size_t
utf8_printable_len(const char *p, size_t n)
{
	const unsigned char *u = (const unsigned char *)p;
	size_t len = utf8_len(p, n);

	if (len == 1 && (u[0] < ' ' || u[0] == 0x7f))
		return 0;
	/* C1 controls are two bytes in UTF-8, and terminals obey some. */
	if (len == 2 && u[0] == 0xc2 && u[1] < 0xa0)
		return 0;
	return len;
}

bool
utf8_valid(struct str s)
{
	for (size_t i = 0, len; i < s.n; i += len)
		if ((len = utf8_len(s.p + i, s.n - i)) == 0)
			return false;
	return true;
}

void
sbuf_add(struct sbuf *b, struct str s)
{
	size_t room = b->cap - 1 - b->n;

	if (s.n > room) {
		s.n = room;
		b->full = true;
	}
	if (s.n > 0)
		memcpy(b->p + b->n, s.p, s.n);
	b->n += s.n;
	b->p[b->n] = '\0';
}

void
sbuf_addc(struct sbuf *b, char c)
{
	sbuf_add(b, (struct str){&c, 1});
}

void
sbuf_addf(struct sbuf *b, const char *fmt, ...)
{
	size_t room = b->cap - b->n;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(b->p + b->n, room, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	if ((size_t)n >= room) {
		b->full = true;
		n = (int)room - 1;
	}
	b->n += (size_t)n;
}
