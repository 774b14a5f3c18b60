#ifndef POLICYD_STR_H
#define POLICYD_STR_H

/*
 * str - borrowed slices of bytes, and a bounded builder.
 *
 * Floor 0.  A slice owns nothing and is not NUL-terminated; it is good for as
 * long as the buffer that it points into.  Letter case is that of ASCII: what
 * mail folds beyond that, mail/address.h does.
 */

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

struct str {
	const char *p;
	size_t n;
};

#define STR(literal) ((struct str){(literal), sizeof(literal) - 1})

/* The same for a table of constants, where STR() is no constant expression. */
#define STR_INIT(literal) {(literal), sizeof(literal) - 1}

/* A slice of a C string; s may be NULL, which is the empty slice. */
static inline struct str
str_of(const char *s)
{
	return s != NULL ? (struct str){s, strlen(s)} : STR("");
}

static inline bool
str_eq(struct str a, struct str b)
{
	return a.n == b.n && memcmp(a.p, b.p, a.n) == 0;
}

static inline bool
str_ieq(struct str a, struct str b)
{
	return a.n == b.n && strncasecmp(a.p, b.p, a.n) == 0;
}

static inline struct str
str_from(struct str s, size_t at)
{
	return (struct str){s.p + at, s.n - at};
}

static inline char
ascii_lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

/* Without blanks and tabs at either end. */
struct str str_trim(struct str s);

/*
 * Cut the first word off *rest: what stands before the first blank.  Blanks
 * before it are dropped; *rest is left at what follows, blanks dropped.
 */
struct str str_word(struct str *rest);

/*
 * Length of the well-formed UTF-8 sequence (RFC 3629) at p, of which n bytes
 * are there; 0 if there is none.
 */
size_t utf8_len(const char *p, size_t n);

/* The same, but 0 for control characters, too: C0, DEL and C1. */
size_t utf8_printable_len(const char *p, size_t n);

/* Is all of s well-formed UTF-8? */
bool utf8_valid(struct str s);

/*
 * A builder over a buffer of the caller's.  What does not fit is dropped and
 * `full` is set; the buffer always holds a NUL after the text.
 */
struct sbuf {
	char *p;
	size_t n;    /* bytes of text, the NUL not counted */
	size_t cap;  /* size of the buffer */
	bool full;
};

static inline struct sbuf
sbuf_over(char *p, size_t cap)
{
	p[0] = '\0';
	return (struct sbuf){.p = p, .cap = cap};
}

void sbuf_add(struct sbuf *b, struct str s);
void sbuf_addc(struct sbuf *b, char c);
void sbuf_addf(struct sbuf *b, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static inline struct str
sbuf_str(const struct sbuf *b)
{
	return (struct str){b->p, b->n};
}

#endif
