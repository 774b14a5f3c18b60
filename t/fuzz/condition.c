#include "tables/condition.h"

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "mail/action.h"
#include "tables/list.h"
#include "tables/rule.h"
#include "tables/strtab.h"

#include "fuzz.h"

#include <time.h>

/*
 * An action, and conditions, a line each up to an empty one; then a request,
 * or what is the value of all its attributes ('*' before it: up to 16 KiB of
 * it).  Each condition is asked by itself and in other spellings, then all of
 * them as rules: the index must not miss one that holds, and a copy of the
 * rules must answer as they do.
 */

enum { CONDITIONS = 8, VALUE_MAX_BYTES = 16384, SECONDS_MAX = 1 };

struct input {
	struct str action;
	struct str condition[CONDITIONS];
	size_t count;
	struct str rest;
};

static void
check_slice(struct str s)
{
	volatile char sink = 0;

	for (size_t i = 0; i < s.n; i++)
		sink = (char)(sink ^ s.p[i]);
}

/* ---- the request ---- */

struct asked {
	struct request request, before;
	struct subject subject;
	char *value;
	size_t value_n;
	uint64_t sum;
	bool slow; /* a bound of time was hit, or nearly so: it may be, again */
	char domain[2][DOMAIN_MAX_BYTES + 1];
};

static struct str
domain_of(struct str address, char buf[DOMAIN_MAX_BYTES + 1])
{
	const char *at =
	    address.n > 0 ? memrchr(address.p, '@', address.n) : NULL;
	struct str domain;

	if (at == NULL || !domain_fold(str_from(address,
				   (size_t)(at - address.p) + 1),
			      buf, &domain))
		return STR("");
	return domain;
}

static struct str
derive(struct subject *s, int attribute)
{
	struct asked *a = s->arg;

	switch (attribute) {
	case DERIVED_sender_domain:
		return domain_of(s->request->value[ATTR_sender], a->domain[0]);
	case DERIVED_recipient_domain:
		return domain_of(s->request->value[ATTR_recipient],
		    a->domain[1]);
	case DERIVED_recipient_is_local:
		return STR("yes");
	case DERIVED_sender_localpart:
		return s->request->value[ATTR_sender];
	case DERIVED_recipient_localpart:
		return s->request->value[ATTR_recipient];
	default:
		return STR("192.0.2.0/24");
	}
}

static void
repeat(struct asked *a)
{
	size_t n = a->value_n - 1;

	if (n == 0)
		return;
	a->value = mem_realloc(a->value, VALUE_MAX_BYTES);
	memmove(a->value, a->value + 1, n);
	for (a->value_n = n; a->value_n < VALUE_MAX_BYTES; a->value_n++)
		a->value[a->value_n] = a->value[a->value_n - n];
}

static void
subject_reset(struct asked *a)
{
	a->subject = (struct subject){
	    .request = &a->request, .derive = derive, .arg = a};
}

static void
asked_make(struct asked *a, struct str rest)
{
	size_t scanned = 0, used = 0;
	const char *why;

	memset(a, 0, sizeof(*a));
	a->value = mem_strndup(rest.p, rest.n);
	a->value_n = rest.n;
	if (request_parse(&a->request, a->value, rest.n, &scanned, &used,
		&why) != REQUEST_DONE) {
		if (rest.n > 1 && rest.p[0] == '*')
			repeat(a);
		for (int i = 0; i < ATTRIBUTES; i++)
			a->request.value[i] =
			    (struct str){a->value, a->value_n};
		a->request.present = ~0ULL;
	}
	a->before = a->request;
	a->sum = hash(a->value, a->value_n);
	subject_reset(a);
}

/* Asked as often as one likes, nothing changes. */
static void
asked_check(const struct asked *a)
{
	CHECK(memcmp(&a->request, &a->before, sizeof(a->request)) == 0);
	CHECK(a->sum == hash(a->value, a->value_n));
}

/* ---- one condition ---- */

static double
cpu_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool
ask(const struct condition *c, struct asked *a)
{
	const double near = 0.002;
	double start = cpu_seconds(), took;
	bool held;

	a->subject.regex_s = 0; /* each is asked as if it were the only one */
	held = condition_holds(c, &a->subject);
	took = cpu_seconds() - start;
	CHECK(took < SECONDS_MAX);
	if (took > near || a->subject.regex_failed)
		a->slow = true;
	a->subject.regex_failed = false;
	return held;
}

/* The same text in another writing is a condition, and answers so. */
static void
ask_spelled(struct str text, struct lists *lists, struct asked *a, bool want)
{
	struct str part;
	struct condition *c;

	if (text.n > CONDITION_MAX_BYTES)
		return;
	CHECK(condition_error(text, &part) == NULL);
	c = condition_new(text, lists);
	CHECK(ask(c, a) == want || a->slow);
	condition_free(c);
}

