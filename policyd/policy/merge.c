#include "policy/merge.h"

#include "base/mem.h"
#include "db/array.h"

#include <stdlib.h>

/* What is sent of each entry: a column of the statement, as an array. */
enum column {
	COLUMN_END,
	CLIENT,
	SENDER,
	RECIPIENT,
	FIRST_SEEN,
	LAST_SEEN,
	PASSED_AT,
	ADD,
};
enum { COLUMNS_MAX = ADD };

/* The columns, and after them retry_window and max_age where they matter. */
static const struct statement {
	const char *sql;
	enum column columns[COLUMNS_MAX + 1];
	bool has_limits;
} statements[JOURNAL_KINDS] = {
    [JOURNAL_CLIENT] = {"SELECT policyd.client_merge($1, $2)",
	{CLIENT, LAST_SEEN}, false},
    [JOURNAL_KNOWN_KEY] = {"SELECT policyd.greylist_touch($1, $2, $3, $4, $5)",
	{CLIENT, SENDER, RECIPIENT, LAST_SEEN, ADD}, false},
    [JOURNAL_PASSED_KEY] = {"SELECT policyd.greylist_merge(true, $1, $2, $3, "
			    "$4, $5, $6, $7, $8, $9)",
	{CLIENT, SENDER, RECIPIENT, FIRST_SEEN, LAST_SEEN, PASSED_AT, ADD},
	true},
    [JOURNAL_NEW_KEY] = {"SELECT policyd.greylist_merge(false, $1, $2, $3, "
			 "$4, $5, $6, $7, $8, $9)",
	{CLIENT, SENDER, RECIPIENT, FIRST_SEEN, LAST_SEEN, PASSED_AT, ADD},
	true},
};

/* ---- columns ---- */

static char *
texts_array(struct journal_entry *const *entries, size_t n, int which)
{
	char **texts = mem_alloc(n * sizeof(texts[0])), *array;

	for (size_t i = 0; i < n; i++)
		texts[i] = entries[i]->text[which];
	array = db_array(texts, n, false);
	free(texts);
	return array;
}

static int64_t
time_of(const struct journal_entry *e, enum column which)
{
	switch (which) {
	case FIRST_SEEN:
		return e->row.first_seen;
	case LAST_SEEN:
		return e->row.last_seen;
	default:
		return e->row.passed_at;
	}
}

static char *
numbers_array(struct journal_entry *const *entries, size_t n, int64_t ahead,
    enum column which)
{
	size_t size = n * 32 + sizeof("{}");
	char *text = mem_alloc(size);
	struct sbuf b = sbuf_over(text, size);

	sbuf_addc(&b, '{');
	for (size_t i = 0; i < n; i++) {
		int64_t time = time_of(entries[i], which);

		if (i > 0)
			sbuf_addc(&b, ',');
		if (which == ADD)
			sbuf_addf(&b, "%d", (int)entries[i]->add);
		else if (time == ATTEMPT_WAITS)
			sbuf_add(&b, STR("NULL"));
		else
			sbuf_addf(&b, "%.3f", (double)(time + ahead) / 1000);
	}
	sbuf_addc(&b, '}');
	return text;
}

static char *
column_array(struct journal_entry *const *entries, size_t n, int64_t ahead,
    enum column which)
{
	if (which <= RECIPIENT)
		return texts_array(entries, n, (int)which - CLIENT);
	return numbers_array(entries, n, ahead, which);
}

/* ---- a statement ---- */

const char *
merge_sql(enum journal_kind kind)
{
	return statements[kind].sql;
}

struct merge
merge_new(enum journal_kind kind, struct journal_entry *const *entries,
    size_t n, int64_t ahead, double retry_window_s, double max_age_s)
{
	const struct statement *s = &statements[kind];
	struct merge m = {.sql = s->sql};

	for (; s->columns[m.n] != COLUMN_END; m.n++)
		m.param[m.n] = column_array(entries, n, ahead,
		    s->columns[m.n]);
	if (s->has_limits) {
		m.param[m.n++] = mem_printf("%.17g", retry_window_s);
		m.param[m.n++] = mem_printf("%.17g", max_age_s);
	}
	return m;
}

void
merge_free(struct merge *m)
{
	for (int i = 0; i < m->n; i++)
		free(m->param[i]);
}
