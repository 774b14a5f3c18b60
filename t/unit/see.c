#include "policy/see.h"

#include "base/hash.h"
#include "base/mem.h"

#include "tap.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { FIELDS = 7, ITEMS_MAX = 4, ROWS_MAX = 6 };

#define T0 "1795316427.123456"
#define T1 "1795316487.5"
#define EXEMPT(client) {client, NULL, NULL, NULL, T0, NULL, T1}
#define KEY(client, sender, recipient) \
	{client, sender, recipient, T0, T0, NULL, T1}

/* client, sender, recipient, first_seen, last_seen, passed_at, clock */
static PGresult *
result(const char *const rows[][FIELDS], int n)
{
	static char name[] = "column";
	PGresAttDesc columns[FIELDS];
	PGresult *res = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);

	for (int i = 0; i < FIELDS; i++)
		columns[i] = (PGresAttDesc){.name = name};
	PQsetResultAttrs(res, FIELDS, columns);
	for (int row = 0; row < n; row++)
		for (int i = 0; i < FIELDS; i++) {
			char *value = rows[row][i] != NULL ?
			    mem_strdup(rows[row][i]) : NULL;

			PQsetvalue(res, row, i, value, value != NULL ?
				(int)strlen(value) : -1);
			free(value);
		}
	return res;
}

/* ---- a row ---- */

static const struct {
	const char *name;
	const char *fields[FIELDS];
	struct see_row row;
} rows[] = {
    {"a client", {"c", NULL, NULL, NULL, T0, NULL, T1},
	{"c", true, false, false, false, 0, 1795316427.123456, 1795316487.5}},
    {"a client that is exempt for good",
	{"c", NULL, NULL, NULL, "Infinity", NULL, T1},
	{"c", true, false, false, false, 0, HUGE_VAL, 1795316487.5}},
    {"a key that is new", {"c", "s", "r", T1, T1, NULL, T1},
	{"c", false, false, true, false, 1795316487.5, 1795316487.5,
	    1795316487.5}},
    {"a key that waits", {"c", "", "r", T0, T1, NULL, T1},
	{"c", false, false, false, false, 1795316427.123456, 1795316487.5,
	    1795316487.5}},
    {"a key that passes", {"c", "s", "r", T0, T1, T1, T1},
	{"c", false, true, false, true, 1795316427.123456, 1795316487.5,
	    1795316487.5}},
    {"a key that has passed", {"c", "s", "r", T0, T1, T0, T1},
	{"c", false, true, false, false, 1795316427.123456, 1795316487.5,
	    1795316487.5}},
    {"a key of long ago", {"c", "s", "r", "-Infinity", "-1", "-1.5", "0"},
	{"c", false, true, false, false, -HUGE_VAL, -1, 0}},
};

static bool
is_same(double a, double b)
{
	return !(a < b) && !(a > b);
}

static void
test_rows(void)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		PGresult *res = result(&rows[i].fields, 1);
		struct see_row got = see_row(res, 0), want = rows[i].row;

		is_str(got.client, want.client, rows[i].name);
		is_long(got.is_client, want.is_client, rows[i].name);
		is_long(got.has_passed, want.has_passed, "has it passed?");
		is_long(got.is_new, want.is_new, "is it new?");
		is_long(got.passes, want.passes, "does it pass?");
		ok(is_same(got.first_seen, want.first_seen) &&
			is_same(got.last_seen, want.last_seen) &&
			is_same(got.clock, want.clock), "its times");
		PQclear(res);
	}
}

/* ---- which row is whose ---- */

