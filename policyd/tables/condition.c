#include "tables/condition.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/mem.h"
#include "base/number.h"
#include "mail/address.h"
#include "mail/glob.h"
#include "tables/list.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum operator{
	OP_EMPTY,
	OP_NOT_EMPTY,
	OP_EQUAL,
	OP_NOT_EQUAL,
	OP_LESS,
	OP_LESS_EQUAL,
	OP_GREATER,
	OP_GREATER_EQUAL,
	OP_IN,
	OP_IN_LIST,
	OP_UNDER,
	OP_LIKE,
	OP_MATCHES,
};

/*
 * Bounds of one regular expression on one value.  Those of PCRE2 are for each
 * place where a match may begin, and a step may look at all of the value: so a
 * long one is searched from one place first, then from twice as many with half
 * the steps for each, and from one again where these do not do.  It is given up
 * when that has taken too long; a very long one has fewer steps.
 */
enum {
	REGEX_MATCH_LIMIT = 100000,
	REGEX_LIMIT_BYTES = 256, /* a longer value has fewer steps */
	REGEX_HEAP_KIB = 1024,
	REGEX_SHORT_BYTES = 64, /* searched at once */
	REGEX_PLACES = 256, /* at most, at a time */
};
static const double REGEX_MAX_S = 0.02;

/* Of all rules together, for one request: those after it match nothing. */
static const double REGEX_ALL_MAX_S = 0.06;

/* A condition taken apart: slices of its text. */
struct parsed {
	bool negated;
	int attribute;
	enum operator op;
	struct str value;
};

struct condition {
	char *text;
	bool negated;
	bool placeholder; /* in the value: filled in for each request */
	int attribute;
	enum attribute_kind kind;
	enum operator op;
	struct str value;     /* in text, or in folded */
	char *folded;         /* the value as it is compared, if it is another */
	int64_t number;
	struct str *items;    /* OP_IN */
	struct cidr *nets;    /* OP_IN and OP_EQUAL of addresses */
	size_t count;
	uint32_t list;
	const struct lists *lists;
	pcre2_code *regex;
	char *regex_error;
};

/* ---- parsing ---- */

static struct str
skip_blanks(struct str s)
{
	while (s.n > 0 && s.p[0] == ' ')
		s = str_from(s, 1);
	return s;
}

static struct str
trim(struct str s)
{
	s = skip_blanks(s);
	while (s.n > 0 && s.p[s.n - 1] == ' ')
		s.n--;
	return s;
}

/* Letters and '_' at the head of *rest are cut off it. */
static struct str
take_name(struct str *rest)
{
	struct str name = {rest->p, 0};

	while (name.n < rest->n &&
	    (name.p[name.n] == '_' ||
		(ascii_lower(name.p[name.n]) >= 'a' &&
		    ascii_lower(name.p[name.n]) <= 'z')))
		name.n++;
	*rest = str_from(*rest, name.n);
	return name;
}

static const char *
bytes_error(struct str text, struct str *part)
{
	*part = text;
	if (text.n > CONDITION_MAX_BYTES)
		return "longer than 1000 bytes";
	for (size_t i = 0, len; i < text.n; i += len) {
		len = utf8_printable_len(text.p + i, text.n - i);
		*part = (struct str){text.p + i, 1};
		if (len == 0)
			return "a control character, or no valid UTF-8";
	}
	return NULL;
}

/* `is empty`, `is not empty`: rest stands behind `is`. */
static const char *
parse_is(struct str rest, struct parsed *out, struct str *part)
{
	struct str word;

	*part = rest;
	word = take_name(&rest);
	if (str_ieq(word, STR("not")) && rest.n > 0 && rest.p[0] == ' ') {
		out->op = OP_NOT_EMPTY;
		rest = skip_blanks(rest);
		word = take_name(&rest);
	} else {
		out->op = OP_EMPTY;
	}
	if (!str_ieq(word, STR("empty")) || rest.n > 0)
		return "it is `is empty` or `is not empty`";
	return NULL;
}

