#include "policy/merge.h"

#include "tap.h"

enum { MANY = 1000 };
#define W ATTEMPT_WAITS
#define AHEAD INT64_C(1795316427000)

static const struct {
	const char *client, *sender, *recipient;
	struct attempt_row row;
	int32_t add;
} entries[] = {
    {"mx.example", "", "bob@example.com", {1, 20, W, 3}, 2},
    {"192.0.2.0/24", "\"a \\\" {,}\"@a.example", "NULL",
	{-1795316427001, -1000, 1000, 1}, 0},
    {"x", "y", "z", {0, 0, 0, 1}, -3},
};
enum { ENTRIES = sizeof(entries) / sizeof(entries[0]) };

#define CLIENTS "{\"mx.example\",\"192.0.2.0/24\",\"x\"}"
#define SENDERS "{\"\",\"\\\"a \\\\\\\" {,}\\\"@a.example\",\"y\"}"
#define RECIPIENTS "{\"bob@example.com\",\"NULL\",\"z\"}"
#define FIRST_SEEN "{1795316427.001,-0.001,1795316427.000}"
#define LAST_SEEN "{1795316427.020,1795316426.000,1795316427.000}"
#define PASSED_AT "{NULL,1795316428.000,1795316427.000}"
#define ADDED "{2,0,-3}"

/* As the functions in sql/005-greylist.sql take them. */
static const struct {
	enum journal_kind kind;
	const char *sql;
	const char *param[MERGE_PARAMS_MAX + 1];
} cases[] = {
    {JOURNAL_CLIENT, "policyd.client_merge($1, $2)", {CLIENTS, LAST_SEEN}},
    {JOURNAL_KNOWN_KEY, "policyd.greylist_touch($1, $2, $3, $4, $5)",
	{CLIENTS, SENDERS, RECIPIENTS, LAST_SEEN, ADDED}},
    {JOURNAL_PASSED_KEY,
	"policyd.greylist_merge(true, $1, $2, $3, $4, $5, $6, $7, $8, $9)",
	{CLIENTS, SENDERS, RECIPIENTS, FIRST_SEEN, LAST_SEEN, PASSED_AT, ADDED,
	    "172800.5", "0.10000000000000001"}},
    {JOURNAL_NEW_KEY,
	"policyd.greylist_merge(false, $1, $2, $3, $4, $5, $6, $7, $8, $9)",
	{CLIENTS, SENDERS, RECIPIENTS, FIRST_SEEN, LAST_SEEN, PASSED_AT, ADDED,
	    "172800.5", "0.10000000000000001"}},
};

/* Those of the table, in turn; of a client, its first text alone. */
static struct journal *
fill(enum journal_kind kind, int n, struct journal_entry **out)
{
	struct journal *j = journal_new();

	for (int i = 0; i < n; i++) {
		const struct str texts[] = {str_of(entries[i % ENTRIES].client),
		    str_of(entries[i % ENTRIES].sender),
		    str_of(entries[i % ENTRIES].recipient)};

		out[i] = journal_add(j, kind, (uint64_t)i, texts);
		out[i]->row = entries[i % ENTRIES].row;
		out[i]->add = entries[i % ENTRIES].add;
	}
	return j;
}

static void
test_kinds(void)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct journal_entry *e[ENTRIES];
		struct journal *j = fill(cases[i].kind, ENTRIES, e);
		struct merge m = merge_new(cases[i].kind, e, ENTRIES, AHEAD,
		    172800.5, 0.1);
		int n = 0;

		ok(m.sql == merge_sql(cases[i].kind), "one statement a kind");
		is_str(m.sql + strlen("SELECT "), cases[i].sql, "which is");
		for (; cases[i].param[n] != NULL; n++)
			is_str(n < m.n ? m.param[n] : NULL, cases[i].param[n],
			    cases[i].sql);
		is_long(m.n, n, "and no further parameter");
		merge_free(&m);
		journal_free(j);
	}
}

/* The longest that a number can be, as often as it may. */
static void
test_many(void)
{
	struct journal_entry *e[MANY];
	struct journal *j = fill(JOURNAL_NEW_KEY, MANY, e);
	struct merge m;

	for (int i = 0; i < MANY; i++) {
		e[i]->row = (struct attempt_row){-INT64_MAX / 2, INT64_MAX / 2,
		    -INT64_MAX / 2, 1};
		e[i]->add = INT32_MIN;
	}
	m = merge_new(JOURNAL_NEW_KEY, e, MANY, 0, 1, 1);
	for (int i = 0; i < 7; i++) {
		size_t n = strlen(m.param[i]), commas = 0;

		for (size_t k = 0; k < n; k++)
			commas += m.param[i][k] == ',';
		ok(m.param[i][0] == '{' && m.param[i][n - 1] == '}',
		    "parameter %d is whole", i + 1);
		ok(commas >= MANY - 1, "and has them all");
	}
	merge_free(&m);
	journal_free(j);
}

int
main(void)
{
	test_kinds();
	test_many();
	return tap_done();
}
