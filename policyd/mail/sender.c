#include "mail/sender.h"

/* What has been written of the folded sender. */
struct out {
	char *p;
	size_t n;
};

static void
put(struct out *o, struct str s)
{
	size_t room = SENDER_MAX_BYTES - o->n;
	char *p = o->p + o->n;

	if (s.n > room)
		s.n = room;
	for (size_t i = 0; i < s.n; i++)
		p[i] = ascii_lower(s.p[i]);
	o->n += s.n;
}

static bool
ends_folded(const struct out *o)
{
	return o->n > 0 && o->p[o->n - 1] == '#';
}

/* ---- characters ---- */

/* A '#' is a number that has been folded already. */
static bool
is_digit(char c)
{
	return (c >= '0' && c <= '9') || c == '#';
}

static bool
is_lower(char c)
{
	return (c >= 'a' && c <= 'z') || (unsigned char)c >= 0x80;
}

static bool
is_upper(char c)
{
	return c >= 'A' && c <= 'Z';
}

static bool
is_hex(char c)
{
	char l = ascii_lower(c);

	return is_digit(c) || (l >= 'a' && l <= 'f');
}

/* All others separate the pieces of an address. */
static bool
is_part(char c)
{
	return is_digit(c) || is_lower(c) || is_upper(c);
}

/* ---- envelopes around a local part: BATV and SRS ---- */

static bool
has_prefix(struct str s, struct str prefix)
{
	return s.n > prefix.n && ascii_lower(s.p[0]) == prefix.p[0] &&
	    str_ieq((struct str){s.p, prefix.n}, prefix);
}

/* Cut a field and the '=' behind it off *s; false: there is none. */
static bool
cut_field(struct str *s, struct str *field)
{
	const char *end = memchr(s->p, '=', s->n);

	if (end == NULL || end == s->p)
		return false;
	*field = (struct str){s->p, (size_t)(end - s->p)};
	*s = str_from(*s, field->n + 1);
	return true;
}

/* A key's number, three digits of the day, and six hex digits; or nearly so. */
static bool
is_tag(struct str s, bool exact)
{
	bool digit = false;

	for (size_t i = 0; i < s.n; i++) {
		digit = digit || is_digit(s.p[i]);
		if (exact ? !is_hex(s.p[i]) || (i < 4 && !is_digit(s.p[i])) :
		    !is_part(s.p[i]))
			return false;
	}
	return exact ? s.n == 10 : digit && s.n >= 4;
}

static bool
is_equals(char c)
{
	return c == '=' || c == '/';
}

/* prvs=TAG=user or prvs=user=TAG; some write a '/' for the second '='. */
static bool
cut_prvs(struct str *local, struct str s)
{
	size_t first = 0, last = s.n;
	struct str head, rest, tail;

	while (first < s.n && !is_equals(s.p[first]))
		first++;
	while (last > 0 && !is_equals(s.p[last - 1]))
		last--;
	if (last == 0)
		return false;
	head = (struct str){s.p, first};
	rest = str_from(s, first + 1);
	tail = str_from(s, last);
	s.n = last - 1;
	for (int exact = 1; exact >= 0; exact--) {
		if (rest.n > 0 && is_tag(head, exact)) {
			*local = rest;
			return true;
		}
		if (s.n > 0 && is_tag(tail, exact)) {
			*local = s;
			return true;
		}
	}
	return false;
}

/* Leave what was signed, if it is signed. */
static bool
cut_tag(struct str *local)
{
	static const struct str prvs = STR_INIT("prvs=");
	static const struct str barracuda = STR_INIT("btv1==");
	static const struct str sparkpost = STR_INIT("msprvs1=");
	struct str s, tag;

	if (has_prefix(*local, prvs))
		return cut_prvs(local, str_from(*local, prvs.n));
	if (has_prefix(*local, barracuda)) {
		s = str_from(*local, barracuda.n);
		if (!cut_field(&s, &tag) || s.n < 2 || s.p[0] != '=')
			return false;
		*local = str_from(s, 1);
		return true;
	}
	s = has_prefix(*local, sparkpost) ? str_from(*local, sparkpost.n) :
	    STR("");
	if (!cut_field(&s, &tag) || s.n == 0)
		return false;
	*local = s;
	return true;
}

