#include "tables/rule.h"

#include "base/hash.h"
#include "tables/list.h"
#include "tables/strtab.h"

#include "tap.h"

#include <stdlib.h>

static const struct {
	const char *text;
	bool good;
} actions[] = {
    {"DUNNO", true},
    {"REJECT 5.7.1 no {sender}", true},
    {"REJECT no {sendre}", false},
    {"REJECT no {sender", true},
    {"550", false},
    {"set relay yes", true},
    {"SET Relay YES", true},
    {"set relay maybe", false},
    {"set relay", false},
    {"set", false},
    {"set nothing 1", false},
    {"set max_recipients 25", true},
    {"set max_recipients 0", false},
    {"set max_recipients 1000001", false},
    {"set errors_total 0", true},
    {"set errors_total 1001", false},
    {"set errors_wait 5s", true},
    {"set errors_wait 61s", false},
    {"set errors_wait 500ms", true},
    {"set greylist no", true},
    {"set greylist authenticated", false},
    {"set script none", true},
    {"set script a_b1", true},
    {"set script 1a", false},
    {"set script Abc", false},
    {"script a_b", true},
    {"script", false},
    {"script a b", false},
    {"limit per-sender", true},
    {"limit", false},
    {"limit a b", false},
    {"greylist", true},
    {"greylist x", false},
    {" DUNNO", false},
    {"set relay yes ", false},
};

static void
action_texts(void)
{
	for (size_t i = 0; i < sizeof(actions) / sizeof(actions[0]); i++) {
		struct str part;
		const char *why =
		    rule_action_error(str_of(actions[i].text), &part);

		ok((why == NULL) == actions[i].good, "'%s' is %s",
		    actions[i].text, actions[i].good ? "an action" : "none");
	}
}

/* ---- the index against a walk over all rules ---- */

enum { RULES = 3000, REQUESTS = 3000 };

static char value[ATTRIBUTES][64];
static struct request request;

static struct str
derive(struct subject *s, int attribute)
{
	(void)s;
	return attribute == DERIVED_recipient_domain ? STR("d3.example") :
						       STR("");
}

static int
some(int n)
{
	return (int)(drand48() * n);
}

static void
put_value(enum attribute a)
{
	request.value[a] = str_of(value[a]);
	request.present |= UINT64_C(1) << a;
}

static void
make_request(void)
{
	memset(&request, 0, sizeof(request));
	sprintf(value[ATTR_sender], "u%d@a%d.d%d.Example", some(9), some(3),
	    some(9));
	sprintf(value[ATTR_recipient], "r%d@d%d.example", some(9), some(9));
	sprintf(value[ATTR_client_address], "10.%d.%d.%d", some(4), some(4),
	    some(4));
	sprintf(value[ATTR_sasl_username], "login%d", some(20));
	put_value(ATTR_sender);
	put_value(ATTR_recipient);
	put_value(ATTR_client_address);
	put_value(ATTR_sasl_username);
}

static void
make_condition(struct sbuf *b)
{
	switch (some(8)) {
	case 0:
		sbuf_addf(b, "sender = U%d@a%d.d%d.example", some(9), some(3),
		    some(9));
		break;
	case 1:
		sbuf_addf(b, "recipient under d%d.example", some(9));
		break;
	case 2:
		sbuf_addf(b, "client_address in 10.%d.0.0/16, 10.%d.%d.0/24",
		    some(4), some(4), some(4));
		break;
	case 3:
		sbuf_addf(b, "sasl_username in login%d, login%d", some(20),
		    some(20));
		break;
	case 4:
		sbuf_addf(b, "not sasl_username = login%d", some(20));
		break;
	case 5:
		sbuf_addf(b, "sender under a%d.d%d.example", some(3), some(9));
		break;
	case 6:
		sbuf_addf(b, "client_address = 10.%d.%d.%d", some(4), some(4),
		    some(4));
		break;
	default:
		sbuf_addf(b, "recipient like r%d@*", some(9));
		break;
	}
	sbuf_addc(b, RULE_SEPARATOR);
}

static void
make_rule(struct rules *r, int64_t id)
{
	static const char *const states[] = {"", "RCPT", "ANY", "DATA"};
	char buf[600];
	struct sbuf b = sbuf_over(buf, sizeof(buf));
	struct rule_row row = {.id = id, .priority = some(50) - 10,
	    .state = str_of(states[some(4)]), .action = STR("DUNNO"),
	    .enabled = some(10) > 0};
	const char *why;

	for (int n = some(4); n > 0; n--)
		make_condition(&b);
	row.conditions = sbuf_str(&b);
	if (!rules_put(r, &row, &why))
		ok(0, "%s: %s", buf, why);
}

/* Every rule that holds, in order, without the index. */
static size_t
brute_force(const struct rules *r, enum rule_state state, struct subject *s,
    int64_t *ids)
{
	size_t n = 0;

	for (int64_t priority = -10; priority < 40; priority++)
		for (size_t i = 0; rules_at(r, i) != NULL; i++) {
			const struct rule *rule = rules_at(r, i);
			const struct condition *failed;

			if (rule->enabled && rule->priority == priority &&
			    (rule->states >> state & 1) != 0 &&
			    rule_holds(rule, s, 0, &failed))
				ids[n++] = rule->id;
		}
	return n;
}

