#include "mail/action.h"

#include <stdint.h>

enum kind {
	TEXT,      /* optional text */
	DSN_TEXT,  /* optional enhanced code, then optional text */
	TRANSPORT, /* transport:destination */
	ADDRESS,   /* user@domain */
	HEADER,    /* Name: value */
};

static const struct {
	struct str name;
	enum kind kind;
	enum action_meaning meaning;
} actions[] = {
    {STR_INIT("DUNNO"), TEXT, MEANS_DUNNO},
    {STR_INIT("OK"), TEXT, MEANS_PERMITS},
    {STR_INIT("RELAY"), TEXT, MEANS_PERMITS},
    {STR_INIT("REJECT"), DSN_TEXT, MEANS_REJECTS},
    {STR_INIT("DEFER"), DSN_TEXT, MEANS_DEFERS},
    {STR_INIT("DEFER_IF_PERMIT"), DSN_TEXT, MEANS_DEFERS},
    {STR_INIT("DEFER_IF_REJECT"), DSN_TEXT, MEANS_MORE},
    {STR_INIT("HOLD"), TEXT, MEANS_MORE},
    {STR_INIT("DISCARD"), TEXT, MEANS_MORE},
    {STR_INIT("INFO"), TEXT, MEANS_MORE},
    {STR_INIT("WARN"), TEXT, MEANS_MORE},
    {STR_INIT("FILTER"), TRANSPORT, MEANS_MORE},
    {STR_INIT("REDIRECT"), ADDRESS, MEANS_MORE},
    {STR_INIT("BCC"), ADDRESS, MEANS_MORE},
    {STR_INIT("PREPEND"), HEADER, MEANS_MORE},
};
enum { ACTIONS = sizeof(actions) / sizeof(actions[0]) };

/*
 * Restrictions that Postfix knows by name and that make sense as an answer.
 * Not among them: check_…_access (its maps have a ':', which Postfix refuses
 * here) and check_policy_service (it would ask us).
 */
static const struct {
	struct str name;
	int arguments;
	enum action_meaning meaning;
} restrictions[] = {
    {STR_INIT("permit"), 0, MEANS_PERMITS},
    {STR_INIT("defer"), 0, MEANS_DEFERS},
    {STR_INIT("reject"), 0, MEANS_REJECTS},
    {STR_INIT("warn_if_reject"), 0, MEANS_MORE},
    {STR_INIT("defer_if_permit"), 0, MEANS_DEFERS},
    {STR_INIT("defer_if_reject"), 0, MEANS_MORE},
    {STR_INIT("permit_mynetworks"), 0, MEANS_MORE},
    {STR_INIT("permit_sasl_authenticated"), 0, MEANS_MORE},
    {STR_INIT("permit_tls_clientcerts"), 0, MEANS_MORE},
    {STR_INIT("permit_tls_all_clientcerts"), 0, MEANS_MORE},
    {STR_INIT("permit_auth_destination"), 0, MEANS_MORE},
    {STR_INIT("permit_mx_backup"), 0, MEANS_MORE},
    {STR_INIT("permit_inet_interfaces"), 0, MEANS_MORE},
    {STR_INIT("reject_unauth_destination"), 0, MEANS_MORE},
    {STR_INIT("defer_unauth_destination"), 0, MEANS_MORE},
    {STR_INIT("reject_unauth_pipelining"), 0, MEANS_MORE},
    {STR_INIT("reject_unverified_recipient"), 0, MEANS_MORE},
    {STR_INIT("reject_unverified_sender"), 0, MEANS_MORE},
    {STR_INIT("reject_unlisted_recipient"), 0, MEANS_MORE},
    {STR_INIT("reject_unlisted_sender"), 0, MEANS_MORE},
    {STR_INIT("reject_unknown_client_hostname"), 0, MEANS_MORE},
    {STR_INIT("reject_unknown_reverse_client_hostname"), 0, MEANS_MORE},
    {STR_INIT("reject_unknown_helo_hostname"), 0, MEANS_MORE},
    {STR_INIT("reject_unknown_recipient_domain"), 0, MEANS_MORE},
    {STR_INIT("reject_unknown_sender_domain"), 0, MEANS_MORE},
    {STR_INIT("reject_invalid_helo_hostname"), 0, MEANS_MORE},
    {STR_INIT("reject_non_fqdn_helo_hostname"), 0, MEANS_MORE},
    {STR_INIT("reject_non_fqdn_recipient"), 0, MEANS_MORE},
    {STR_INIT("reject_non_fqdn_sender"), 0, MEANS_MORE},
    {STR_INIT("reject_sender_login_mismatch"), 0, MEANS_MORE},
    {STR_INIT("reject_authenticated_sender_login_mismatch"), 0, MEANS_MORE},
    {STR_INIT("reject_known_sender_login_mismatch"), 0, MEANS_MORE},
    {STR_INIT("reject_unauthenticated_sender_login_mismatch"), 0, MEANS_MORE},
    {STR_INIT("reject_multi_recipient_bounce"), 0, MEANS_MORE},
    {STR_INIT("reject_plaintext_session"), 0, MEANS_MORE},
    {STR_INIT("reject_rbl_client"), 1, MEANS_MORE},
    {STR_INIT("reject_rhsbl_client"), 1, MEANS_MORE},
    {STR_INIT("reject_rhsbl_helo"), 1, MEANS_MORE},
    {STR_INIT("reject_rhsbl_recipient"), 1, MEANS_MORE},
    {STR_INIT("reject_rhsbl_reverse_client"), 1, MEANS_MORE},
    {STR_INIT("reject_rhsbl_sender"), 1, MEANS_MORE},
    {STR_INIT("permit_dnswl_client"), 1, MEANS_MORE},
    {STR_INIT("permit_rhswl_client"), 1, MEANS_MORE},
    {STR_INIT("sleep"), 1, MEANS_MORE},
};
enum { RESTRICTIONS = sizeof(restrictions) / sizeof(restrictions[0]) };