/* HASH=TT=domain=user, or #=domain=user if it has been folded already. */
static bool
cut_srs_body(struct str *s, struct str *domain)
{
	struct str field;

	if (!cut_field(s, &field))
		return false;
	if (!str_eq(field, STR("#")) && !cut_field(s, &field))
		return false;
	return cut_field(s, domain) && s->n > 0;
}

static bool
is_srs_separator(char c)
{
	return c == '=' || c == '+' || c == '-';
}

/* Write what tells the domains, and leave the original sender's local part. */
static bool
cut_srs(struct str *local, struct out *o)
{
	struct str s, hash, forwarder = STR(""), domain;
	bool again;

	if (!has_prefix(*local, STR("srs")) || local->n < 6 ||
	    (local->p[3] != '0' && local->p[3] != '1') ||
	    !is_srs_separator(local->p[4]))
		return false;
	s = str_from(*local, 5);
	again = local->p[3] == '1';
	if (again) {
		if (!cut_field(&s, &hash) || !cut_field(&s, &forwarder) ||
		    s.n == 0 || !is_srs_separator(s.p[0]))
			return false;
		s = str_from(s, 1);
	}
	if (!cut_srs_body(&s, &domain))
		return false;
	put(o, again ? STR("srs1=#=") : STR("srs0=#="));
	if (again) {
		put(o, forwarder);
		put(o, STR("==#="));
	}
	put(o, domain);
	put(o, STR("="));
	*local = s;
	return true;
}

/* ---- the recipient in a local part: VERP ---- */

/* What to look for in a local part. */
struct verp {
	struct str user, domain; /* of the recipient; empty: too long for it */
	size_t at;               /* where somebody else's address begins */
};

/*
 * Each of these returns where in s the text ends that stands at `at`, or 0.
 * Any separator stands for any other, as itself or as its code.
 */

static size_t
match_separator(struct str s, size_t at, char want)
{
	static const char hex[] = "0123456789abcdef";
	unsigned char code = (unsigned char)want;

	if (at == 0 || at >= s.n || is_part(s.p[at]))
		return 0;
	if (s.n - at > 2 &&
	    (s.p[at] == '=' || s.p[at] == '%' || s.p[at] == '_') &&
	    s.p[at + 1] == hex[code >> 4] &&
	    ascii_lower(s.p[at + 2]) == hex[code & 15])
		return at + 3;
	return at + 1;
}

/* An '@': separators, a '#', or `at` between two separators. */
static size_t
match_at(struct str s, size_t at)
{
	size_t end = match_separator(s, at, '@');

	if (end == 0)
		return at > 0 && at < s.n && s.p[at] == '#' ? at + 1 : 0;
	while (end < s.n && !is_part(s.p[end]))
		end++;
	return end;
}

static size_t
match(struct str s, size_t at, struct str want)
{
	for (size_t i = 0; i < want.n; i++) {
		if (!is_part(want.p[i])) {
			at = match_separator(s, at, want.p[i]);
			if (at == 0)
				return 0;
		} else if (at >= s.n ||
		    ascii_lower(s.p[at++]) != ascii_lower(want.p[i])) {
			return 0;
		}
	}
	return at;
}

static size_t
match_pair(struct str s, size_t at, struct str a, struct str b)
{
	size_t end;

	at = match(s, at, a);
	if (at == 0 || (at = match_at(s, at)) == 0)
		return 0;
	end = match(s, at, b);
	if (end == 0 && s.n - at > 3 &&
	    str_ieq((struct str){s.p + at, 2}, STR("at")) &&
	    (at = match_separator(s, at + 2, '@')) != 0)
		end = match(s, at, b);
	return end > 0 && (end == s.n || !is_part(s.p[end])) ? end : 0;
}

static size_t
match_verp(struct str s, size_t at, const struct verp *v)
{
	size_t end;

	if (at >= v->at)
		return s.n;
	if (v->user.n == 0 || s.n - at < v->user.n + 1 + v->domain.n)
		return 0;
	end = match_pair(s, at, v->user, v->domain);
	return end > 0 ? end : match_pair(s, at, v->domain, v->user);
}

