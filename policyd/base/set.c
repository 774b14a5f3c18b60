#include "base/set.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_SLOTS = 8, KEPT_SLOTS = 64 };

/* 0 marks an empty slot. */
static uint64_t
nonzero(uint64_t h)
{
	return h != 0 ? h : 1;
}

static uint64_t *
probe(const struct set *s, uint64_t h)
{
	uint32_t i = (uint32_t)h & (s->slots - 1);

	while (s->slot[i] != 0 && s->slot[i] != h)
		i = (i + 1) & (s->slots - 1);
	return &s->slot[i];
}

bool
set_has(const struct set *s, uint64_t h)
{
	if (s->slots == 0)
		return s->count == 1 && s->one == nonzero(h);
	return *probe(s, nonzero(h)) != 0;
}

static void
grow(struct set *s)
{
	struct set old = *s;

	s->slots = old.slots == 0 ? FIRST_SLOTS : old.slots * 2;
	s->slot = mem_zalloc(s->slots * sizeof(s->slot[0]));
	for (uint32_t i = 0; i < old.slots; i++)
		if (old.slot[i] != 0)
			*probe(s, old.slot[i]) = old.slot[i];
	if (old.slots == 0 && old.count == 1)
		*probe(s, old.one) = old.one;
	free(old.slot);
}

bool
set_add(struct set *s, uint64_t h)
{
	if (set_has(s, h))
		return false;
	h = nonzero(h);
	if (s->slots == 0 && s->count == 0) {
		s->one = h;
		s->count = 1;
		return true;
	}
	if ((s->count + 1) * 2 > s->slots)
		grow(s);
	*probe(s, h) = h;
	s->count++;
	return true;
}

void
set_clear(struct set *s)
{
	if (s->count == 0)
		return;
	if (s->slots > KEPT_SLOTS) {
		set_free(s);
		return;
	}
	if (s->slots > 0)
		memset(s->slot, 0, s->slots * sizeof(s->slot[0]));
	s->count = 0;
}

void
set_free(struct set *s)
{
	free(s->slot);
	*s = (struct set){0};
}