static const char *
parse_word_operator(struct str rest, struct parsed *out, struct str *part)
{
	static const struct {
		struct str name;
		enum operator op;
	} words[] = {
	    {STR_INIT("in"), OP_IN},
	    {STR_INIT("under"), OP_UNDER},
	    {STR_INIT("like"), OP_LIKE},
	    {STR_INIT("matches"), OP_MATCHES},
	};
	struct str word = take_name(&rest);

	*part = word.n > 0 ? word : rest;
	if (rest.n > 0 && rest.p[0] != ' ')
		return "no such operator";
	out->value = skip_blanks(rest);
	if (str_ieq(word, STR("is")))
		return parse_is(out->value, out, part);
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (str_ieq(words[i].name, word)) {
			out->op = words[i].op;
			return out->value.n > 0 ? NULL : "no value";
		}
	return "no such operator";
}

static const char *
parse_operator(struct str rest, struct parsed *out, struct str *part)
{
	static const struct {
		struct str sign;
		enum operator op;
	} signs[] = {
	    {STR_INIT("!="), OP_NOT_EQUAL},
	    {STR_INIT("<="), OP_LESS_EQUAL},
	    {STR_INIT(">="), OP_GREATER_EQUAL},
	    {STR_INIT("="), OP_EQUAL},
	    {STR_INIT("<"), OP_LESS},
	    {STR_INIT(">"), OP_GREATER},
	};
	bool blank = rest.n > 0 && rest.p[0] == ' ';

	rest = skip_blanks(rest);
	*part = rest;
	if (rest.n == 0)
		return "no operator";
	for (size_t i = 0; i < sizeof(signs) / sizeof(signs[0]); i++) {
		struct str sign = signs[i].sign;

		if (rest.n < sign.n || memcmp(rest.p, sign.p, sign.n) != 0)
			continue;
		out->op = signs[i].op;
		out->value = skip_blanks(str_from(rest, sign.n));
		return out->value.n > 0 ? NULL : "no value";
	}
	if (!blank)
		return "no such operator";
	return parse_word_operator(rest, out, part);
}

static const char *
parse(struct str text, struct parsed *out, struct str *part)
{
	const char *why = bytes_error(text, part);
	struct str rest = trim(text), after, name;

	if (why != NULL)
		return why;
	after = rest;
	name = take_name(&after);
	out->negated = str_ieq(name, STR("not")) && after.n > 0 &&
	    after.p[0] == ' ';
	if (out->negated)
		rest = skip_blanks(after);
	name = take_name(&rest);
	*part = name.n > 0 ? name : rest;
	out->attribute = subject_attribute(name);
	if (out->attribute == -1)
		return "no such attribute";
	return parse_operator(rest, out, part);
}

/* The next item of `a, b`; false at the end.  An empty one is returned, too. */
static bool
next_item(struct str *rest, struct str *item)
{
	const char *comma;

	if (rest->p == NULL)
		return false;
	comma = memchr(rest->p, ',', rest->n);
	*item = (struct str){rest->p,
	    comma == NULL ? rest->n : (size_t)(comma - rest->p)};
	*rest = comma == NULL ? (struct str){NULL, 0} :
				str_from(*rest, item->n + 1);
	*item = trim(*item);
	return true;
}

static bool
is_yes_or_no(struct str s)
{
	return str_ieq(s, STR("yes")) || str_ieq(s, STR("no"));
}

static bool
names_list(struct str value, struct str *name)
{
	static const struct str prefix = STR_INIT("list:");

	if (value.n < prefix.n ||
	    strncasecmp(value.p, prefix.p, prefix.n) != 0)
		return false;
	*name = str_from(value, prefix.n);
	return true;
}

