#include "tables/want.h"

#include "base/mem.h"
#include "mail/address.h"

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

bool
is_any_whole(const struct want of[SOURCES])
{
	for (int s = 0; s < SOURCES; s++)
		if (of[s].whole)
			return true;
	return false;
}

void
wants_clear(struct wants *w)
{
	for (int s = 0; s < SOURCES; s++)
		want_clear(&w->of[s]);
}

void
wants_whole(struct wants *w)
{
	for (int s = 0; s < SOURCES; s++)
		want_whole(&w->of[s]);
}

void
wants_release(struct wants *w)
{
	memset(w->held, 0, sizeof(w->held));
}

bool
wants_any(const struct wants *w)
{
	for (int s = 0; s < SOURCES; s++)
		if (is_wanted(&w->of[s]) && !w->held[s])
			return true;
	return false;
}

void
wants_take(struct wants *w, struct want out[SOURCES])
{
	for (int s = 0; s < SOURCES; s++) {
		out[s] = (struct want){0};
		if (w->held[s])
			continue;
		out[s] = w->of[s];
		w->of[s] = (struct want){0};
	}
}

/*
 * A row may stand there with its domain in the other spelling, too: of the two
 * that are one to us, one may be gone and the other not.
 */
static void
want_spellings(struct want *w, struct str key)
{
	char buf[LOCAL_MAX_BYTES + DOMAIN_MAX_BYTES + 2];
	struct str other;

	want_key(w, key);
	if (key.n > 0 && address_respell(key, buf, sizeof(buf), &other))
		want_key(w, other);
}

void
wants_hear(struct wants *w, const struct config *config, const char *payload)
{
	struct str table = str_of(payload), key = STR("");
	const char *colon = strchr(payload, ':');
	enum source s;

	if (colon != NULL) {
		table.n = (size_t)(colon - payload);
		key = str_of(colon + 1);
	}
	if (table.n == 0) {
		wants_whole(w);
		wants_release(w);
		return;
	}
	s = source_named(config, table);
	if (s == SOURCES || !source_has_key(s, key))
		return;
	/* Who locked it may have been the one who changed it. */
	w->held[s] = false;
	if (source_keyed_query(config, s) == NULL)
		key = STR("");
	want_spellings(&w->of[s], key);
}