static bool
contains(const char *text, const char *what)
{
	return strcasestr(text, what) != NULL;
}

/*
 * With blanks around it, negated, and in capitals: these mean something else in
 * a regular expression, in the name of a list, and at the end of a range.
 */
static void
ask_respelled(struct str text, struct lists *lists, struct asked *a, bool held)
{
	char *buf = mem_alloc(text.n + 16);
	int n = snprintf(buf, text.n + 16, "  %.*s ", (int)text.n, text.p);

	ask_spelled((struct str){buf, (size_t)n}, lists, a, held);
	n = snprintf(buf, text.n + 16, "not %.*s", (int)text.n, text.p);
	if (!str_ieq((struct str){text.p, text.n > 4 ? 4 : 0}, STR("not ")) &&
	    text.p[0] != ' ')
		ask_spelled((struct str){buf, (size_t)n}, lists, a, !held);
	if (!contains(buf, "matches") && !contains(buf, "list:") &&
	    memchr(buf, '[', (size_t)n) == NULL) {
		for (size_t i = 0; i < text.n; i++)
			buf[i] = text.p[i] >= 'a' && text.p[i] <= 'z' ?
			    (char)(text.p[i] & ~0x20) :
			    text.p[i];
		ask_spelled((struct str){buf, text.n}, lists, a, held);
	}
	free(buf);
}

/* `size > 20M`, worked out with room for every number. */
static void
check_number(const char *text, const struct asked *a, bool held)
{
	struct str size = a->request.value[ATTR_size];
	unsigned long long number;
	char unit[2] = "", op[3] = "", buf[16] = "";
	long double want;
	int end = 0, ok;

	ok = sscanf(text, "size %2[<>=]%15llu%1[kmgKMG]%n", op, &number, unit,
	    &end);
	if (ok == 2)
		ok = sscanf(text, "size %2[<>=]%15llu%n", op, &number, &end);
	if (ok < 2 || end == 0 || text[end] != '\0' || op[0] == '=' ||
	    size.n == 0 || size.n >= sizeof(buf) ||
	    strspn(memcpy(buf, size.p, size.n), "0123456789") < size.n)
		return;
	buf[size.n] = '\0';
	want = (long double)number;
	for (const char *u = "kmg"; ok == 3 && *u != '\0'; u++) {
		want *= 1024;
		if (*u == ascii_lower(unit[0]))
			break;
	}
	number = strtoull(buf, NULL, 10);
	if (op[1] == '=' && want == (long double)number)
		CHECK(held);
	else
		CHECK(held ==
		    (op[0] == '<' ? (long double)number < want :
				    (long double)number > want));
}

static void
ask_condition(struct str text, struct lists *lists, struct asked *a)
{
	struct str part = {NULL, 0}, again;
	const char *why = condition_error(text, &part);
	struct condition *c;
	bool held;

	check_slice(part);
	CHECK(condition_error(text, &again) == why);
	if (why != NULL)
		return;
	c = condition_new(text, lists);
	CHECK(condition_error(condition_text(c), &part) == NULL);
	held = ask(c, a);
	CHECK(ask(c, a) == held || a->slow);
	if (condition_keys(c) == 0)
		CHECK(condition_selectivity(c) == 0);
	if (!a->slow) {
		ask_respelled(text, lists, a, held);
		check_number(condition_text(c).p, a, held);
	}
	condition_free(c);
}

/* ---- rules ---- */

/* Whoever goes on behind a candidate finds those that came behind it. */
static void
check_after(const struct rules *r, struct asked *a, const struct rule **found,
    size_t n)
{
	struct rule_walk w;

	for (size_t i = 0; i < n; i++) {
		rules_walk(r, RULE_STATE_RCPT, &a->subject, &w);
		rules_walk_after(&w, found[i]->priority, found[i]->id);
		for (size_t j = i + 1; j < n; j++)
			CHECK(rules_next(&w) == found[j]);
		CHECK(rules_next(&w) == NULL);
	}
}

/* Which rules hold; none of them may be missing among the candidates. */
static unsigned
walk(const struct rules *r, struct asked *a)
{
	const struct condition *failed;
	struct rule_walk w;
	const struct rule *rule, *found[CONDITIONS + 1];
	uint64_t walked = 0;
	unsigned held = 0;
	size_t n = 0;

	subject_reset(a);
	rules_walk(r, RULE_STATE_RCPT, &a->subject, &w);
	while ((rule = rules_next(&w)) != NULL) {
		CHECK(rule->id >= 0 && rule->id <= CONDITIONS);
		CHECK((walked >> rule->id & 1) == 0);
		walked |= 1ULL << rule->id;
		found[n++] = rule;
	}
	check_after(r, a, found, n);
	for (size_t i = 0; (rule = rules_at(r, i)) != NULL; i++) {
		if (!rule_holds(rule, &a->subject, 0, &failed))
			continue;
		CHECK(walked >> rule->id & 1);
		held |= 1U << rule->id;
	}
	return held;
}