static bool
is_domain(struct str s)
{
	size_t letters = 0;

	for (size_t i = 0; i < s.n; i++) {
		if (!is_part(s.p[i]) && s.p[i] != '-' && s.p[i] != '.')
			return false;
		letters = is_lower(s.p[i]) || is_upper(s.p[i]) ? letters + 1 :
		    0;
	}
	return letters > 1 && letters + 1 < s.n &&
	    s.p[s.n - letters - 1] == '.';
}

/*
 * Where some other recipient's address begins, which stands at the end behind
 * a delimiter: an alias has led here.  s.n if there is none.
 */
static size_t
find_verp(struct str s)
{
	const char *eq = memrchr(s.p, '=', s.n);
	size_t at;

	if (eq == NULL || !is_domain(str_from(s, (size_t)(eq - s.p) + 1)))
		return s.n;
	at = (size_t)(eq - s.p);
	while (at > 0 && (is_part(s.p[at - 1]) || s.p[at - 1] == '.'))
		at--;
	return at > 1 && s.p + at < eq ? at : s.n;
}

static struct verp
look_for_verp(struct str s, struct str recipient)
{
	struct verp v = {STR(""), STR(""), find_verp(s)};
	const char *sign = recipient.n > 2 && recipient.n <= s.n ?
	    memrchr(recipient.p, '@', recipient.n) : NULL;

	if (sign == NULL || sign == recipient.p ||
	    sign == recipient.p + recipient.n - 1)
		return v;
	v.user = (struct str){recipient.p, (size_t)(sign - recipient.p)};
	v.domain = str_from(recipient, v.user.n + 1);
	return v;
}

/* ---- numbers and tokens ---- */

/* Only a run of pieces is a LONG_TOKEN. */
enum kind { WORD, NUMBER, TOKEN, LONG_TOKEN };

enum { HEX_MIN = 4, TOKEN_MIN = 8, LONG_MIN = 16, VERY_LONG_MIN = 24 };

/* Of hex digits that are no word with a number behind it: c0ffee, not ada97. */
static bool
is_hex_token(struct str s)
{
	bool mixed = false;

	if (s.n < HEX_MIN)
		return false;
	for (size_t i = 0; i < s.n; i++) {
		if (!is_hex(s.p[i]))
			return false;
		mixed = mixed ||
		    (i > 0 && is_digit(s.p[i - 1]) && !is_digit(s.p[i]));
	}
	return mixed;
}

static bool
is_vowel(char c)
{
	switch (ascii_lower(c)) {
	case 'a':
	case 'e':
	case 'i':
	case 'o':
	case 'u':
	case 'y':
		return true;
	default:
		return (unsigned char)c >= 0x80;
	}
}

/*
 * How random a piece looks: how often digits and letters take turns in it, or
 * letters of both cases as in no CamelCase, or five consonants meet.  A word
 * with a number has one such turn, of random characters every second or third
 * is one.  *shape is its length with each number counted as one character.
 */
static size_t
count_turns(struct str s, size_t *shape)
{
	enum { CONSONANTS = 5 };
	size_t turns = 0, run = 0;

	*shape = s.n;
	for (size_t i = 0; i < s.n; i++) {
		char a = i > 0 ? s.p[i - 1] : s.p[0], b = s.p[i];
		char next = i + 1 < s.n ? s.p[i + 1] : '\0';

		if (i > 0 && is_digit(a) && is_digit(b))
			--*shape;
		if (is_digit(a) != is_digit(b) ||
		    (is_lower(a) && is_upper(b) && !is_lower(next)) ||
		    (i > 0 && is_upper(a) && is_upper(b) && is_lower(next)))
			turns++;
		run = is_digit(b) || is_vowel(b) ? 0 : run + 1;
		if (run == CONSONANTS)
			turns++;
	}
	return turns;
}

static enum kind
judge(struct str s, size_t *turns)
{
	size_t shape;
	bool token;

	*turns = count_turns(s, &shape);
	/* Three turns in eight characters, and more of them in fewer. */
	token = (*turns >= 3 && shape + *turns >= TOKEN_MIN + 3) ||
	    (*turns >= 2 && shape >= VERY_LONG_MIN) || is_hex_token(s) ||
	    (s.n >= TOKEN_MIN && is_hex_token(str_from(s, 1)));
	if (token)
		return TOKEN;
	return shape == 1 && is_digit(s.p[0]) ? NUMBER : WORD;
}

