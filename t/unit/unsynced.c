#include "policy/unsynced.h"

#include "tap.h"

#include <stdio.h>

enum { S = 1000, KEYS_MAX = 65536 };
#define W ATTEMPT_WAITS

static const struct str texts[] = {STR_INIT("mx.example"),
    STR_INIT(""), STR_INIT("bob@example.com")};

static void
put(struct unsynced *u, uint64_t key, int64_t last_seen)
{
	const struct attempt_row row = {last_seen - 5, last_seen, W, 1};

	unsynced_put(u, key, texts, &row);
}

/* All that is kept, as the journal gets it. */
static struct journal *
lost(struct unsynced *u)
{
	struct journal *j = journal_new();

	unsynced_lost(u, j);
	return j;
}

static void
is_kept(struct unsynced *u, const char *wanted, const char *name)
{
	struct journal *j = lost(u);
	char buf[100];
	struct sbuf b = sbuf_over(buf, sizeof(buf));

	for (uint64_t key = 0; key < 10; key++)
		if (journal_find(j, key) != NULL)
			sbuf_addf(&b, "%d", (int)key);
	is_str(buf, wanted, name);
	is_long(journal_count(j), strlen(wanted), "and nothing else");
	journal_free(j);
}

/* ---- what is kept, and for how long ---- */

static const struct {
	int64_t last_seen, sent;
	const char *kept;
} answers[] = {
    {10 * S, 0, "1"},
    {10 * S, 10 * S, "1"},
    {10 * S, 13 * S - 1, "1"},
    {10 * S, 13 * S, ""},
    {10 * S, 99 * S, ""},
    {-10 * S, -8 * S, "1"},
    {-10 * S, -7 * S, ""},
};

static void
test_answered(void)
{
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		struct unsynced *u = unsynced_new();
		char name[80];

		snprintf(name, sizeof(name), "of %ld, answered what was sent %ld",
		    (long)answers[i].last_seen, (long)answers[i].sent);
		unsynced_answered(u, answers[i].sent);
		put(u, 1, answers[i].last_seen);
		unsynced_answered(u, answers[i].sent);
		is_kept(u, answers[i].kept, name);
		unsynced_free(u);
	}
}

static void
test_kept(void)
{
	struct unsynced *u = unsynced_new();

	is_kept(u, "", "nothing at first");
	for (uint64_t key = 1; key <= 4; key++)
		put(u, key, (int64_t)key * S);
	put(u, 2, 5 * S);
	unsynced_answered(u, 6 * S);
	is_kept(u, "24", "each since it was last heard of");
	is_kept(u, "", "it is the journal's now");

	for (uint64_t key = 1; key <= 4; key++)
		put(u, key, S);
	unsynced_drop(u, 3);
	unsynced_drop(u, 9);
	is_kept(u, "124", "but what was dropped");
	put(u, 7, S);
	unsynced_free(u);
}

static void
test_bound(void)
{
	struct unsynced *u = unsynced_new();
	struct journal *j;

	for (uint64_t key = 0; key < KEYS_MAX; key++)
		put(u, key, S);
	put(u, 1, S);
	j = lost(u);
	is_long(journal_count(j), KEYS_MAX, "so many");
	journal_free(j);

	for (uint64_t key = 0; key < KEYS_MAX; key++)
		put(u, key, S);
	put(u, 0, S);
	put(u, KEYS_MAX, S);
	j = lost(u);
	is_long(journal_count(j), KEYS_MAX, "and no more");
	ok(journal_find(j, 1) == NULL, "the oldest goes");
	ok(journal_find(j, 0) != NULL && journal_find(j, 2) != NULL &&
		journal_find(j, KEYS_MAX) != NULL, "and no other");
	journal_free(j);
	unsynced_free(u);
}

/* ---- the connection is lost ---- */

static bool
is_row(const struct attempt_row *a, const struct attempt_row *b)
{
	return a->first_seen == b->first_seen && a->last_seen == b->last_seen &&
	    a->passed_at == b->passed_at && a->attempts == b->attempts;
}

