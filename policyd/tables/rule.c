#include "tables/rule.h"

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/number.h"
#include "mail/action.h"
#include "tables/strtab.h"

#include <stdlib.h>

/* A rule's place among those of its state. */
struct keyed {
	uint64_t hash;
	uint32_t place;
};

struct bucket {
	uint64_t hash;
	uint32_t start, count; /* in places; count 0: empty */
};

/*
 * The rules of one state in order, and the places of those that can hold only
 * for requests with a certain key.  Equal hashes of different keys do no harm:
 * a candidate's conditions are all asked.
 */
struct rule_index {
	struct rule **order;
	uint32_t count;
	uint32_t *places; /* of all buckets, each run ascending */
	uint32_t *unkeyed;
	uint32_t unkeyed_count;
	struct bucket *bucket;
	uint32_t buckets; /* a power of two, or 0 */
	bool text[SUBJECT_ATTRIBUTES];   /* attributes with keys of the kind */
	bool domain[SUBJECT_ATTRIBUTES];
	bool net[SUBJECT_ATTRIBUTES];
	uint8_t asked[SUBJECT_ATTRIBUTES]; /* those with any, first to last */
	int asked_count;
	bool prefix4[33], prefix6[129]; /* lengths of networks that occur */
};

struct table {
	struct rule **by_id;
	size_t count, cap;
};

struct rules {
	struct lists *lists;
	struct table table;
	struct table next;
	bool filling;
	bool paused; /* it was, and will be */
	struct rule_index *index[RULE_STATES];
};

static struct log_limit regex_limit;

/* ---- words ---- */

static const struct str states[RULE_STATES] = {
    [RULE_STATE_CONNECT] = STR_INIT("CONNECT"),
    [RULE_STATE_EHLO] = STR_INIT("EHLO"),
    [RULE_STATE_HELO] = STR_INIT("HELO"),
    [RULE_STATE_MAIL] = STR_INIT("MAIL"),
    [RULE_STATE_RCPT] = STR_INIT("RCPT"),
    [RULE_STATE_DATA] = STR_INIT("DATA"),
    [RULE_STATE_END_OF_MESSAGE] = STR_INIT("END-OF-MESSAGE"),
    [RULE_STATE_VRFY] = STR_INIT("VRFY"),
    [RULE_STATE_ETRN] = STR_INIT("ETRN"),
    [RULE_STATE_EXPN] = STR_INIT("EXPN"),
};

static const char *const who_may[] = {"no", "authenticated", "yes", NULL};
static const char *const no_yes[] = {"no", "yes", NULL};

static const struct {
	struct str name;
	const char *const *names; /* one of these: its place is the value */
	int64_t least, most;      /* a number, where there are none */
} settings[SETTINGS] = {
    [SETTING_RELAY] = {STR_INIT("relay"), who_may, 0, 0},
    [SETTING_MAX_RECIPIENTS] = {STR_INIT("max_recipients"), NULL, 1, 1000000},
    [SETTING_SCRIPT] = {STR_INIT("script"), NULL, 0, 0},
    [SETTING_GREYLIST] = {STR_INIT("greylist"), no_yes, 0, 0},
    [SETTING_VRFY] = {STR_INIT("vrfy"), who_may, 0, 0},
    [SETTING_EXPN] = {STR_INIT("expn"), who_may, 0, 0},
    [SETTING_ERRORS_TOTAL] = {STR_INIT("errors_total"), NULL, 0, 1000},
    [SETTING_ERRORS_WAIT] = {STR_INIT("errors_wait"), NULL, 0, 60000},
};

enum rule_state
rule_state_named(struct str name)
{
	int i = 0;

	/* Nearly always. */
	if (str_eq(states[RULE_STATE_RCPT], name))
		return RULE_STATE_RCPT;
	while (i < RULE_STATE_OTHER && !str_eq(states[i], name))
		i++;
	return (enum rule_state)i;
}

struct str
setting_name(enum setting s)
{
	return settings[s].name;
}

