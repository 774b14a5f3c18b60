#include "tables/round.h"

#include "base/mem.h"
#include "tables/tables.h"

#include <stdlib.h>

struct round *
rounds_add(struct rounds *r, struct wants *wants)
{
	struct round *round;

	r->at = mem_realloc(r->at, (size_t)(r->count + 1) * sizeof(r->at[0]));
	r->count++;
	round = rounds_last(r);
	*round = (struct round){0};
	wants_take(wants, round->want);
	return round;
}

struct round *
rounds_last(const struct rounds *r)
{
	return &r->at[r->count - 1];
}

void
rounds_drop_keys(struct rounds *r, enum source s)
{
	for (int i = 0; i < r->count - 1; i++) {
		PQclear(r->at[i].rows[s]);
		r->at[i].rows[s] = NULL;
		want_clear(&r->at[i].want[s]);
	}
}

bool
rounds_whole(const struct rounds *r, enum source s)
{
	for (int i = 0; i < r->count; i++)
		if (r->at[i].want[s].whole)
			return true;
	return false;
}

bool
rounds_any_whole(const struct rounds *r)
{
	for (int i = 0; i < r->count; i++)
		if (is_any_whole(r->at[i].want))
			return true;
	return false;
}

uint64_t
rounds_changes(const struct rounds *r)
{
	uint64_t n = 0;

	for (int i = 0; i < r->count; i++)
		for (int s = 0; s < SOURCES; s++) {
			const struct want *w = &r->at[i].want[s];

			n += w->whole ? 1 : w->count;
		}
	return n;
}

/* A key of which no row came is gone. */
static int
apply_one(const struct round *round, enum source s, struct tables *t)
{
	const struct want *w = &round->want[s];
	int left_out;

	for (size_t k = 0; k < w->count; k++)
		source_forget(t, s, str_of(w->keys[k]));
	if (round->rows[s] == NULL)
		return 0;
	left_out = source_put(t, s, round->rows[s]);
	source_ready(t, s);
	return left_out;
}

int
rounds_apply(const struct rounds *r, struct tables *t)
{
	int left_out = 0;

	if (rounds_any_whole(r))
		tables_swap(t);
	for (int i = 0; i < r->count; i++)
		for (int s = 0; s < SOURCES; s++)
			left_out += apply_one(&r->at[i], (enum source)s, t);
	return left_out;
}

void
rounds_give_back(struct rounds *r, struct wants *wants)
{
	for (int i = 0; i < r->count; i++)
		for (int s = 0; s < SOURCES; s++)
			want_also(&wants->of[s], &r->at[i].want[s]);
	rounds_clear(r);
}

void
rounds_clear(struct rounds *r)
{
	for (int i = 0; i < r->count; i++)
		for (int s = 0; s < SOURCES; s++) {
			want_clear(&r->at[i].want[s]);
			PQclear(r->at[i].rows[s]);
		}
	free(r->at);
	*r = (struct rounds){0};
}
