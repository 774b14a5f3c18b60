#include "mail/request.h"

static const struct str names[ATTRIBUTES] = {
#define X(name) STR_INIT(#name),
    REQUEST_ATTRIBUTES(X)
#undef X
};

struct str
attribute_name(enum attribute a)
{
	return names[a];
}

enum attribute
attribute_named(struct str name)
{
	enum attribute a;

	for (a = 0; a < ATTRIBUTES; a++)
		if (str_eq(names[a], name))
			break;
	return a;
}

/*
 * Are n bytes, at least 4, the same?  Inline, since thirty calls of memcmp()
 * for a few bytes each cost more than all else here.
 */
static inline bool
is_same(const char *a, const char *b, size_t n)
{
	uint64_t x, y;
	uint32_t u, v;
	size_t i = 0;

	for (; i + 8 <= n; i += 8) {
		memcpy(&x, a + i, 8);
		memcpy(&y, b + i, 8);
		if (x != y)
			return false;
	}
	/* The rest, with some of what was seen already. */
	i = n >= 8 ? n - 8 : 0;
	memcpy(&u, a + i, 4);
	memcpy(&v, b + i, 4);
	if (u != v)
		return false;
	memcpy(&u, a + n - 4, 4);
	memcpy(&v, b + n - 4, 4);
	return u == v;
}

/*
 * The first LF in the n bytes at p.  Eight bytes at a time, inline: lines are
 * short (a byte is zero in x if its top bit is set in the sum; the lowest such
 * byte is always a true one).
 */
static inline const char *
find_lf(const char *p, size_t n)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	const uint64_t ones = UINT64_C(0x0101010101010101);

	for (; n >= 8; p += 8, n -= 8) {
		uint64_t x;

		memcpy(&x, p, 8);
		x ^= ones * '\n';
		x = (x - ones) & ~x & (ones << 7);
		if (x != 0)
			return p + (__builtin_ctzll(x) >> 3);
	}
#endif
	return memchr(p, '\n', n);
}

/* Do the n bytes at p start with that attribute's name and '='? */
static inline bool
starts_with_name(enum attribute a, const char *p, size_t n)
{
	return n > names[a].n && p[names[a].n] == '=' &&
	    is_same(p, names[a].p, names[a].n);
}

static void
take_value(struct request *out, enum attribute a, struct str value)
{
	if (request_has(out, a))
		return;
	out->present |= UINT64_C(1) << a;
	out->value[a] = value;
}

/* A line whose name could not be guessed; *a is left after its attribute. */
static const char *
parse_line(struct request *out, struct str line, enum attribute *a)
{
	const char *eq = memchr(line.p, '=', line.n);
	enum attribute named;

	if (eq == NULL)
		return "a line without '='";
	if (eq == line.p)
		return "an attribute without a name";
	named = attribute_named((struct str){line.p, (size_t)(eq - line.p)});
	if (named == ATTRIBUTES)
		return NULL;
	take_value(out, named, str_from(line, (size_t)(eq - line.p) + 1));
	*a = named + 1;
	return NULL;
}

/* Few are: cheaper than to clear all of them first. */
static void
empty_absent(struct request *out)
{
	uint64_t absent = ~out->present & ((UINT64_C(1) << ATTRIBUTES) - 1);

	for (; absent != 0; absent &= absent - 1)
		out->value[__builtin_ctzll(absent)] = STR("");
}

/* What is there of an unfinished block: within the bounds, or why not. */
static const char *
check_unfinished(const char *buf, size_t n)
{
	const char *lf = memrchr(buf, '\n', n);
	size_t line = lf == NULL ? n : (size_t)(buf + n - lf) - 1;

	if (line > REQUEST_LINE_MAX_BYTES)
		return "a line is too long";
	if (n >= REQUEST_MAX_BYTES)
		return "the request is too long";
	return NULL;
}

/*
 * Has the empty line arrived?  Only looks at bytes not seen before, and so
 * keeps the work linear for a client that writes one byte at a time.
 */
static bool
may_be_complete(const char *buf, size_t n, size_t *scanned)
{
	size_t from = *scanned > 0 ? *scanned - 1 : 0;

	*scanned = n;
	return from == 0 || memmem(buf + from, n - from, "\n\n", 2) != NULL;
}

enum request_status
request_parse(struct request *out, const char *buf, size_t n, size_t *scanned,
    size_t *used, const char **why)
{
	enum attribute next = ATTR_request; /* what Postfix would send */
	size_t at = 0;

	if (!may_be_complete(buf, n, scanned))
		goto unfinished;
	out->present = 0;
	for (int lines = 0;; lines++) {
		bool guessed = next < ATTRIBUTES &&
		    starts_with_name(next, buf + at, n - at);
		size_t skip = guessed ? names[next].n + 1 : 0;
		const char *lf = find_lf(buf + at + skip, n - at - skip);
		struct str line;

		if (lf == NULL)
			goto unfinished;
		line = (struct str){buf + at, (size_t)(lf - buf) - at};
		at += line.n + 1;
		if (at > REQUEST_MAX_BYTES) {
			*why = "the request is too long";
			return REQUEST_BAD;
		}
		if (line.n == 0)
			break;
		if (line.n > REQUEST_LINE_MAX_BYTES) {
			*why = "a line is too long";
			return REQUEST_BAD;
		}
		if (lines == REQUEST_MAX_ATTRIBUTES) {
			*why = "too many attributes";
			return REQUEST_BAD;
		}
		if (guessed) {
			take_value(out, next++, str_from(line, skip));
			continue;
		}
		*why = parse_line(out, line, &next);
		if (*why != NULL)
			return REQUEST_BAD;
	}
	if (memchr(buf, '\0', at) != NULL) {
		*why = "a NUL byte";
		return REQUEST_BAD;
	}
	empty_absent(out);
	*used = at;
	*scanned = 0;
	return REQUEST_DONE;

unfinished:
	*why = check_unfinished(buf, n);
	return *why != NULL ? REQUEST_BAD : REQUEST_MORE;
}