/* The action must be one to the rules if it is one. */
static void
put(struct rules *r, int64_t id, struct str conditions, struct str action,
    bool good)
{
	const struct rule_row row = {.id = id, .priority = -id / 2,
	    .state = id % 3 == 0 ? STR("") :
		id % 3 == 1      ? STR("RCPT") :
				   STR("ANY"),
	    .conditions = conditions, .action = action, .enabled = true};
	const char *why;

	CHECK(rules_put(r, &row, &why) == good);
}

/* A rule of each condition, and one of all that are conditions. */
static void
put_all(struct rules *r, const struct input *in)
{
	char *all, *to;
	struct str part;
	bool is_action = rule_action_error(in->action, &part) == NULL;
	size_t n = 0;

	check_slice(part);
	for (size_t i = 0; i < in->count; i++)
		n += in->condition[i].n + 1;
	all = to = mem_alloc(n);
	for (size_t i = 0; i < in->count; i++) {
		struct str text = in->condition[i];
		bool good = condition_error(text, &part) == NULL;
		char *start = to;

		if (memchr(text.p, RULE_SEPARATOR, text.n) != NULL)
			continue;
		memcpy(to, text.p, text.n);
		to += text.n;
		*to++ = RULE_SEPARATOR;
		put(r, (int64_t)i + 1, (struct str){start, text.n + 1},
		    STR("DUNNO"), good);
		if (!good)
			to = start;
	}
	put(r, 0, (struct str){all, (size_t)(to - all)}, in->action, is_action);
	free(all);
}

static void
ask_copy(const struct rules *r, struct lists *lists, struct asked *a)
{
	struct rules *copy = rules_new(lists);
	struct strtab *part = rules_part(r);
	struct str key, value;
	uint64_t cursor = 0;

	rules_begin(copy);
	while (strtab_next(part, &cursor, &key, &value))
		CHECK(rules_restore(copy, key, value));
	rules_swap(copy);
	strtab_free(part);
	CHECK(rules_count(copy) == rules_count(r));
	CHECK(walk(r, a) == walk(copy, a) || a->slow);
	rules_free(copy);
}

static void
ask_rules(const struct input *in, struct lists *lists, struct asked *a)
{
	struct rules *r = rules_new(lists);

	unsigned held;

	put_all(r, in);
	rules_ready(r);
	held = walk(r, a);
	if (in->count > 1) { /* making a table of bytes takes long */
		ask_copy(r, lists, a);
		/* Written again they are the same; without one, the others. */
		put_all(r, in);
		rules_forget(r, 1);
		rules_forget(r, CONDITIONS + 1);
		rules_ready(r);
		CHECK(walk(r, a) == (held & ~2U) || a->slow);
	}
	rules_free(r);
}

/* ---- the input ---- */

static void
split(struct str s, struct input *in)
{
	*in = (struct input){.action = STR(""), .rest = STR("")};
	for (size_t line = 0; s.n > 0; line++) {
		const char *lf = memchr(s.p, '\n', s.n);
		struct str text = {s.p, lf == NULL ? s.n : (size_t)(lf - s.p)};

		s = str_from(s, text.n + (lf != NULL));
		if (line == 0)
			in->action = text;
		else if (text.n == 0)
			break;
		else if (in->count < CONDITIONS)
			in->condition[in->count++] = text;
	}
	in->rest = s;
}

static struct lists *
make_lists(void)
{
	struct lists *lists = lists_new();

	lists_put(lists, STR("l"), STR("@example.com"));
	lists_put(lists, STR("l"), STR(".example.net"));
	lists_put(lists, STR("l"), STR("192.0.2.0/24"));
	return lists;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static struct lists *lists;
	char *buf = memcpy(mem_alloc(n), data, n);
	struct input in;
	struct asked a;

	if (lists == NULL) {
		hash_init();
		log_init(LOG_TO_STDERR, LOG_EMERG);
		lists = make_lists();
	}
	split((struct str){buf, n}, &in);
	asked_make(&a, in.rest);
	for (size_t i = 0; i < in.count; i++)
		ask_condition(in.condition[i], lists, &a);
	ask_rules(&in, lists, &a);
	asked_check(&a);
	free(a.value);
	free(buf);
	return 0;
}
