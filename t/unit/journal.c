#include "policy/journal.h"

#include "tap.h"

#include <stdlib.h>

static struct journal_entry *
add(struct journal *j, enum journal_kind kind, uint64_t key, const char *client)
{
	const struct str texts[] = {str_of(client), STR("sender"),
	    STR("recipient")};

	return journal_add(j, kind, key, texts);
}

static void
test_sending(void)
{
	struct journal *j = journal_new();
	struct journal_entry *a, *b, *c;
	struct journal_entry *const *taken;
	size_t n;

	a = add(j, JOURNAL_NEW_KEY, 1, "b.example");
	b = add(j, JOURNAL_NEW_KEY, 2, "a.example");
	c = add(j, JOURNAL_CLIENT, 3, "c.example");
	a->row.passed_at = ATTEMPT_WAITS;
	a->add = 2;
	b->add = 1;
	c->add = 1;
	is_str(b->text[0], "a.example", "texts are copied");
	ok(c->text[1] == NULL, "a client has one");
	is_long((long)journal_count(j), 3, "three");
	ok(journal_find(j, 2) == b && journal_find(j, 9) == NULL, "found");

	taken = journal_take(j, JOURNAL_NEW_KEY, 1, &n);
	ok(n == 1 && taken[0] == a, "the oldest first");
	journal_unsent(j);
	taken = journal_take(j, JOURNAL_NEW_KEY, 10, &n);
	ok(n == 2 && taken[0] == b && taken[1] == a, "sorted by their texts");
	a->add++;
	journal_touch(j, a, JOURNAL_NEW_KEY);
	journal_sent(j, NULL, NULL);
	is_long((long)journal_count(j), 2, "what was sent goes");
	ok(journal_find(j, 1) == a && a->kind == JOURNAL_KNOWN_KEY,
	    "what changed meanwhile stays, and is known there");
	is_long(a->add, 1, "with what was not sent");

	journal_take(j, JOURNAL_KNOWN_KEY, 10, &n);
	is_long((long)n, 1, "it goes again");
	a->row.passed_at = 1;
	journal_touch(j, a, JOURNAL_PASSED_KEY);
	journal_sent(j, NULL, NULL);
	ok(a->kind == JOURNAL_PASSED_KEY, "it has passed meanwhile: once more");
	journal_touch(j, a, JOURNAL_NEW_KEY);
	journal_take(j, JOURNAL_NEW_KEY, 10, &n);
	journal_touch(j, a, JOURNAL_NEW_KEY);
	journal_sent(j, NULL, NULL);
	ok(a->kind == JOURNAL_PASSED_KEY, "so has a new one");
	journal_touch(j, a, JOURNAL_KNOWN_KEY);

	journal_take(j, JOURNAL_KNOWN_KEY, 10, &n);
	a->add = 1;
	a->adding = JOURNAL_ANEW;
	journal_touch(j, a, JOURNAL_NEW_KEY);
	journal_sent(j, NULL, NULL);
	ok(a->kind == JOURNAL_NEW_KEY && a->add == 1,
	    "one that began anew meanwhile is new");
	is_long((long)journal_count_of(j, JOURNAL_NEW_KEY), 1, "of that kind");

	taken = journal_take(j, JOURNAL_NEW_KEY, 10, &n);
	journal_drop(j, a);
	ok(taken[0] == NULL, "one that is dropped meanwhile");
	journal_sent(j, NULL, NULL);
	is_long((long)journal_count(j), 1, "is gone");

	taken = journal_take(j, JOURNAL_CLIENT, 10, &n);
	c->add++;
	journal_touch(j, c, JOURNAL_CLIENT);
	journal_sent(j, NULL, NULL);
	ok(journal_find(j, 3) == c && c->add == 1, "a client that passed again");
	journal_take(j, JOURNAL_CLIENT, 10, &n);
	journal_sent(j, NULL, NULL);
	is_long((long)journal_count(j), 0, "nothing is left");
	journal_free(j);
}

static void
test_bound(void)
{
	struct journal *j = journal_new();
	struct journal_entry *const *taken;
	size_t n, total = 0;

	for (uint64_t i = 0; i < JOURNAL_MAX; i++)
		if (add(j, JOURNAL_NEW_KEY, i, "x") == NULL)
			break;
	is_long((long)journal_count(j), JOURNAL_MAX, "as many as may be");
	ok(add(j, JOURNAL_NEW_KEY, 1, "x") == NULL, "and no more");
	while ((taken = journal_take(j, JOURNAL_NEW_KEY, 1000, &n)) != NULL &&
	    n > 0) {
		total += n;
		journal_sent(j, NULL, NULL);
	}
	journal_unsent(j);
	is_long((long)total, JOURNAL_MAX, "all of them go");
	journal_free(j);
	journal_free(NULL);
}

int
main(void)
{
	test_sending();
	test_bound();
	return tap_done();
}