static size_t
by_index(const struct rules *r, enum rule_state state, struct subject *s,
    int64_t *ids, long *tried)
{
	const struct condition *failed;
	struct rule_walk walk;
	struct rule *rule;
	size_t n = 0;

	rules_walk(r, state, s, &walk);
	for (; (rule = rules_next(&walk)) != NULL; (*tried)++)
		if (rule_holds(rule, s, 0, &failed))
			ids[n++] = rule->id;
	return n;
}

static void
same_rules(const struct rules *r, const char *name)
{
	static int64_t want[RULES], got[RULES];
	long bad = 0, tried = 0, held = 0;

	for (int i = 0; i < REQUESTS / 10; i++) {
		struct subject s = {.request = &request, .derive = derive};
		enum rule_state state =
		    some(2) ? RULE_STATE_RCPT : RULE_STATE_DATA;
		size_t n;

		make_request();
		n = brute_force(r, state, &s, want);
		held += (long)n;
		bad += by_index(r, state, &s, got, &tried) != n ||
		    memcmp(want, got, n * sizeof(want[0])) != 0;
	}
	ok(bad == 0 && held > 0,
	    "%s: the index finds the same rules, trying %ld for %ld", name,
	    tried, held);
}

static void
against_brute_force(void)
{
	struct lists *lists = lists_new();
	struct rules *r = rules_new(lists), *copy;
	struct strtab *part;
	uint64_t cursor = 0;
	struct str key, v;
	long bad = 0;

	rules_begin(r);
	for (int64_t id = 1; id <= RULES; id++)
		make_rule(r, id);
	rules_swap(r);
	same_rules(r, "as read");
	for (int i = 0; i < 500; i++) {
		int64_t id = 1 + some(RULES);

		rules_forget(r, id);
		if (some(2))
			make_rule(r, id);
	}
	rules_ready(r);
	same_rules(r, "after changes");
	copy = rules_new(lists);
	rules_begin(copy);
	part = rules_part(r);
	while (strtab_next(part, &cursor, &key, &v))
		bad += !rules_restore(copy, key, v);
	rules_swap(copy);
	ok(bad == 0 && rules_count(copy) == rules_count(r),
	    "a copy has them all");
	same_rules(copy, "from a copy");
	strtab_free(part);
	rules_free(copy);
	rules_free(r);
	lists_free(lists);
}

/* ---- what was counted ---- */

static struct rule *
rule_of(const struct rules *r, int64_t id)
{
	struct subject s = {.request = &request, .derive = derive};
	struct rule_walk walk;
	struct rule *rule;

	rules_walk(r, RULE_STATE_RCPT, &s, &walk);
	while ((rule = rules_next(&walk)) != NULL && rule->id != id)
		;
	return rule;
}

static void
put_some(struct rules *r, const int64_t *ids, size_t n)
{
	const char *why;

	for (size_t i = 0; i < n; i++) {
		struct rule_row row = {.id = ids[i], .enabled = true,
		    .action = STR("DUNNO")};

		rules_put(r, &row, &why);
	}
	rules_ready(r);
}

static void
hits(void)
{
	static const int64_t old[] = {1, 3, 5, 7}, new[] = {2, 3, 4, 7, 8};
	static const uint64_t want[] = {0, 103, 0, 107, 0};
	struct lists *lists = lists_new();
	struct rules *r = rules_new(lists);
	struct rule *rule;

	put_some(r, old, 4);
	for (size_t i = 0; i < 4; i++) {
		rule = rule_of(r, old[i]);
		if (rule != NULL)
			rule->hits = 100 + (uint64_t)old[i];
	}
	put_some(r, old, 1);
	rule = rule_of(r, 1);
	is_long(rule != NULL ? (long)rule->hits : -1, 101,
	    "a rule that is read again keeps its hits");
	rules_begin(r);
	put_some(r, new, 5);
	rules_swap(r);
	for (size_t i = 0; i < 5; i++) {
		rule = rule_of(r, new[i]);
		is_long(rule != NULL ? (long)rule->hits : -1, (long)want[i],
		    "hits when all are read again");
	}
	rules_free(r);
	lists_free(lists);
}

/* A copy of another version's has a rule that is none to this one. */
static void
copy_of_others(void)
{
	static const struct {
		const char *name;
		struct str value;
		bool taken;
	} cases[] = {
	    {"a rule", STR_INIT("1\1RCPT\1f\0011\1DUNNO\1"), true},
	    {"an action of another version",
		STR_INIT("1\1RCPT\1f\0011\1PERHAPS no\1"), true},
	    {"a condition of another version",
		STR_INIT("1\1RCPT\1f\0011\1DUNNO\1size is prime\1"), true},
	    {"no priority", STR_INIT("x\1RCPT\1f\0011\1DUNNO\1"), false},
	    {"no action", STR_INIT("1\1RCPT\1f\0011\1"), false},
	};
	struct lists *lists = lists_new();
	struct rules *r = rules_new(lists);

	rules_begin(r);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int64_t id = (int64_t)i + 1;

		ok(rules_restore(r, (struct str){(const char *)&id, sizeof(id)},
		       cases[i].value) == cases[i].taken,
		    "from a copy: %s", cases[i].name);
	}
	rules_swap(r);
	ok(rules_count(r) == 1, "what is no rule is left out");
	rules_free(r);
	lists_free(lists);
}

int
main(void)
{
	hash_init();
	srand48(2);
	action_texts();
	against_brute_force();
	hits();
	copy_of_others();
	return tap_done();
}