static const struct {
	const char *name;
	/* Sorted: client, sender, recipient, network. */
	const char *items[ITEMS_MAX][SEE_COLUMNS];
	const char *rows[ROWS_MAX][FIELDS];
	int row_of[ITEMS_MAX];
	const char *told;
} matches[] = {
    {"no rows", {{"a", "s", "r", "n"}}, {{NULL}}, {-1}, "?a ?n "},
    {"rows in another order",
	{{"a", "s", "q", "a"}, {"a", "s", "r", "a"}, {"a", "t", "q", "a"},
	    {"b", "", "q", "b"}},
	{KEY("b", "", "q"), KEY("a", "s", "r"), KEY("a", "t", "q"),
	    KEY("a", "s", "q")},
	{3, 1, 2, 0}, "b  q;a s r;a t q;a s q;?a ?a ?a ?b "},
    {"a row of nobody",
	{{"a", "s", "r", "a"}, {"c", "s", "r", "c"}},
	{KEY("b", "s", "r"), KEY("a", "s", "q"), KEY("a", "", "r"),
	    KEY("A", "s", "r"), KEY("zz", "zz", "zz"), KEY("c", "s", "r")},
	{-1, 5}, "c s r;?a ?c "},
    {"nobody waits", {{NULL}}, {KEY("a", "s", "r"), EXEMPT("b")}, {0},
	"!b "},
    {"a client is exempt",
	{{"a", "s", "r", "n"}, {"a", "t", "r", "n"}, {"b", "s", "r", "n"}},
	{EXEMPT("a"), KEY("b", "s", "r")}, {0, 0, 1},
	"!a b s r;?b ?n "},
    {"a network is exempt",
	{{"a", "s", "r", "n"}, {"b", "s", "r", "m"}, {"n", "s", "r", "n"}},
	{KEY("b", "s", "r"), EXEMPT("n")}, {1, 0, 1}, "b s r;!n ?b ?m "},
    {"both are: the client goes first",
	{{"a", "s", "r", "n"}, {"b", "s", "r", "n"}},
	{EXEMPT("n"), EXEMPT("a")}, {1, 0}, "!n !a "},
    {"an exempt client's key is told, but it is exempt",
	{{"a", "s", "r", "n"}}, {EXEMPT("a"), KEY("a", "s", "r")}, {0},
	"!a a s r;"},
    {"a client is no key", {{"a", "", "", "a"}}, {EXEMPT("a")}, {0}, "!a "},
    {"many are exempt",
	{{"a", "s", "r", "n"}, {"b", "s", "r", "n"}, {"c", "s", "r", "o"},
	    {"d", "s", "r", "d"}},
	{EXEMPT("d"), EXEMPT("x"), EXEMPT("b"), EXEMPT("o"), EXEMPT("y"),
	    EXEMPT("n")},
	{5, 2, 3, 0}, "!d !x !b !o !y !n "},
};

/* All that was told, in turn: KEY; !EXEMPT and ?STRANGER. */
struct told {
	char buf[200];
	struct sbuf text;
};

static void
on_client(void *arg, uint64_t hash, const struct see_row *row)
{
	struct told *t = arg;

	sbuf_addf(&t->text, "%s%s ", hash == hash_text(row->client) ? "!" : "",
	    row->client);
}

static void
on_key(void *arg, const struct batch_item *item, const struct see_row *row)
{
	struct told *t = arg;

	sbuf_addf(&t->text, "%s %s %s%s", item->column[SEE_CLIENT],
	    item->column[SEE_SENDER], item->column[SEE_RECIPIENT],
	    strcmp(item->column[SEE_CLIENT], row->client) == 0 ? ";" : "");
}

/* Names are of one letter here. */
static void
on_stranger(void *arg, uint64_t hash)
{
	struct told *t = arg;

	for (char name[] = "a"; name[0] <= 'z'; name[0]++)
		if (hash == hash_text(name))
			sbuf_addf(&t->text, "?%s ", name);
}

static struct batch_item *
item_new(const char *const *columns)
{
	struct batch_item *item = mem_zalloc(sizeof(*item));

	item->row = -1;
	for (int i = 0; i < SEE_COLUMNS; i++)
		item->column[i] = mem_strdup(columns[i]);
	return item;
}

static void
item_free(struct batch_item *item)
{
	for (int i = 0; i < SEE_COLUMNS; i++)
		free(item->column[i]);
	free(item);
}

static void
test_match(size_t i)
{
	struct batch_item *items[ITEMS_MAX];
	struct told told;
	const struct see_handlers on = {on_client, on_key, on_stranger, &told};
	size_t n = 0;
	int count = 0;
	PGresult *res;

	for (; n < ITEMS_MAX && matches[i].items[n][0] != NULL; n++)
		items[n] = item_new(matches[i].items[n]);
	while (count < ROWS_MAX && matches[i].rows[count][0] != NULL)
		count++;
	res = result(matches[i].rows, count);
	told.text = sbuf_over(told.buf, sizeof(told.buf));
	see_match(items, n, res, &on);
	is_str(told.buf, matches[i].told, matches[i].name);
	for (size_t k = 0; k < n; k++) {
		is_long(items[k]->row, matches[i].row_of[k], matches[i].name);
		item_free(items[k]);
	}
	PQclear(res);
}

int
main(void)
{
	hash_init();
	test_rows();
	for (size_t i = 0; i < sizeof(matches) / sizeof(matches[0]); i++)
		test_match(i);
	return tap_done();
}