enum { UUID = 36 };

/* 8-4-4-4-12 hex digits: some of these groups might be words. */
static bool
has_uuid(struct str s)
{
	if (s.n < UUID || (s.n > UUID && is_part(s.p[UUID])))
		return false;
	for (size_t i = 0; i < UUID; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;

		if (dash ? s.p[i] != '-' : !is_hex(s.p[i]))
			return false;
	}
	return true;
}

/* The first piece of s, and how it looks. */
static struct str
first_piece(struct str s, enum kind *kind, size_t *turns)
{
	size_t n = 0;

	*kind = TOKEN;
	*turns = 0;
	if (has_uuid(s))
		return (struct str){s.p, UUID};
	while (n < s.n && is_part(s.p[n]))
		n++;
	s.n = n;
	*kind = judge(s, turns);
	return s;
}

/* Could it be part of a token that has separators in it? */
static bool
is_fragment(struct str s, enum kind kind, size_t turns)
{
	return kind != WORD || s.n <= 2 || turns > 1 ||
	    (turns == 1 && s.n < TOKEN_MIN);
}

/*
 * What kind of piece begins at `at`, and where it ends.  Base64 for URLs has
 * '-' and '_' in it: the fragments that these join to a token belong to it.
 */
static size_t
judge_run(struct str s, size_t at, const struct verp *v, enum kind *kind)
{
	enum { FRAGMENTS = 4 }; /* so that many short pieces cost little */
	size_t start = at, end = at, first = at;
	bool token = false;

	*kind = WORD;
	for (int n = 0; n < FRAGMENTS && at < s.n && is_part(s.p[at]); n++) {
		enum kind k;
		size_t turns;
		struct str piece = first_piece(str_from(s, at), &k, &turns);

		if (n == 0) {
			first = at + piece.n;
			*kind = k;
		}
		if (!is_fragment(piece, k, turns))
			break;
		token = token || (k == TOKEN && piece.n >= TOKEN_MIN);
		end = at = at + piece.n;
		while (at < s.n && (s.p[at] == '-' || s.p[at] == '_'))
			at++;
		if (at == end || match_verp(s, at, v) > 0)
			break;
	}
	if (!token)
		return first;
	*kind = end - start >= LONG_MIN ? LONG_TOKEN : TOKEN;
	return end;
}

/* A number, or what else is left out, behind one of the separators. */
static void
put_folded(struct out *o, struct str before)
{
	if (ends_folded(o))
		return;
	if (before.n > 0 && o->n > 0 && is_part(o->p[o->n - 1]))
		put(o, (struct str){before.p, 1});
	put(o, STR("#"));
}

/* Separators and a word, of which the numbers are folded. */
static void
put_word(struct out *o, struct str before, struct str word)
{
	size_t n;

	if (!ends_folded(o) || (word.n > 0 && !is_digit(word.p[0])))
		put(o, before);
	for (; word.n > 0; word = str_from(word, n)) {
		for (n = 0; n < word.n && is_digit(word.p[n]); n++)
			;
		if (n > 0)
			put_folded(o, STR(""));
		for (word = str_from(word, n), n = 0;
		     n < word.n && !is_digit(word.p[n]); n++)
			;
		put(o, (struct str){word.p, n});
	}
}

/*
 * Piece by piece, up to an extension: the first '+' that has something before
 * it.  A long token ends it, too: mailers write what they like behind it, and
 * there are random ones that have separators in them.
 */
static void
put_pieces(struct out *o, struct str s, const struct verp *v)
{
	enum kind kind = WORD;

	for (size_t i = 0, end; i < s.n && kind != LONG_TOKEN; i = end) {
		struct str before = {s.p + i, 0};

		while (i < s.n && !is_part(s.p[i]) && (s.p[i] != '+' || i == 0))
			i++;
		before.n = (size_t)(s.p + i - before.p);
		end = i;
		kind = LONG_TOKEN;
		if (i < s.n && s.p[i] != '+') {
			kind = TOKEN;
			end = match_verp(s, i, v);
			if (end == 0)
				end = judge_run(s, i, v, &kind);
		}
		if (end > i && kind != WORD)
			put_folded(o, before);
		else
			put_word(o, before, (struct str){s.p + i, end - i});
	}
}

