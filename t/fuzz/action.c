#include "mail/action.h"

#include "fuzz.h"

/*
 * A byte for the length of the subject, a sender, a newline, a recipient, a
 * newline, and the text of an action.  Whatever it is, what goes on the wire is
 * one that Postfix understands as it is meant, and there is nothing left to be
 * made safe in it.
 */

static const struct str fallback = STR_INIT("451 4.3.0 Later");

enum { REPLY_PREFIX = 48, TEXT_LEAST = 24 };

static bool
is_digits(struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		if (s.p[i] < '0' || s.p[i] > '9')
			return false;
	return s.n > 0;
}

/* How many digits stand at the head of s, if there are no more than 3. */
static size_t
digits_len(struct str s)
{
	size_t n = 0;

	while (n < s.n && s.p[n] >= '0' && s.p[n] <= '9')
		n++;
	return n <= 3 ? n : 0;
}

/* As Postfix does (dsn_valid): D.D.D at the head of a text is no text. */
static size_t
enhanced_len(struct str s)
{
	size_t at = 2, n;

	if (s.n < 5 || memchr("245", s.p[0], 3) == NULL || s.p[1] != '.')
		return 0;
	n = digits_len(str_from(s, at));
	at += n;
	if (n == 0 || at == s.n || s.p[at++] != '.')
		return 0;
	n = digits_len(str_from(s, at));
	at += n;
	return n > 0 && (at == s.n || s.p[at] == ' ') ? at : 0;
}

/* A code has a text behind it, and the whole reply has room in a line. */
static void
check_code(struct str action, size_t subject_len)
{
	struct str rest = action, word = str_word(&rest);
	size_t enhanced = enhanced_len(rest);

	CHECK(word.n > 0 && !is_digits(action));
	if (!is_digits(word))
		return;
	CHECK(word.n == 3 && (word.p[0] == '4' || word.p[0] == '5'));
	rest = str_trim(str_from(rest, enhanced));
	CHECK(rest.n > 0);
	CHECK(rest.n <= TEXT_LEAST ||
	    REPLY_PREFIX + subject_len + rest.n <= SMTP_REPLY_MAX_BYTES);
}

/* One line of printable UTF-8 between `action=` and two line feeds. */
static struct str
check_wire(const struct sbuf *b, size_t max)
{
	static const struct str head = STR_INIT("action=");
	struct str text;

	CHECK(!b->full && b->n > head.n + 2 && b->n < ACTION_WIRE_MAX_BYTES);
	CHECK(memcmp(b->p, head.p, head.n) == 0);
	CHECK(memcmp(b->p + b->n - 2, "\n\n", 2) == 0);
	text = (struct str){b->p + head.n, b->n - head.n - 2};
	CHECK(text.n <= max);
	for (size_t i = 0, len; i < text.n; i += len)
		CHECK((len = utf8_printable_len(text.p + i, text.n - i)) > 0);
	return text;
}

/* What was not good is a refusal still, with a text of ours, or the fallback. */
static void
check_completed(struct str text, struct str out, size_t count)
{
	struct str word = str_word(&text), stays = str_word(&out);

	if (str_eq(stays, STR("451")) && str_eq(out, STR("4.3.0 Later")))
		return;
	CHECK(count > 0 && action_refuses(stays) && out.n > 0);
	CHECK(str_eq(word, stays) ||
	    (word.n > 0 && memchr(word.p, '{', word.n) != NULL));
}

static void
check_format(struct str text, const struct action_placeholder *with,
    size_t count, size_t subject_len)
{
	char buf[ACTION_WIRE_MAX_BYTES], again_buf[ACTION_WIRE_MAX_BYTES];
	struct sbuf b = sbuf_over(buf, sizeof(buf));
	struct sbuf again = sbuf_over(again_buf, sizeof(again_buf));
	struct str out, part;
	bool good = action_format(&b, text, with, count, subject_len, fallback);

	out = check_wire(&b, ACTION_MAX_BYTES);
	CHECK(action_error(out, &part) == NULL);
	check_code(out, subject_len);
	if (!good)
		check_completed(text, out, count);
	CHECK(action_format(&again, out, NULL, 0, subject_len, fallback));
	CHECK(str_eq(sbuf_str(&b), sbuf_str(&again)));
	/* Without placeholders, what is good goes out as it is, or its head. */
	if (action_error(text, &part) != NULL || count > 0)
		return;
	CHECK(good && out.n <= text.n && memcmp(out.p, text.p, out.n) == 0);
	CHECK(action_refuses(out) == action_refuses(text));
}

static void
check_positive(struct str text)
{
	char buf[ACTION_WIRE_MAX_BYTES];
	struct sbuf b = sbuf_over(buf, sizeof(buf));

	action_format_positive(&b, text);
	check_wire(&b, SMTP_REPLY_MAX_BYTES);
}

static void
check_error(struct str text)
{
	struct str part = {NULL, 0}, again;
	const char *why = action_error(text, &part);

	CHECK(action_error(text, &again) == why);
	if (why == NULL) {
		CHECK(text.n > 0 && text.n <= ACTION_MAX_BYTES);
		CHECK(utf8_valid(text) && !is_digits(text));
		return;
	}
	CHECK(why[0] != '\0');
	CHECK(part.n == 0 ||
	    (part.p >= text.p && part.p + part.n <= text.p + text.n));
}

static struct str
cut_line(struct str *rest)
{
	const char *lf = rest->n > 0 ? memchr(rest->p, '\n', rest->n) : NULL;
	struct str line = {rest->p,
	    lf == NULL ? rest->n : (size_t)(lf - rest->p)};

	*rest = str_from(*rest, line.n + (lf != NULL));
	return line;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct action_placeholder with[] = {{STR("sender"), STR("")},
	    {STR("recipient"), STR("")}};
	struct str rest;
	size_t subject_len;
	char *buf;

	if (n == 0)
		return 0;
	/* A buffer of its own, so that a read past its end is seen. */
	buf = malloc(n > 1 ? n - 1 : 1);
	memcpy(buf, data + 1, n - 1);
	subject_len = (size_t)data[0] * 10;
	rest = (struct str){buf, n - 1};
	with[0].value = cut_line(&rest);
	with[1].value = cut_line(&rest);
	check_error(rest);
	check_format(rest, with, 2, subject_len);
	check_format(rest, NULL, 0, subject_len);
	check_positive(rest);
	free(buf);
	return 0;
}