/* Digits at the head of s. */
static size_t
digits(struct str s)
{
	size_t n = 0;

	while (n < s.n && s.p[n] >= '0' && s.p[n] <= '9')
		n++;
	return n;
}

/* Bytes at the head of s that need no second look: printable ASCII. */
static size_t
plain_len(struct str s)
{
	size_t n = 0;

	while (n < s.n && s.p[n] >= ' ' && s.p[n] < 0x7f)
		n++;
	return n;
}

/* `D.D.D`, the whole of it: an enhanced status code (RFC 3463). */
static bool
is_enhanced_code(struct str s)
{
	if (s.n < 5 || digits(s) != 1 || s.p[1] != '.')
		return false;
	s = str_from(s, 2);
	if (digits(s) < 1 || digits(s) > 3 || digits(s) == s.n ||
	    s.p[digits(s)] != '.')
		return false;
	s = str_from(s, digits(s) + 1);
	return digits(s) >= 1 && digits(s) <= 3 && digits(s) == s.n;
}

/* What follows a code: an enhanced code may, but text must follow that. */
static const char *
text_error(struct str rest, bool text_needed, struct str *part)
{
	struct str after = rest, word = str_word(&after);

	if (is_enhanced_code(word)) {
		rest = after;
		text_needed = true;
		*part = word;
	}
	if (rest.n == 0 && text_needed)
		return "a text must follow the code";
	return NULL;
}

static const char *
address_error(struct str s, struct str *part)
{
	const char *at = memrchr(s.p, '@', s.n);

	*part = s;
	if (s.n == 0)
		return "an address must follow";
	if (memchr(s.p, ' ', s.n) != NULL)
		return "one address, without blanks";
	if (at == NULL || at == s.p || at == s.p + s.n - 1)
		return "an address has something on both sides of its '@'";
	return NULL;
}

static const char *
transport_error(struct str s, struct str *part)
{
	*part = s;
	if (s.n == 0 || s.p[0] == ':' || memchr(s.p, ':', s.n) == NULL ||
	    memchr(s.p, ' ', s.n) != NULL)
		return "FILTER takes transport:destination";
	return NULL;
}

static const char *
header_error(struct str s, struct str *part)
{
	size_t n = 0;

	*part = s;
	while (n < s.n && s.p[n] > ' ' && s.p[n] < 0x7f && s.p[n] != ':')
		n++;
	if (n == 0 || n == s.n || s.p[n] != ':')
		return "PREPEND takes a header, Name: value";
	if (str_trim(str_from(s, n + 1)).n == 0)
		return "the header has no value";
	return NULL;
}

/* reject_rbl_client takes a domain, with =d.d.d.d or =[1..2] perhaps. */
static bool
is_argument(struct str s)
{
	static const struct str marks = STR_INIT(".-_=;[]");

	for (size_t i = 0; i < s.n; i++) {
		char c = ascii_lower(s.p[i]);

		if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
			memchr(marks.p, c, marks.n) != NULL))
			return false;
	}
	return s.n > 0;
}

static struct str
list_word(struct str *rest)
{
	struct str word;
	size_t i = 0;

	while (i < rest->n && (rest->p[i] == ' ' || rest->p[i] == ','))
		i++;
	*rest = str_from(*rest, i);
	word = (struct str){rest->p, 0};
	while (word.n < rest->n && rest->p[word.n] != ' ' &&
	    rest->p[word.n] != ',')
		word.n++;
	*rest = str_from(*rest, word.n);
	return word;
}