static bool
is_name_byte(char c)
{
	return (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-' ||
	    (ascii_lower(c) >= 'a' && ascii_lower(c) <= 'z');
}

/* ---- what a value may be ---- */

static const char *
check_equal(const struct parsed *p, struct str *part)
{
	const char *why = NULL;
	bool open = subject_placeholder(p->value, &why, part);
	struct cidr net;

	if (why != NULL || open)
		return why;
	*part = p->value;
	switch (subject_kind(p->attribute)) {
	case KIND_ADDRESS:
		if (str_ieq(p->value, STR("unknown")))
			return NULL;
		if (memchr(p->value.p, '/', p->value.n) != NULL)
			return "an address, not a network";
		return cidr_parse(p->value, &net);
	case KIND_YESNO:
		return is_yes_or_no(p->value) ? NULL : "it is yes or no";
	case KIND_TEXT:
	case KIND_MAIL:
	case KIND_NUMBER:
		break;
	}
	return NULL;
}

static const char *
check_number(const struct parsed *p, struct str *part)
{
	enum { DIGITS_MAX = 15 };
	size_t n = 0;

	if (subject_kind(p->attribute) != KIND_NUMBER) {
		*part = subject_name(p->attribute);
		return "the attribute is no number";
	}
	while (n < p->value.n && p->value.p[n] >= '0' && p->value.p[n] <= '9')
		n++;
	*part = p->value;
	if (n == 0 || n > DIGITS_MAX)
		return "not a number";
	if (n < p->value.n &&
	    (n + 1 < p->value.n ||
		strchr("kmg", ascii_lower(p->value.p[n])) == NULL))
		return "not a number";
	return NULL;
}

static const char *
check_list(const struct parsed *p, struct str name, struct str *part)
{
	enum attribute_kind kind = subject_kind(p->attribute);

	*part = subject_name(p->attribute);
	if (kind == KIND_NUMBER || kind == KIND_YESNO)
		return "the attribute can be in no list";
	*part = name;
	if (name.n == 0 || name.n > 63)
		return "not the name of a list";
	for (size_t i = 0; i < name.n; i++)
		if (!is_name_byte(name.p[i]))
			return "not the name of a list";
	return NULL;
}

static const char *
check_in(const struct parsed *p, struct str *part)
{
	enum attribute_kind kind = subject_kind(p->attribute);
	struct str rest = p->value, item;
	struct cidr net;
	const char *why;

	if (names_list(p->value, &item))
		return check_list(p, item, part);
	while (next_item(&rest, &item)) {
		*part = item.n > 0 ? item : p->value;
		if (item.n == 0)
			return "an empty item";
		if (item.n > CONDITION_VALUE_MAX_BYTES)
			return "longer than 500 bytes";
		if (kind == KIND_YESNO && !is_yes_or_no(item))
			return "it is yes or no";
		if (kind == KIND_ADDRESS &&
		    (why = cidr_parse(item, &net)) != NULL)
			return why;
	}
	return NULL;
}

static const char *
check_under(const struct parsed *p, struct str *part)
{
	enum attribute_kind kind = subject_kind(p->attribute);
	const char *why = NULL;

	if (kind != KIND_TEXT && kind != KIND_MAIL) {
		*part = subject_name(p->attribute);
		return "the attribute has no domain";
	}
	if (subject_placeholder(p->value, &why, part) || why != NULL)
		return why;
	*part = p->value;
	return domain_error(p->value);
}

static const char *
check_glob(const struct parsed *p, struct str *part)
{
	*part = p->value;
	return glob_error(p->value);
}

const char *
condition_error(struct str text, struct str *part)
{
	struct parsed p;
	const char *why = parse(text, &p, part);

	if (why != NULL)
		return why;
	if (p.op != OP_EMPTY && p.op != OP_NOT_EMPTY && p.op != OP_IN &&
	    p.value.n > CONDITION_VALUE_MAX_BYTES) {
		*part = p.value;
		return "longer than 500 bytes";
	}
	switch (p.op) {
	case OP_EQUAL:
	case OP_NOT_EQUAL:
		return check_equal(&p, part);
	case OP_LESS:
	case OP_LESS_EQUAL:
	case OP_GREATER:
	case OP_GREATER_EQUAL:
		return check_number(&p, part);
	case OP_IN:
		return check_in(&p, part);
	case OP_UNDER:
		return check_under(&p, part);
	case OP_LIKE:
		return check_glob(&p, part);
	case OP_EMPTY:
	case OP_NOT_EMPTY:
	case OP_IN_LIST:
	case OP_MATCHES:
		break;
	}
	return NULL;
}

/* ---- values as they are compared ---- */

static bool
is_domain_attribute(int attribute)
{
	return attribute == DERIVED_sender_domain ||
	    attribute == DERIVED_recipient_domain;
}

bool
condition_fold_value(int attribute, struct str value, char buf[KEY_MAX_BYTES],
    struct str *out)
{
	const char *at = NULL;
	size_t head = 0;
	char domain_buf[DOMAIN_MAX_BYTES + 1];
	struct str domain;

	if (value.n >= KEY_MAX_BYTES - DOMAIN_MAX_BYTES)
		return false;
	if (subject_kind(attribute) == KIND_MAIL && value.n > 0)
		at = memrchr(value.p, '@', value.n);
	if (at != NULL)
		head = (size_t)(at - value.p) + 1;
	if ((at != NULL || is_domain_attribute(attribute)) &&
	    domain_fold(str_from(value, head), domain_buf, &domain)) {
		for (size_t i = 0; i < head; i++)
			buf[i] = ascii_lower(value.p[i]);
		memcpy(buf + head, domain.p, domain.n);
		*out = (struct str){buf, head + domain.n};
		return true;
	}
	for (size_t i = 0; i < value.n; i++)
		buf[i] = ascii_lower(value.p[i]);
	*out = (struct str){buf, value.n};
	return true;
}

bool
condition_fold_domain(int attribute, struct str value,
    char buf[DOMAIN_MAX_BYTES + 1], struct str *out)
{
	if (subject_kind(attribute) == KIND_MAIL) {
		const char *at =
		    value.n > 0 ? memrchr(value.p, '@', value.n) : NULL;

		if (at == NULL)
			return false;
		value = str_from(value, (size_t)(at - value.p) + 1);
	}
	return domain_fold(value, buf, out);
}

/* ---- compiling ---- */

static pcre2_compile_context *compile_context;
static pcre2_match_context *match_context;
static pcre2_match_data *match_data;

static void
regex_init(void)
{
	if (match_data != NULL)
		return;
	compile_context = mem_must(pcre2_compile_context_create(NULL));
	match_context = mem_must(pcre2_match_context_create(NULL));
	match_data = mem_must(pcre2_match_data_create(1, NULL));
	pcre2_set_match_limit(match_context, REGEX_MATCH_LIMIT);
	pcre2_set_heap_limit(match_context, REGEX_HEAP_KIB);
}

static void
compile_regex(struct condition *c)
{
	int code;
	PCRE2_SIZE at;
	PCRE2_UCHAR why[160];

	regex_init();
	/* Values are what strangers sent: not always valid UTF-8. */
	c->regex = pcre2_compile((PCRE2_SPTR)c->value.p, c->value.n,
	    PCRE2_CASELESS | PCRE2_UTF | PCRE2_MATCH_INVALID_UTF |
		PCRE2_NEVER_BACKSLASH_C | PCRE2_USE_OFFSET_LIMIT,
	    &code, &at, compile_context);
	if (c->regex == NULL) {
		if (code == PCRE2_ERROR_HEAP_FAILED)
			mem_must(NULL);
		pcre2_get_error_message(code, why, sizeof(why));
		c->regex_error = mem_strdup((const char *)why);
		return;
	}
	/* Where memory may not become code (systemd), the interpreter serves. */
#ifndef POLICYD_NO_JIT /* make valgrind */
	pcre2_jit_compile(c->regex, PCRE2_JIT_COMPLETE);
#endif
}

static void
use_folded(struct condition *c, struct str s)
{
	c->folded = mem_strndup(s.p, s.n);
	c->value = (struct str){c->folded, s.n};
}

static void
compile_address(struct condition *c)
{
	if (c->kind != KIND_ADDRESS)
		return;
	c->nets = mem_alloc(sizeof(c->nets[0]));
	if (cidr_parse(c->value, c->nets) == NULL)
		c->count = 1; /* else it is `unknown` */
}

static void
compile_equal(struct condition *c)
{
	char buf[KEY_MAX_BYTES];
	const char *why;
	struct str part, out;

	c->placeholder = subject_placeholder(c->value, &why, &part);
	if (c->placeholder)
		return;
	compile_address(c);
	if (condition_fold_value(c->attribute, c->value, buf, &out))
		use_folded(c, out);
}

static void
compile_under(struct condition *c)
{
	char buf[DOMAIN_MAX_BYTES + 1];
	const char *why;
	struct str part, out;

	c->placeholder = subject_placeholder(c->value, &why, &part);
	if (!c->placeholder && domain_fold(c->value, buf, &out))
		use_folded(c, out);
}

static void
compile_items(struct condition *c)
{
	struct str rest = c->value, item;
	size_t cap = 1;

	for (size_t i = 0; i < c->value.n; i++)
		cap += c->value.p[i] == ',';
	if (c->kind == KIND_ADDRESS)
		c->nets = mem_alloc(cap * sizeof(c->nets[0]));
	else
		c->items = mem_alloc(cap * sizeof(c->items[0]));
	/* A domain in A-labels may be longer than it was. */
	c->folded = mem_alloc(cap * (DOMAIN_MAX_BYTES + 1) + c->value.n);
	for (char *to = c->folded; next_item(&rest, &item); c->count++) {
		char buf[KEY_MAX_BYTES];

		if (c->kind == KIND_ADDRESS) {
			cidr_parse(item, &c->nets[c->count]);
			continue;
		}
		if (condition_fold_value(c->attribute, item, buf, &item))
			memcpy(to, buf, item.n);
		else
			memcpy(to, item.p, item.n);
		c->items[c->count] = (struct str){to, item.n};
		to += item.n;
	}
}

static void
compile(struct condition *c)
{
	struct str name;

	switch (c->op) {
	case OP_EQUAL:
	case OP_NOT_EQUAL:
		compile_equal(c);
		break;
	case OP_UNDER:
		compile_under(c);
		break;
	case OP_LESS:
	case OP_LESS_EQUAL:
	case OP_GREATER:
	case OP_GREATER_EQUAL:
		if (size_parse(c->value, &c->number) == -1)
			c->number = INT64_MAX; /* 999999999999999G */
		break;
	case OP_IN:
		if (names_list(c->value, &name)) {
			c->op = OP_IN_LIST;
			c->value = name;
		} else {
			compile_items(c);
		}
		break;
	case OP_MATCHES:
		compile_regex(c);
		break;
	case OP_EMPTY:
	case OP_NOT_EMPTY:
	case OP_IN_LIST:
	case OP_LIKE:
		break;
	}
}

struct condition *
condition_new(struct str text, struct lists *lists)
{
	struct condition *c = mem_zalloc(sizeof(*c));
	struct parsed p = {0};
	struct str part;

	text = trim(text);
	c->text = mem_strndup(text.p, text.n);
	parse(str_of(c->text), &p, &part);
	c->negated = p.negated;
	c->attribute = p.attribute;
	c->kind = subject_kind(p.attribute);
	c->op = p.op;
	c->value = p.value;
	c->lists = lists;
	compile(c);
	if (c->op == OP_IN_LIST)
		c->list = lists_id(lists, c->value);
	return c;
}

void
condition_free(struct condition *c)
{
	if (c == NULL)
		return;
	pcre2_code_free(c->regex);
	free(c->regex_error);
	free(c->items);
	free(c->nets);
	free(c->folded);
	free(c->text);
	free(c);
}

struct str
condition_text(const struct condition *c)
{
	return str_of(c->text);
}

const char *
condition_regex_error(const struct condition *c)
{
	return c->regex_error;
}

struct str
condition_list(const struct condition *c)
{
	return c->op == OP_IN_LIST ? c->value : STR("");
}

/* ---- asking ---- */

static bool
is_equal(const struct condition *c, struct subject *s)
{
	struct str v = subject_value(s, c->attribute), wanted = c->value;
	char buf[KEY_MAX_BYTES], wanted_buf[KEY_MAX_BYTES];
	char expanded[KEY_MAX_BYTES];
	struct cidr room;

	if (c->count > 0) { /* an address */
		const struct cidr *a = subject_address(s, c->attribute, &room);

		return a != NULL && cidr_contains(&c->nets[0], a);
	}
	if (c->placeholder) {
		wanted = subject_expand(s, c->value, expanded,
		    sizeof(expanded));
		if (!condition_fold_value(c->attribute, wanted, wanted_buf,
			&wanted))
			return str_ieq(v, wanted);
	}
	if (!condition_fold_value(c->attribute, v, buf, &v))
		return false;
	return str_eq(v, wanted);
}

static bool
compare(const struct condition *c, struct subject *s)
{
	int64_t v;

	if (number_parse(subject_value(s, c->attribute), &v) == -1)
		return false;
	switch (c->op) {
	case OP_LESS:
		return v < c->number;
	case OP_LESS_EQUAL:
		return v <= c->number;
	case OP_GREATER:
		return v > c->number;
	default:
		return v >= c->number;
	}
}

static bool
is_among(const struct condition *c, struct subject *s)
{
	char buf[KEY_MAX_BYTES];
	struct cidr room;
	const struct cidr *a;
	struct str v;

	if (c->kind == KIND_ADDRESS) {
		a = subject_address(s, c->attribute, &room);
		for (size_t i = 0; a != NULL && i < c->count; i++)
			if (cidr_contains(&c->nets[i], a))
				return true;
		return false;
	}
	if (!condition_fold_value(c->attribute, subject_value(s, c->attribute),
		buf, &v))
		return false;
	for (size_t i = 0; i < c->count; i++)
		if (str_eq(c->items[i], v))
			return true;
	return false;
}

static bool
is_listed(const struct condition *c, struct subject *s)
{
	enum list_kind kind = c->kind == KIND_MAIL ? LIST_MAIL :
	    c->kind == KIND_ADDRESS		   ? LIST_ADDRESS :
						     LIST_NAME;

	return lists_has(c->lists, c->list, kind,
	    subject_value(s, c->attribute));
}

static bool
is_under(const struct condition *c, struct subject *s)
{
	char buf[DOMAIN_MAX_BYTES + 1], top_buf[DOMAIN_MAX_BYTES + 1];
	char expanded[KEY_MAX_BYTES];
	struct str v, top = c->value;

	if (c->placeholder &&
	    !domain_fold(subject_expand(s, c->value, expanded,
			     sizeof(expanded)),
		top_buf, &top))
		return false;
	if (!condition_fold_domain(c->attribute,
		subject_value(s, c->attribute), buf, &v) ||
	    v.n < top.n)
		return false;
	return str_eq(str_from(v, v.n - top.n), top) &&
	    (v.n == top.n || v.p[v.n - top.n - 1] == '.');
}

static double
cpu_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* A match that begins at `from` or behind it, and not behind `to`. */
static int
search_part(const struct condition *c, struct str v, size_t from, size_t to)
{
	pcre2_set_offset_limit(match_context, to);
	return pcre2_match(c->regex, (PCRE2_SPTR)v.p, v.n, from, 0, match_data,
	    match_context);
}

static int
search_long(const struct condition *c, struct subject *s, struct str v)
{
	double began = cpu_seconds(), now;
	double left = REGEX_ALL_MAX_S - s->regex_s;
	double end = began + (left < REGEX_MAX_S ? left : REGEX_MAX_S);
	size_t from = 0, to, places = 1;
	size_t limit = v.n <= REGEX_LIMIT_BYTES ?
	    REGEX_MATCH_LIMIT :
	    (size_t)REGEX_MATCH_LIMIT * REGEX_LIMIT_BYTES / v.n;
	bool again;
	int rc;

	if (left <= 0)
		return PCRE2_ERROR_MATCHLIMIT;
	do {
		to = from + places;
		/* A search does not begin within a character. */
		while (to < v.n && ((unsigned char)v.p[to] & 0xc0) == 0x80)
			to++;
		pcre2_set_match_limit(match_context,
		    (uint32_t)(limit / places));
		rc = search_part(c, v, from, to < v.n ? to : v.n);
		again = rc == PCRE2_ERROR_MATCHLIMIT && places > 1;
		if (!again)
			from = to;
		places = again ? 1 :
		    places < REGEX_PLACES ? places * 2 :
					    REGEX_PLACES;
		now = cpu_seconds();
	} while ((again || (rc == PCRE2_ERROR_NOMATCH && to < v.n)) &&
	    now < end);
	s->regex_s += now - began;
	pcre2_set_match_limit(match_context, REGEX_MATCH_LIMIT);
	return rc == PCRE2_ERROR_NOMATCH && to < v.n ? PCRE2_ERROR_MATCHLIMIT :
						       rc;
}

/*
 * What a pattern is held against.  Postfix passes on the dot that may end the
 * domain of an address, and which everything else takes no notice of.
 */
static struct str
text_of(const struct condition *c, struct subject *s)
{
	struct str v = subject_value(s, c->attribute);

	if (v.n > 1 && v.p[v.n - 1] == '.' && c->kind == KIND_MAIL &&
	    v.p[v.n - 2] != '@' && memchr(v.p, '@', v.n) != NULL)
		v.n--;
	return v;
}

static bool
matches(const struct condition *c, struct subject *s)
{
	struct str v = text_of(c, s);
	int rc;

	if (c->regex == NULL)
		return false;
	rc = v.n <= REGEX_SHORT_BYTES ? search_part(c, v, 0, v.n) :
					search_long(c, s, v);
	if (rc < 0 && rc != PCRE2_ERROR_NOMATCH)
		s->regex_failed = true;
	return rc >= 0;
}

static bool
holds(const struct condition *c, struct subject *s)
{
	switch (c->op) {
	case OP_EMPTY:
		return subject_value(s, c->attribute).n == 0;
	case OP_NOT_EMPTY:
		return subject_value(s, c->attribute).n > 0;
	case OP_EQUAL:
		return is_equal(c, s);
	case OP_NOT_EQUAL:
		return !is_equal(c, s);
	case OP_LESS:
	case OP_LESS_EQUAL:
	case OP_GREATER:
	case OP_GREATER_EQUAL:
		return compare(c, s);
	case OP_IN:
		return is_among(c, s);
	case OP_IN_LIST:
		return is_listed(c, s);
	case OP_UNDER:
		return is_under(c, s);
	case OP_LIKE:
		return glob_match(c->value, text_of(c, s));
	case OP_MATCHES:
		return matches(c, s);
	}
	return false;
}

bool
condition_holds(const struct condition *c, struct subject *s)
{
	return holds(c, s) != c->negated;
}

/* ---- keys ---- */

enum { KEYS_MAX = 64 };

size_t
condition_keys(const struct condition *c)
{
	if (c->negated || c->placeholder)
		return 0;
	switch (c->op) {
	case OP_EQUAL:
	case OP_UNDER:
		return 1;
	case OP_IN:
		return c->count <= KEYS_MAX ? c->count : 0;
	default:
		return 0;
	}
}

void
condition_key(const struct condition *c, size_t i, struct key *out)
{
	out->kind = KEY_TEXT;
	out->attribute = c->attribute;
	out->bytes = c->op == OP_IN && c->items != NULL ? c->items[i] : c->value;
	if (c->op == OP_UNDER) {
		out->kind = KEY_DOMAIN;
	} else if (c->nets != NULL && c->count > 0) {
		out->kind = KEY_NET;
		out->net = c->nets[i];
	}
}

/* Most requests have the same value of these. */
static bool
is_common(int attribute)
{
	static const int common[] = {ATTR_protocol_state, ATTR_protocol_name,
	    ATTR_server_address, ATTR_server_port, ATTR_sasl_method,
	    ATTR_encryption_protocol, ATTR_encryption_cipher,
	    ATTR_encryption_keysize, ATTR_policy_context, ATTR_stress,
	    ATTR_compatibility_level, ATTR_mail_version, ATTR_recipient_count,
	    ATTR_size, DERIVED_recipient_is_local};

	for (size_t i = 0; i < sizeof(common) / sizeof(common[0]); i++)
		if (common[i] == attribute)
			return true;
	return false;
}

int
condition_selectivity(const struct condition *c)
{
	if (condition_keys(c) == 0)
		return 0;
	if (is_common(c->attribute))
		return 1;
	if (c->op == OP_UNDER)
		return 2;
	return c->op == OP_IN ? 3 : 4;
}