/* Blanks are U+0020 alone. */
static struct str
take_word(struct str *rest)
{
	struct str word = {rest->p, 0};

	while (word.n < rest->n && word.p[word.n] != ' ')
		word.n++;
	*rest = str_from(*rest, word.n);
	while (rest->n > 0 && rest->p[0] == ' ')
		*rest = str_from(*rest, 1);
	return word;
}

/* ---- actions ---- */

static bool
is_function(struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		if (!((s.p[i] >= 'a' && s.p[i] <= 'z') || s.p[i] == '_' ||
			(i > 0 && s.p[i] >= '0' && s.p[i] <= '9')))
			return false;
	return s.n > 0 && s.n <= 63;
}

static bool
is_limit(struct str s)
{
	for (size_t i = 0; i < s.n; i++) {
		char c = ascii_lower(s.p[i]);

		if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
			c == '_' || c == '.' || c == '-'))
			return false;
	}
	return s.n > 0 && s.n <= 63;
}

static const char *
parse_value(enum setting s, struct str value, int64_t *out)
{
	double seconds;

	if (s == SETTING_SCRIPT)
		return is_function(value) || str_ieq(value, STR("none")) ?
		    NULL :
		    "not the name of a function";
	if (s == SETTING_ERRORS_WAIT) {
		char buf[32];

		if (value.n >= sizeof(buf))
			return "not a duration from 0 to 60 s";
		for (size_t i = 0; i < value.n; i++)
			buf[i] = ascii_lower(value.p[i]);
		if (duration_parse((struct str){buf, value.n}, &seconds) ==
			-1 ||
		    seconds > (double)settings[s].most / 1000)
			return "not a duration from 0 to 60 s";
		*out = (int64_t)(seconds * 1000);
		return NULL;
	}
	if (settings[s].names == NULL)
		return number_parse(value, out) == 0 &&
			*out >= settings[s].least && *out <= settings[s].most ?
		    NULL :
		    "not a number, or out of range";
	for (int64_t i = 0; settings[s].names[i] != NULL; i++)
		if (str_ieq(str_of(settings[s].names[i]), value)) {
			*out = i;
			return NULL;
		}
	return settings[s].names == no_yes ? "it is no or yes" :
					     "it is no, authenticated or yes";
}

/* rest stands behind `set`. */
static const char *
parse_set(struct str rest, struct rule *out, struct str *value,
    struct str *part)
{
	struct str name = take_word(&rest);

	*part = name;
	for (int i = 0; i < SETTINGS; i++)
		if (str_ieq(settings[i].name, name)) {
			out->verb = VERB_SET;
			out->setting = (enum setting)i;
			*value = rest;
			*part = rest;
			return parse_value(out->setting, rest, &out->value);
		}
	return "no such setting";
}

/* Take an action apart; *argument is a slice of it. */
static const char *
parse_action(struct str text, struct rule *out, struct str *argument,
    struct str *part)
{
	struct str rest = text, word = take_word(&rest);
	const char *why = NULL;

	*argument = rest;
	*part = rest;
	if (str_trim(text).n != text.n || text.n > ACTION_MAX_BYTES ||
	    memchr(text.p, '\t', text.n) != NULL)
		return action_error(text, part);
	if (str_ieq(word, STR("set")))
		return parse_set(rest, out, argument, part);
	if (str_ieq(word, STR("script"))) {
		out->verb = VERB_SCRIPT;
		return is_function(rest) ? NULL : "not the name of a function";
	}
	if (str_ieq(word, STR("limit"))) {
		out->verb = VERB_LIMIT;
		return is_limit(rest) ? NULL : "not the name of a limit";
	}
	if (str_ieq(text, STR("greylist"))) {
		out->verb = VERB_GREYLIST;
		return NULL;
	}
	out->verb = VERB_ANSWER;
	*argument = text;
	why = action_error(text, part);
	if (why == NULL)
		subject_placeholder(text, &why, part);
	return why;
}

