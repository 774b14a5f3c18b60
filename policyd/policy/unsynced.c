#include "policy/unsynced.h"

#include "base/mem.h"

#include <stdlib.h>

enum { SAFE_MS = 3000, KEYS_MAX = 65536 };

/* A journal that is never sent: all of one kind, the oldest first. */
struct unsynced {
	struct journal *journal;
};

static struct journal_entry *
oldest(const struct unsynced *u)
{
	return journal_oldest(u->journal, JOURNAL_NEW_KEY);
}

void
unsynced_put(struct unsynced *u, uint64_t key, const struct str *texts,
    const struct attempt_row *row)
{
	struct journal_entry *e;

	unsynced_drop(u, key);
	if (journal_count(u->journal) >= KEYS_MAX)
		journal_drop(u->journal, oldest(u));
	e = journal_add(u->journal, JOURNAL_NEW_KEY, key, texts);
	if (e != NULL)
		e->row = *row;
}

void
unsynced_drop(struct unsynced *u, uint64_t key)
{
	struct journal_entry *e = journal_find(u->journal, key);

	if (e != NULL)
		journal_drop(u->journal, e);
}

void
unsynced_answered(struct unsynced *u, int64_t sent)
{
	struct journal_entry *e;

	while ((e = oldest(u)) != NULL && e->row.last_seen <= sent - SAFE_MS)
		journal_drop(u->journal, e);
}

/* What waits to be written of the key is of later. */
static void
join(struct journal *to, struct journal_entry *later,
    const struct journal_entry *e)
{
	later->row.first_seen = e->row.first_seen;
	if (e->row.passed_at != ATTEMPT_WAITS)
		later->row.passed_at = e->row.passed_at;
	journal_touch(to, later, later->kind == JOURNAL_NEW_KEY ?
		JOURNAL_NEW_KEY : JOURNAL_PASSED_KEY);
}

void
unsynced_lost(struct unsynced *u, struct journal *to)
{
	struct journal_entry *e;

	while ((e = oldest(u)) != NULL) {
		struct str texts[] = {str_of(e->text[0]), str_of(e->text[1]),
		    str_of(e->text[2])};
		struct journal_entry *later = journal_find(to, e->key);

		if (later != NULL) {
			join(to, later, e);
		} else {
			later = journal_add(to, JOURNAL_PASSED_KEY, e->key,
			    texts);
			if (later != NULL)
				later->row = e->row;
		}
		journal_drop(u->journal, e);
	}
}

struct unsynced *
unsynced_new(void)
{
	struct unsynced *u = mem_zalloc(sizeof(*u));

	u->journal = journal_new();
	return u;
}

void
unsynced_free(struct unsynced *u)
{
	if (u == NULL)
		return;
	journal_free(u->journal);
	free(u);
}