static int
restriction_named(struct str word)
{
	for (int i = 0; i < RESTRICTIONS; i++)
		if (str_ieq(restrictions[i].name, word))
			return i;
	return -1;
}

static const char *
restrictions_error(struct str s, struct str *part)
{
	struct str all = s;
	int count = 0;

	for (; (*part = list_word(&s)).n > 0; count++) {
		int i = restriction_named(*part);

		if (i == -1)
			return "no action and no restriction of Postfix";
		if (restrictions[i].arguments == 0)
			continue;
		*part = list_word(&s);
		if (!is_argument(*part))
			return "the restriction takes an argument";
		if (str_ieq(restrictions[i].name, STR("sleep")) &&
		    digits(*part) != part->n)
			return "sleep takes a number of seconds";
	}
	*part = all;
	return count > 0 ? NULL : "no action and no restriction of Postfix";
}

static const char *
bytes_error(struct str text, struct str *part)
{
	*part = text;
	if (text.n == 0)
		return "an empty action permits";
	if (str_trim(text).n != text.n)
		return "blanks before or after the action";
	if (text.n > ACTION_MAX_BYTES)
		return "longer than 400 bytes";
	for (size_t i = plain_len(text), len; i < text.n; i += len) {
		len = utf8_printable_len(text.p + i, text.n - i);
		if (len == 0) {
			*part = str_from(text, i);
			part->n = 1;
			return "a control character, or no valid UTF-8";
		}
	}
	return NULL;
}

static bool
is_code(struct str word)
{
	return word.n == 3 && digits(word) == 3 &&
	    (word.p[0] == '4' || word.p[0] == '5');
}

static int
action_named(struct str word)
{
	if (is_code(word))
		return -1;
	for (int i = 0; i < ACTIONS; i++)
		if (str_ieq(actions[i].name, word))
			return i;
	return -1;
}

const char *
action_error(struct str text, struct str *part)
{
	const char *why = bytes_error(text, part);
	struct str rest = text, word;
	int i;

	if (why != NULL)
		return why;
	word = str_word(&rest);
	*part = word;
	if (is_code(word))
		return text_error(rest, true, part);
	if (digits(word) == word.n)
		return "a number that is no 4NN or 5NN: Postfix would permit";
	i = action_named(word);
	/* `reject` and `defer` alone are both; with text they are actions. */
	if (i == -1)
		return restrictions_error(text, part);
	switch (actions[i].kind) {
	case DSN_TEXT:
		return text_error(rest, false, part);
	case TRANSPORT:
		return transport_error(rest, part);
	case ADDRESS:
		return address_error(rest, part);
	case HEADER:
		return header_error(rest, part);
	case TEXT:
		break;
	}
	return NULL;
}

enum action_meaning
action_meaning(struct str text)
{
	struct str word = str_word(&text);
	int i = action_named(word);

	if (i != -1)
		return actions[i].meaning;
	if (is_code(word))
		return word.p[0] == '4' ? MEANS_DEFERS : MEANS_REJECTS;
	i = restriction_named(word);
	return i != -1 ? restrictions[i].meaning : MEANS_MORE;
}

/* Copy s into b, with a blank or '?' for what must not go out. */
static void
add_safe(struct sbuf *b, struct str s)
{
	size_t plain = plain_len(s);

	sbuf_add(b, (struct str){s.p, plain});
	for (size_t i = plain, len; i < s.n; i += len) {
		len = utf8_printable_len(s.p + i, s.n - i);
		if (len == 0) {
			len = 1;
			sbuf_addc(b, '?');
		} else if (b->n + len < b->cap) {
			sbuf_add(b, (struct str){s.p + i, len});
		} else {
			b->full = true;
			return;
		}
	}
}

static const struct action_placeholder *
placeholder_at(struct str s, const struct action_placeholder *with,
    size_t count, size_t *len)
{
	const char *end = memchr(s.p, '}', s.n);
	struct str name;

	if (end == NULL)
		return NULL;
	name = (struct str){s.p + 1, (size_t)(end - s.p) - 1};
	*len = name.n + 2;
	for (size_t i = 0; i < count; i++)
		if (str_eq(with[i].name, name))
			return &with[i];
	return NULL;
}

static void
fill_in(struct sbuf *b, struct str text, const struct action_placeholder *with,
    size_t count)
{
	while (text.n > 0) {
		const char *open = memchr(text.p, '{', text.n);
		size_t plain = open == NULL ? text.n : (size_t)(open - text.p);
		const struct action_placeholder *p;
		size_t len = 0;

		add_safe(b, (struct str){text.p, plain});
		text = str_from(text, plain);
		if (text.n == 0)
			break;
		p = placeholder_at(text, with, count, &len);
		if (p != NULL) {
			add_safe(b, p->value);
		} else {
			sbuf_addc(b, '{');
			len = 1;
		}
		text = str_from(text, len);
	}
}

