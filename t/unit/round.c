#include "tables/round.h"

#include "base/hash.h"
#include "base/log.h"
#include "config/config.h"
#include "tables/directory.h"
#include "tables/tables.h"

#include "tap.h"

static char none[] = "";
static const struct config config = {
    .lookup = {.domains = none, .addresses = none}};

/* Every letter of the text is a domain: "a" is a.example. */
static const char LETTERS[] = "abcd";

static struct str
domain(char letter)
{
	static char name[] = "?.example";

	name[0] = letter;
	return str_of(name);
}

static PGresult *
rows(const char *letters)
{
	char column[] = "name";
	PGresAttDesc desc = {.name = column};
	PGresult *res = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);

	PQsetResultAttrs(res, 1, &desc);
	for (int i = 0; letters[i] != '\0'; i++) {
		char value[] = "?.example";

		value[0] = letters[i];
		PQsetvalue(res, i, 0, value, (int)strlen(value));
	}
	return res;
}

static const char *
text_of(const struct tables *t)
{
	static char text[sizeof(LETTERS)];
	struct sbuf b = sbuf_over(text, sizeof(text));
	struct domain found;

	for (int i = 0; LETTERS[i] != '\0'; i++)
		if (directory_domain(t->directory, domain(LETTERS[i]), &found))
			sbuf_addc(&b, LETTERS[i]);
	return text;
}

/* All of it is read into a new table. */
static void
read_whole(struct rounds *r, struct tables *t, const char *letters)
{
	PGresult *res = rows(letters);

	rounds_drop_keys(r, SOURCE_DOMAIN);
	source_begin(&config, t, SOURCE_DOMAIN);
	source_put(t, SOURCE_DOMAIN, res);
	PQclear(res);
}

/* Want these keys, or "*", and find those rows. */
static void
read_round(struct rounds *r, struct tables *t, const char *keys,
    const char *found)
{
	struct wants wants = {0};
	struct round *round;

	if (keys[0] == '*')
		want_whole(&wants.of[SOURCE_DOMAIN]);
	else
		for (int i = 0; keys[i] != '\0'; i++)
			want_key(&wants.of[SOURCE_DOMAIN], domain(keys[i]));
	round = rounds_add(r, &wants);
	ok(!wants_any(&wants), "what is taken is wanted no longer");
	if (keys[0] == '*')
		read_whole(r, t, found);
	else if (keys[0] != '\0')
		round->rows[SOURCE_DOMAIN] = rows(found);
}

static const struct {
	const char *name;
	const char *before;
	struct {
		const char *keys, *found;
	} rounds[3];
	const char *after;
	long changes;
} cases[] = {
    {"nothing is read", "ab", {{"", ""}}, "ab", 0},
    {"a new row", "ab", {{"c", "c"}}, "abc", 1},
    {"a key of which there is no row", "ab", {{"a", ""}}, "b", 1},
    {"one of each", "ab", {{"ac", "c"}}, "bc", 2},
    {"the later is true, gone", "a", {{"b", "b"}, {"b", ""}}, "a", 2},
    {"the later is true, there", "a", {{"a", ""}, {"a", "a"}}, "a", 2},
    {"three, each of another", "a", {{"a", ""}, {"b", "b"}, {"c", "c"}}, "bc",
	3},
    {"all of it", "ab", {{"*", "bc"}}, "bc", 1},
    {"all of an empty table", "ab", {{"*", ""}}, "", 1},
    {"all of it, and a key after that", "a", {{"*", "ab"}, {"a", ""}}, "b", 2},
    {"a key, and then all of it", "a", {{"a", ""}, {"*", "ab"}}, "ab", 1},
    {"a key older than all of it", "a", {{"d", "d"}, {"*", "ab"}}, "ab", 1},
    {"all of it twice", "a", {{"*", "ab"}, {"*", "cd"}}, "cd", 1},
};

static void
in_force(size_t i)
{
	const char *name = cases[i].name;
	struct rounds r = {0};
	struct tables t;
	bool whole = false;

	tables_init(&t, true);
	read_whole(&r, &t, cases[i].before);
	tables_swap(&t);
	for (int n = 0; n < 3 && cases[i].rounds[n].keys != NULL; n++) {
		whole = whole || cases[i].rounds[n].keys[0] == '*';
		read_round(&r, &t, cases[i].rounds[n].keys,
		    cases[i].rounds[n].found);
	}
	is_str(text_of(&t), cases[i].before, "until then all is as it was");
	ok(rounds_any_whole(&r) == whole, "%s: read whole, or not", name);
	ok(rounds_whole(&r, SOURCE_DOMAIN) == whole, "%s: this one", name);
	ok(!rounds_whole(&r, SOURCE_ALIAS), "%s: not that one", name);
	is_long(rounds_changes(&r), cases[i].changes, name);
	is_long(rounds_apply(&r, &t), 0, "every row makes sense");
	is_str(text_of(&t), cases[i].after, name);
	rounds_clear(&r);
	tables_fini(&t);
}

/* In vain: all that was taken is wanted once more. */
static void
in_vain(void)
{
	struct rounds r = {0};
	struct wants wants = {0};

	want_key(&wants.of[SOURCE_DOMAIN], STR("a"));
	want_key(&wants.of[SOURCE_RULE], STR("7"));
	wants.held[SOURCE_RULE] = true;
	rounds_add(&r, &wants);
	is_long(r.at[0].want[SOURCE_RULE].count, 0, "what is held is not taken");
	wants_release(&wants);
	want_whole(&wants.of[SOURCE_ALIAS]);
	rounds_add(&r, &wants);
	is_long(r.count, 2, "two rounds");
	ok(rounds_last(&r) == &r.at[1], "of which this is the last");
	want_key(&wants.of[SOURCE_DOMAIN], STR("b"));
	rounds_give_back(&r, &wants);
	is_long(r.count, 0, "none is left");
	is_long(wants.of[SOURCE_DOMAIN].count, 2, "keys of before and meanwhile");
	is_long(wants.of[SOURCE_RULE].count, 1, "and of another source");
	ok(wants.of[SOURCE_ALIAS].whole, "and all of one");
	wants_clear(&wants);
}

/* A row that makes no sense is counted. */
static void
left_out(void)
{
	struct rounds r = {0};
	struct tables t;

	tables_init(&t, true);
	read_whole(&r, &t, "a");
	tables_swap(&t);
	read_round(&r, &t, "b", "b");
	rounds_last(&r)->rows[SOURCE_ADDRESS] = rows("c"); /* has no @ */
	is_long(rounds_apply(&r, &t), 1, "a row without a sense is left out");
	is_str(text_of(&t), "ab", "the other is there");
	rounds_clear(&r);
	tables_fini(&t);
}

int
main(void)
{
	hash_init();
	log_init(LOG_TO_STDERR, LOG_EMERG); /* one row makes no sense */
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		in_force(i);
	in_vain();
	left_out();
	return tap_done();
}
