#include "tables/want.h"

#include "base/mem.h"

#include <stdlib.h>

enum { KEYS_MAX = 10000 }; /* more: read it whole */

void
want_clear(struct want *w)
{
	for (size_t i = 0; i < w->count; i++)
		free(w->keys[i]);
	free(w->keys);
	*w = (struct want){0};
}

void
want_whole(struct want *w)
{
	want_clear(w);
	w->whole = true;
}

void
want_key(struct want *w, struct str key)
{
	if (w->whole)
		return;
	if (key.n == 0 || w->count == KEYS_MAX) {
		want_whole(w);
		return;
	}
	if ((w->count & (w->count - 1)) == 0)
		w->keys = mem_realloc(w->keys, (w->count > 0 ? w->count * 2 : 1) *
			sizeof(w->keys[0]));
	w->keys[w->count++] = mem_strndup(key.p, key.n);
}

void
want_also(struct want *w, const struct want *other)
{
	if (other->whole)
		want_whole(w);
	for (size_t i = 0; i < other->count; i++)
		want_key(w, str_of(other->keys[i]));
}

bool
is_wanted(const struct want *w)
{
	return w->whole || w->count > 0;
}