/*
 * "554 5.100.100 <"LOCAL"@DOMAIN>: Recipient address rejected: TEXT": the
 * longest thing that Postfix writes before our text is 48 bytes and the
 * subject.  An address may be so long that nothing is left (Postfix takes
 * 2 kB): then some text has to stand all the same, since a code without text
 * is worse.
 */
static size_t
text_room(size_t subject_len)
{
	enum { PREFIX = 48, LEAST = 24 };
	size_t used = PREFIX + subject_len;

	if (used + LEAST > SMTP_REPLY_MAX_BYTES)
		return LEAST;
	return SMTP_REPLY_MAX_BYTES - used;
}

/* Cut s to at most n bytes, between characters, without a blank at its end. */
static struct str
cut(struct str s, size_t n)
{
	size_t at = 0, len;

	if (s.n > n) {
		while ((len = utf8_len(s.p + at, s.n - at)) > 0 && at + len <= n)
			at += len;
		s.n = at;
	}
	return str_trim(s);
}

/*
 * Length of what stands before a text that ends up in an SMTP reply, behind an
 * address: `550 5.1.1 `, `REJECT `.  0 for an action of another kind.
 */
static size_t
head_len(struct str s)
{
	struct str rest = s, after, word = str_word(&rest);
	int i = action_named(word);

	if (!is_code(word) && (i == -1 || actions[i].kind != DSN_TEXT))
		return 0;
	after = rest;
	if (is_enhanced_code(str_word(&after)))
		rest = after;
	return s.n - rest.n;
}

/* A header without a value, such as that of a login that there is not. */
static bool
is_header(struct str s)
{
	int i = action_named(str_word(&s));

	return i != -1 && actions[i].kind == HEADER;
}

struct str
action_complete(struct str s, char *buf, size_t size)
{
	struct str rest = s, word = str_word(&rest), part;
	const char *text = action_meaning(word) == MEANS_REJECTS ?
	    "Refused" :
	    "Try again later";
	size_t heads[] = {head_len(s), word.n};
	char safe[ACTION_MAX_BYTES + 8];
	struct sbuf out = sbuf_over(safe, sizeof(safe));

	/* As it will go out: what is cut off or taken out is no fault. */
	add_safe(&out, s);
	if (heads[0] == 0 ||
	    action_error(cut(sbuf_str(&out), ACTION_MAX_BYTES), &part) == NULL)
		return s;
	for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
		struct sbuf b = sbuf_over(buf, size);
		struct str head = str_trim((struct str){s.p, heads[i]});

		sbuf_add(&b, head);
		sbuf_addc(&b, ' ');
		sbuf_add(&b, str_of(text));
		if (action_error(sbuf_str(&b), &part) == NULL)
			return sbuf_str(&b);
	}
	return s;
}

bool
action_format(struct sbuf *out, struct str text,
    const struct action_placeholder *with, size_t count, size_t subject_len,
    struct str fallback)
{
	char buf[ACTION_WIRE_MAX_BYTES - sizeof("action=\n\n")], own[64];
	struct sbuf b = sbuf_over(buf, sizeof(buf));
	struct str s, part;
	size_t head, room;
	bool good = true;

	if (str_eq(text, STR("DUNNO"))) {
		sbuf_add(out, STR("action=DUNNO\n\n"));
		return true;
	}
	fill_in(&b, text, with, count);
	s = str_trim(sbuf_str(&b));
	head = head_len(s);
	room = head > 0 ? head + text_room(subject_len) : ACTION_MAX_BYTES;
	s = cut(s, room < ACTION_MAX_BYTES ? room : ACTION_MAX_BYTES);
	if (action_error(s, &part) != NULL && is_header(s)) {
		s = STR("DUNNO"); /* nothing to put there: mail goes on */
	} else if (action_error(s, &part) != NULL) {
		good = false;
		if (count > 0)
			s = action_complete(s, own, sizeof(own));
		if (action_error(s, &part) != NULL)
			s = cut(fallback,
			    head_len(fallback) + text_room(subject_len));
	}
	sbuf_add(out, STR("action="));
	sbuf_add(out, s);
	sbuf_add(out, STR("\n\n"));
	return good;
}

void
action_format_positive(struct sbuf *out, struct str text)
{
	char buf[ACTION_POSITIVE_MAX_BYTES + 1];
	struct sbuf b = sbuf_over(buf, sizeof(buf));

	add_safe(&b, text);
	sbuf_add(out, STR("action=250 2.1.5 "));
	sbuf_add(out, sbuf_str(&b));
	sbuf_add(out, STR("\n\n"));
}