const char *
rule_action_error(struct str text, struct str *part)
{
	struct rule unused;
	struct str argument;

	return parse_action(text, &unused, &argument, part);
}

/* ---- rules ---- */

static void
rule_free(struct rule *rule)
{
	if (rule == NULL)
		return;
	for (size_t i = 0; i < rule->count; i++)
		condition_free(rule->conditions[i]);
	free(rule->conditions);
	free(rule->argument);
	free(rule->action);
	free(rule->state);
	free(rule);
}

static const char *
add_condition(struct rule *rule, struct str text, struct lists *lists)
{
	struct str part;
	const char *why = condition_error(text, &part);

	if (why != NULL)
		return why;
	rule->conditions = mem_realloc(rule->conditions,
	    (rule->count + 1) * sizeof(rule->conditions[0]));
	rule->conditions[rule->count++] = condition_new(text, lists);
	return NULL;
}

static const char *
compile(struct rule *rule, const struct rule_row *row, struct lists *lists)
{
	struct str argument, part, rest = row->conditions;
	const char *why = parse_action(row->action, rule, &argument, &part);
	enum rule_state state;

	if (why != NULL)
		return why;
	rule->argument = mem_strndup(argument.p, argument.n);
	rule->action = mem_strndup(row->action.p, row->action.n);
	rule->state = mem_strndup(row->state.p, row->state.n);
	if (row->state.n == 0) {
		rule->states = 1U << RULE_STATE_RCPT;
	} else if (str_eq(row->state, STR("ANY"))) {
		rule->states = ~0U;
	} else {
		state = rule_state_named(row->state);
		if (state == RULE_STATE_OTHER)
			return "no such state";
		rule->states = 1U << state;
	}
	while (rest.n > 0 && why == NULL) {
		const char *end = memchr(rest.p, RULE_SEPARATOR, rest.n);

		if (end == NULL)
			return "its conditions are torn";
		why = add_condition(rule,
		    (struct str){rest.p, (size_t)(end - rest.p)}, lists);
		rest = str_from(rest, (size_t)(end - rest.p) + 1);
	}
	return why;
}

/* The place of that id in the table, or where it would go. */
static size_t
place_of(const struct table *t, int64_t id)
{
	size_t from = 0, to = t->count;

	/* Rows come by id: nearly always it is the end. */
	if (t->count > 0 && t->by_id[t->count - 1]->id < id)
		return t->count;
	while (from < to) {
		size_t mid = from + (to - from) / 2;

		if (t->by_id[mid]->id < id)
			from = mid + 1;
		else
			to = mid;
	}
	return from;
}

static bool
is_at(const struct table *t, size_t i, int64_t id)
{
	return i < t->count && t->by_id[i]->id == id;
}

static void
table_free(struct table *t)
{
	for (size_t i = 0; i < t->count; i++)
		rule_free(t->by_id[i]);
	free(t->by_id);
	*t = (struct table){0};
}

static void
log_regex_errors(const struct rule *rule)
{
	for (size_t i = 0; i < rule->count; i++) {
		const char *why = condition_regex_error(rule->conditions[i]);
		struct log_entry e;

		if (why == NULL)
			continue;
		log_begin(&e, LOG_ERR, "a regular expression is none to PCRE2 "
				       "and never matches");
		log_int(&e, "rule", rule->id);
		log_str(&e, "condition", condition_text(rule->conditions[i]));
		log_str(&e, "error", str_of(why));
		log_end(&e);
	}
}

