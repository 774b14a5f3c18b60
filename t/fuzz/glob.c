#include "mail/glob.h"

#include "fuzz.h"

/*
 * A pattern, a newline, a text: against a matcher that is as simple as can be,
 * and goes back to every star.
 */

/* How many bytes of the pattern are one of its elements. */
static size_t
element(struct str p)
{
	for (size_t n = 1; n <= p.n; n++)
		if (glob_error((struct str){p.p, n}) == NULL &&
		    (utf8_len(p.p, p.n) < 2 || n >= utf8_len(p.p, p.n)))
			return p.p[0] != '\\' || utf8_len(p.p + 1, p.n - 1) < 2 ?
			    n : 1 + utf8_len(p.p + 1, p.n - 1);
	abort();
}

static bool
match(struct str p, struct str t, int *steps)
{
	size_t n, c;

	if (++*steps > 20000)
		return false;
	if (p.n == 0)
		return t.n == 0;
	if (p.p[0] == '*')
		return match(str_from(p, 1), t, steps) ||
		    (t.n > 0 && match(p, str_from(t, utf8_len(t.p, t.n) > 0 ?
				    utf8_len(t.p, t.n) : 1), steps));
	n = element(p);
	c = t.n == 0 ? 0 : utf8_len(t.p, t.n) > 0 ? utf8_len(t.p, t.n) : 1;
	return t.n > 0 &&
	    glob_match((struct str){p.p, n}, (struct str){t.p, c}) &&
	    match(str_from(p, n), str_from(t, c), steps);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	const uint8_t *end = n > 0 ? memchr(data, '\n', n) : NULL;
	struct str pattern, text;
	char *p, *t;
	int steps = 0;
	bool like, want;

	if (end == NULL)
		return 0;
	/* Buffers of their own, so that a read past an end is seen. */
	pattern.n = (size_t)(end - data);
	text.n = n - pattern.n - 1;
	pattern.p = p = malloc(pattern.n + 1);
	text.p = t = malloc(text.n + 1);
	memcpy(p, data, pattern.n);
	memcpy(t, end + 1, text.n);
	p = realloc(p, pattern.n > 0 ? pattern.n : 1);
	t = realloc(t, text.n > 0 ? text.n : 1);
	pattern.p = p;
	text.p = t;
	if (pattern.n <= 500 && text.n <= 2000) {
		like = glob_match(pattern, text);
		if (glob_error(pattern) == NULL && text.n < 100 &&
		    pattern.n < 100) {
			want = match(pattern, text, &steps);
			CHECK(steps > 20000 || like == want);
		}
	}
	free(p);
	free(t);
	return 0;
}