static void
test_entry(void)
{
	const struct attempt_row row = {7, 9 * S, 8, 3};
	struct unsynced *u = unsynced_new();
	const struct journal_entry *e;
	struct journal *j;

	unsynced_put(u, 1, texts, &row);
	j = lost(u);
	e = journal_find(j, 1);
	ok(e != NULL && e->kind == JOURNAL_PASSED_KEY, "it may be lost there");
	ok(e != NULL && is_row(&e->row, &row), "as it was");
	is_long(e != NULL ? e->add : -1, 0, "its attempts are counted");
	for (int i = 0; i < 3; i++)
		is_str(e != NULL ? e->text[i] : NULL, texts[i].p, "a text");
	journal_free(j);
	unsynced_free(u);
}

/* It was judged in memory since: what was first is kept, and what was last. */
static const struct {
	const char *name;
	enum journal_kind kind;
	struct attempt_row later, row;
	enum journal_kind after;
	struct attempt_row joined;
} joins[] = {
    {"waits still", JOURNAL_KNOWN_KEY, {40, 50, W, 4}, {10, 20, W, 1},
	JOURNAL_PASSED_KEY, {10, 50, W, 4}},
    {"passed since", JOURNAL_PASSED_KEY, {10, 50, 50, 4}, {10, 20, W, 1},
	JOURNAL_PASSED_KEY, {10, 50, 50, 4}},
    {"passed before", JOURNAL_KNOWN_KEY, {20, 50, W, 4}, {10, 20, 20, 1},
	JOURNAL_PASSED_KEY, {10, 50, 20, 4}},
    {"passed then and since", JOURNAL_KNOWN_KEY, {20, 50, 50, 4},
	{10, 20, 20, 1}, JOURNAL_PASSED_KEY, {10, 50, 20, 4}},
    {"new, as it seemed", JOURNAL_NEW_KEY, {50, 50, W, 1}, {10, 20, W, 1},
	JOURNAL_NEW_KEY, {10, 50, W, 1}},
    {"passed, not as new as it seemed", JOURNAL_NEW_KEY, {50, 90, 90, 2},
	{10, 20, 20, 1}, JOURNAL_NEW_KEY, {10, 90, 20, 2}},
};

static void
test_joined(void)
{
	for (size_t i = 0; i < sizeof(joins) / sizeof(joins[0]); i++) {
		struct unsynced *u = unsynced_new();
		struct journal *j = journal_new();
		struct journal_entry *later =
		    journal_add(j, joins[i].kind, 1, texts);
		size_t n;

		later->row = joins[i].later;
		later->add = 2;
		journal_take(j, joins[i].kind, 1, &n);
		unsynced_put(u, 1, texts, &joins[i].row);
		unsynced_lost(u, j);
		ok(journal_find(j, 1) == later && journal_count(j) == 1,
		    "%s: one entry", joins[i].name);
		is_long(later->kind, joins[i].after, joins[i].name);
		ok(is_row(&later->row, &joins[i].joined), "%s: the row",
		    joins[i].name);
		is_long(later->add, 2, "its attempts are added");
		journal_sent(j, NULL, NULL);
		is_long(journal_count(j), 1, "what was on its way goes again");
		is_kept(u, "", "nothing is kept twice");
		journal_free(j);
		unsynced_free(u);
	}
}

static void
test_full(void)
{
	struct unsynced *u = unsynced_new();
	struct journal *j = journal_new();
	struct journal_entry *there;

	for (uint64_t i = 0; i < JOURNAL_MAX; i++)
		journal_add(j, JOURNAL_NEW_KEY, 100 + i, texts);
	there = journal_find(j, 100);
	there->row = (struct attempt_row){50, 50, W, 1};
	put(u, 1, S);
	put(u, 100, 20);
	unsynced_lost(u, j);
	is_long(journal_count(j), JOURNAL_MAX, "a journal that is full");
	ok(journal_find(j, 1) == NULL, "has no room for one more");
	is_long(there->row.first_seen, 15, "but for what it has");
	is_kept(u, "", "and nobody waits for it");
	journal_free(j);
	unsynced_free(u);
}

int
main(void)
{
	test_answered();
	test_kept();
	test_bound();
	test_entry();
	test_joined();
	test_full();
	unsynced_free(NULL);
	return tap_done();
}