bool
rules_put(struct rules *r, const struct rule_row *row, const char **why)
{
	struct table *t = r->filling ? &r->next : &r->table;
	struct rule *rule = mem_zalloc(sizeof(*rule));
	size_t i = place_of(t, row->id);

	rule->id = row->id;
	rule->priority = row->priority;
	rule->shadow = row->shadow;
	rule->enabled = row->enabled;
	*why = compile(rule, row, r->lists);
	if (*why != NULL) {
		rule_free(rule);
		return false;
	}
	if (rule->enabled)
		log_regex_errors(rule);
	if (is_at(t, i, row->id)) {
		rule->hits = t->by_id[i]->hits;
		rule_free(t->by_id[i]);
		t->by_id[i] = rule;
		return true;
	}
	if (t->count == t->cap) {
		t->cap = t->cap > 0 ? t->cap * 2 : 16;
		t->by_id = mem_realloc(t->by_id, t->cap * sizeof(t->by_id[0]));
	}
	memmove(t->by_id + i + 1, t->by_id + i,
	    (t->count - i) * sizeof(t->by_id[0]));
	t->by_id[i] = rule;
	t->count++;
	return true;
}

void
rules_forget(struct rules *r, int64_t id)
{
	struct table *t = &r->table;
	size_t i = place_of(t, id);

	if (!is_at(t, i, id))
		return;
	rule_free(t->by_id[i]);
	t->count--;
	memmove(t->by_id + i, t->by_id + i + 1,
	    (t->count - i) * sizeof(t->by_id[0]));
}

size_t
rules_count(const struct rules *r)
{
	return r->table.count;
}

const struct rule *
rules_at(const struct rules *r, size_t i)
{
	return i < r->table.count ? r->table.by_id[i] : NULL;
}

/* ---- the index: made ---- */