static void
put_local(struct out *o, struct str s, struct str recipient)
{
	struct verp v;

	while (cut_tag(&s) || cut_srs(&s, o))
		;
	v = look_for_verp(s, recipient);
	put_pieces(o, s, &v);
}

/* ---- the domain ---- */

/*
 * The length of its first label, 0 if that may be a registered one or it is an
 * IP address.  Without the Public Suffix List two labels count as registered,
 * and three where the second last is short and under a country's, as in
 * example.co.uk.
 */
static size_t
host_label(struct str s)
{
	const char *first, *second, *last;

	if (s.n == 0 || s.p[0] == '[' || is_digit(s.p[s.n - 1]))
		return 0;
	first = memchr(s.p, '.', s.n);
	last = memrchr(s.p, '.', s.n);
	if (first == last)
		return 0;
	second = memrchr(s.p, '.', (size_t)(last - s.p));
	if (first == second && s.p + s.n - last == 3 && last - second <= 4)
		return 0;
	return (size_t)(first - s.p);
}

static void
put_domain(struct out *o, struct str s)
{
	struct verp none = {STR(""), STR(""), s.n};
	size_t label;

	while (s.n > 0 && s.p[s.n - 1] == '.')
		s.n--;
	label = host_label(s);
	put_pieces(o, (struct str){s.p, label}, &none);
	put(o, str_from(s, label));
}

/* ---- all of it ---- */

/* Copy at most max bytes of printable UTF-8; no byte becomes two. */
static size_t
clean(struct str s, char *out, size_t max)
{
	size_t n = 0;

	for (size_t i = 0, len; i < s.n && n < max; i += len) {
		len = 1;
		if (s.p[i] >= ' ' && s.p[i] < 0x7f) {
			out[n++] = s.p[i];
			continue;
		}
		len = utf8_printable_len(s.p + i, s.n - i);
		if (len > max - n)
			break;
		if (len > 0)
			memcpy(out + n, s.p + i, len);
		else
			out[n] = '?';
		len += len == 0;
		n += len;
	}
	return n;
}

/* The same in printable characters, the local part cut if it is too long. */
static struct str
take(struct str sender, char work[SENDER_MAX_BYTES])
{
	const char *at = sender.n > SENDER_MAX_BYTES ?
	    memrchr(sender.p, '@', sender.n) : NULL;
	struct str local = {sender.p, 0};
	size_t n = 0;

	if (at != NULL && sender.p + sender.n - at <= SENDER_MAX_BYTES) {
		local.n = (size_t)(at - sender.p);
		sender = str_from(sender, local.n);
		n = clean(local, work, SENDER_MAX_BYTES - sender.n);
	}
	n += clean(sender, work + n, SENDER_MAX_BYTES - n);
	return (struct str){work, n};
}

static void
fold(struct str sender, struct str recipient, struct out *o)
{
	const char *at = sender.n > 0 ? memrchr(sender.p, '@', sender.n) : NULL;
	struct str local = sender;

	if (at != NULL)
		local.n = (size_t)(at - sender.p);
	put_local(o, local, recipient);
	if (at == NULL)
		return;
	put(o, STR("@"));
	put_domain(o, str_from(sender, local.n + 1));
}

/* What one fold lays bare the next one folds; each makes it shorter. */
struct str
sender_fold(struct str sender, struct str recipient,
    char buf[SENDER_MAX_BYTES + 1])
{
	char work[SENDER_MAX_BYTES];
	struct str s = take(sender, work);
	struct out o;

	for (;;) {
		o = (struct out){buf, 0};
		fold(s, recipient, &o);
		if (str_ieq((struct str){buf, o.n}, s))
			break;
		memcpy(work, buf, o.n);
		s.n = o.n;
	}
	buf[o.n] = '\0';
	return (struct str){buf, o.n};
}