static int
by_order(const void *a, const void *b)
{
	const struct rule *x = *(struct rule *const *)a;
	const struct rule *y = *(struct rule *const *)b;

	if (x->priority != y->priority)
		return x->priority < y->priority ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

static int
by_hash(const void *a, const void *b)
{
	const struct keyed *x = a, *y = b;

	if (x->hash != y->hash)
		return x->hash < y->hash ? -1 : 1;
	return x->place < y->place ? -1 : x->place > y->place;
}

static uint64_t
key_hash(enum key_kind kind, int attribute, const void *p, size_t n)
{
	return hash_mix(hash(p, n),
	    (uint64_t)kind << 32 | (uint64_t)(unsigned)attribute);
}

static uint64_t
net_hash(int attribute, const struct cidr *net)
{
	uint8_t bytes[2 + sizeof(net->bytes)] = {net->family, net->prefix};

	memcpy(bytes + 2, net->bytes, net->family == 4 ? 4 : 16);
	return key_hash(KEY_NET, attribute, bytes, sizeof(bytes));
}

/* The condition that rules out most requests, or NULL. */
static const struct condition *
best_condition(const struct rule *rule)
{
	const struct condition *best = NULL;

	for (size_t i = 0; i < rule->count; i++) {
		int s = condition_selectivity(rule->conditions[i]);

		if (s > 0 && (best == NULL || s > condition_selectivity(best)))
			best = rule->conditions[i];
	}
	return best;
}

static uint64_t
note_key(struct rule_index *x, const struct condition *c, size_t i)
{
	struct key key;

	condition_key(c, i, &key);
	switch (key.kind) {
	case KEY_TEXT:
		x->text[key.attribute] = true;
		break;
	case KEY_DOMAIN:
		x->domain[key.attribute] = true;
		break;
	case KEY_NET:
		x->net[key.attribute] = true;
		(key.net.family == 4 ? x->prefix4 :
				       x->prefix6)[key.net.prefix] = true;
		return net_hash(key.attribute, &key.net);
	}
	return key_hash(key.kind, key.attribute, key.bytes.p, key.bytes.n);
}

static struct bucket *
bucket_of(const struct rule_index *x, uint64_t h)
{
	uint32_t i = (uint32_t)h & (x->buckets - 1);

	while (x->bucket[i].count > 0 && x->bucket[i].hash != h)
		i = (i + 1) & (x->buckets - 1);
	return &x->bucket[i];
}

static void
fill_buckets(struct rule_index *x, const struct keyed *keys, uint32_t count)
{
	if (count == 0)
		return;
	for (x->buckets = 4; x->buckets < count * 2; x->buckets *= 2)
		continue;
	x->bucket = mem_zalloc(x->buckets * sizeof(x->bucket[0]));
	x->places = mem_alloc(count * sizeof(x->places[0]));
	for (uint32_t i = 0; i < count; i++) {
		struct bucket *b = bucket_of(x, keys[i].hash);

		if (b->count == 0)
			*b = (struct bucket){keys[i].hash, i, 0};
		x->places[i] = keys[i].place;
		b->count++;
	}
}

static struct rule_index *
index_new(const struct table *t, enum rule_state state)
{
	struct rule_index *x = mem_zalloc(sizeof(*x));
	uint32_t count = 0, cap = 64;
	struct keyed *keys = mem_alloc(cap * sizeof(keys[0]));

	x->order = mem_alloc(t->count * sizeof(x->order[0]));
	for (size_t i = 0; i < t->count; i++)
		if (t->by_id[i]->enabled &&
		    (t->by_id[i]->states >> state & 1) != 0)
			x->order[x->count++] = t->by_id[i];
	qsort(x->order, x->count, sizeof(x->order[0]), by_order);
	x->unkeyed = mem_alloc(x->count * sizeof(x->unkeyed[0]));
	for (uint32_t place = 0; place < x->count; place++) {
		const struct condition *c = best_condition(x->order[place]);
		size_t n = c != NULL ? condition_keys(c) : 0;

		if (n == 0)
			x->unkeyed[x->unkeyed_count++] = place;
		if (count + n > cap) {
			cap = (count + (uint32_t)n) * 2;
			keys = mem_realloc(keys, cap * sizeof(keys[0]));
		}
		for (size_t i = 0; i < n; i++)
			keys[count++] =
			    (struct keyed){note_key(x, c, i), place};
	}
	if (count > 0)
		qsort(keys, count, sizeof(keys[0]), by_hash);
	fill_buckets(x, keys, count);
	free(keys);
	for (int a = 0; a < SUBJECT_ATTRIBUTES; a++)
		if (x->text[a] || x->domain[a] || x->net[a])
			x->asked[x->asked_count++] = (uint8_t)a;
	return x;
}

static void
index_free(struct rule_index *x)
{
	if (x == NULL)
		return;
	free(x->order);
	free(x->places);
	free(x->unkeyed);
	free(x->bucket);
	free(x);
}

void
rules_ready(struct rules *r)
{
	uint32_t used = 0;

	for (size_t i = 0; i < r->table.count; i++)
		if (r->table.by_id[i]->enabled)
			used |= r->table.by_id[i]->states;
	for (int s = 0; s < RULE_STATES; s++) {
		index_free(r->index[s]);
		r->index[s] = (used >> s & 1) != 0 ?
		    index_new(&r->table, (enum rule_state)s) :
		    NULL;
	}
}

/* ---- the index: asked ---- */

static void
walk_list(struct rule_walk *w, const uint32_t *p, uint32_t count)
{
	if (count == 0)
		return;
	if (w->count == WALK_LISTS) {
		w->all = true;
		return;
	}
	w->list[w->count].p = p;
	w->list[w->count++].end = p + count;
}

static void
walk_hash(struct rule_walk *w, uint64_t h)
{
	const struct bucket *b = bucket_of(w->index, h);

	walk_list(w, w->index->places + b->start, b->count);
}

static void
walk_domains(struct rule_walk *w, struct subject *s, int a)
{
	enum { LABELS_MAX = 128 };
	char buf[DOMAIN_MAX_BYTES + 1];
	struct str name;

	if (!condition_fold_domain(a, subject_value(s, a), buf, &name))
		return;
	for (int i = 0; name.n > 0 && i < LABELS_MAX; i++) {
		walk_hash(w, key_hash(KEY_DOMAIN, a, name.p, name.n));
		name = domain_parent(name);
	}
}

static void
walk_nets(struct rule_walk *w, struct subject *s, int a)
{
	struct cidr room, net;
	const struct cidr *address = subject_address(s, a, &room);
	const bool *used;
	uint8_t most;

	if (address == NULL)
		return;
	used = address->family == 4 ? w->index->prefix4 : w->index->prefix6;
	most = address->family == 4 ? 32 : 128;
	for (uint8_t prefix = 0; prefix <= most; prefix++)
		if (used[prefix]) {
			cidr_mask(address, prefix, &net);
			walk_hash(w, net_hash(a, &net));
		}
}

static void
walk_attribute(struct rule_walk *w, struct subject *s, int a)
{
	const struct rule_index *x = w->index;
	char buf[KEY_MAX_BYTES];
	struct str v = subject_value(s, a);

	if (v.n == 0)
		return; /* no key is empty */
	if (x->text[a] && condition_fold_value(a, v, buf, &v))
		walk_hash(w, key_hash(KEY_TEXT, a, v.p, v.n));
	if (x->domain[a])
		walk_domains(w, s, a);
	if (x->net[a])
		walk_nets(w, s, a);
}

void
rules_walk(const struct rules *r, enum rule_state state, struct subject *s,
    struct rule_walk *w)
{
	w->index = state < RULE_STATES ? r->index[state] : NULL;
	w->from = 0;
	w->all = false;
	w->count = 0;
	if (w->index == NULL)
		return;
	walk_list(w, w->index->unkeyed, w->index->unkeyed_count);
	for (int i = 0; i < w->index->asked_count; i++)
		walk_attribute(w, s, w->index->asked[i]);
}

void
rules_walk_after(struct rule_walk *w, int64_t priority, int64_t id)
{
	if (w->index == NULL)
		return;
	while (w->from < w->index->count) {
		const struct rule *rule = w->index->order[w->from];

		if (rule->priority > priority ||
		    (rule->priority == priority && rule->id > id))
			break;
		w->from++;
	}
}

/* The least place that is not behind us, over all lists. */
struct rule *
rules_next(struct rule_walk *w)
{
	uint32_t least = UINT32_MAX;

	if (w->index == NULL)
		return NULL;
	if (w->all)
		least = w->from < w->index->count ? w->from : UINT32_MAX;
	for (uint32_t i = 0; i < w->count && !w->all; i++) {
		while (w->list[i].p < w->list[i].end &&
		    *w->list[i].p < w->from)
			w->list[i].p++;
		if (w->list[i].p < w->list[i].end && *w->list[i].p < least)
			least = *w->list[i].p;
	}
	if (least == UINT32_MAX)
		return NULL;
	w->from = least + 1;
	return w->index->order[least];
}

static void
log_regex_bound(const struct rule *rule, const struct condition *c, double now)
{
	struct log_entry e;
	uint64_t suppressed;

	if (!log_allowed(&regex_limit, now, &suppressed))
		return;
	log_begin(&e, LOG_WARNING,
	    "a regular expression hit its bound: no match");
	log_int(&e, "rule", rule->id);
	log_str(&e, "condition", condition_text(c));
	log_int(&e, "suppressed", (int64_t)suppressed);
	log_end(&e);
}

bool
rule_holds(const struct rule *rule, struct subject *s, double now,
    const struct condition **failed)
{
	for (size_t i = 0; i < rule->count; i++) {
		bool held = condition_holds(rule->conditions[i], s);

		if (s->regex_failed) {
			s->regex_failed = false;
			log_regex_bound(rule, rule->conditions[i], now);
		}
		if (!held) {
			*failed = rule->conditions[i];
			return false;
		}
	}
	*failed = NULL;
	return true;
}

void
rule_left_out(int64_t id, const char *why)
{
	struct log_entry e;

	log_begin(&e, LOG_ERR, "a rule is left out");
	log_int(&e, "rule", id);
	log_str(&e, "error", str_of(why));
	log_end(&e);
}

/* ---- copies: fields with RULE_SEPARATOR behind each, conditions last ---- */

static void
part_add(struct strtab *t, const struct rule *rule)
{
	enum { MORE = 128 };
	size_t size = strlen(rule->action) + strlen(rule->state) + MORE;
	struct sbuf b;
	char *buf;

	for (size_t i = 0; i < rule->count; i++)
		size += condition_text(rule->conditions[i]).n + 1;
	buf = mem_alloc(size);
	b = sbuf_over(buf, size);
	sbuf_addf(&b, "%lld%c%s%c%d%c%d%c%s%c", (long long)rule->priority,
	    RULE_SEPARATOR, rule->state, RULE_SEPARATOR, rule->shadow,
	    RULE_SEPARATOR, rule->enabled, RULE_SEPARATOR, rule->action,
	    RULE_SEPARATOR);
	for (size_t i = 0; i < rule->count; i++) {
		sbuf_add(&b, condition_text(rule->conditions[i]));
		sbuf_addc(&b, RULE_SEPARATOR);
	}
	strtab_set(t,
	    (struct str){(const char *)&rule->id, sizeof(rule->id)},
	    sbuf_str(&b));
	free(buf);
}

struct strtab *
rules_part(const struct rules *r)
{
	struct strtab *t = strtab_new();

	for (size_t i = 0; i < r->table.count; i++)
		part_add(t, r->table.by_id[i]);
	return t;
}

static bool
take_field(struct str *rest, struct str *field)
{
	const char *end =
	    rest->n > 0 ? memchr(rest->p, RULE_SEPARATOR, rest->n) : NULL;

	if (end == NULL)
		return false;
	*field = (struct str){rest->p, (size_t)(end - rest->p)};
	*rest = str_from(*rest, field->n + 1);
	return true;
}

bool
rules_restore(struct rules *r, struct str key, struct str value)
{
	struct str priority, shadow, enabled;
	struct rule_row row = {0};
	const char *why;
	bool negative;

	if (key.n != sizeof(row.id) || !r->filling)
		return false;
	memcpy(&row.id, key.p, sizeof(row.id));
	if (!take_field(&value, &priority) || !take_field(&value, &row.state) ||
	    !take_field(&value, &shadow) || !take_field(&value, &enabled) ||
	    !take_field(&value, &row.action))
		return false;
	negative = priority.n > 0 && priority.p[0] == '-';
	if (number_parse(str_from(priority, negative), &row.priority) == -1)
		return false;
	if (negative)
		row.priority = -row.priority;
	row.shadow = str_eq(shadow, STR("1"));
	row.enabled = str_eq(enabled, STR("1"));
	row.conditions = value;
	if (!rules_put(r, &row, &why))
		rule_left_out(row.id, why);
	return true;
}

/* ---- life ---- */

struct rules *
rules_new(struct lists *lists)
{
	struct rules *r = mem_zalloc(sizeof(*r));

	r->lists = lists;
	return r;
}

void
rules_free(struct rules *r)
{
	if (r == NULL)
		return;
	table_free(&r->table);
	table_free(&r->next);
	for (int s = 0; s < RULE_STATES; s++)
		index_free(r->index[s]);
	free(r);
}

void
rules_begin(struct rules *r)
{
	table_free(&r->next);
	r->filling = true;
}

/* What was counted for the rules of the one is told of those of the other. */
static void
take_hits(struct table *to, const struct table *from)
{
	for (size_t i = 0, j = 0; i < to->count && j < from->count;) {
		struct rule *rule = to->by_id[i];
		const struct rule *before = from->by_id[j];

		if (rule->id == before->id)
			rule->hits = before->hits;
		i += rule->id <= before->id;
		j += rule->id >= before->id;
	}
}

void
rules_swap(struct rules *r)
{
	if (!r->filling)
		return;
	take_hits(&r->next, &r->table);
	table_free(&r->table);
	r->table = r->next;
	r->next = (struct table){0};
	r->filling = false;
	rules_ready(r);
}

void
rules_abandon(struct rules *r)
{
	table_free(&r->next);
	r->filling = false;
}

void
rules_pause(struct rules *r)
{
	r->paused = r->filling;
	r->filling = false;
}

void
rules_resume(struct rules *r)
{
	r->filling = r->paused;
	r->paused = false;
}
