#include "policy/tally.h"

#include "base/mem.h"

#include <stdlib.h>

enum { PLACES = 16384, HOUR_MS = 3600 * 1000 };

struct place {
	uint64_t client;
	int64_t hour;
	uint32_t count;
};

struct tally {
	struct place place[PLACES];
};

uint32_t
tally_of(const struct tally *t, uint64_t client, int64_t now_ms)
{
	const struct place *p = &t->place[client % PLACES];

	return p->client == client && p->hour == now_ms / HOUR_MS ? p->count :
								    0;
}

void
tally_forget(struct tally *t, uint64_t client)
{
	struct place *p = &t->place[client % PLACES];

	if (p->client == client)
		p->count = 0;
}

void
tally_add(struct tally *t, uint64_t client, int64_t now_ms)
{
	struct place *p = &t->place[client % PLACES];

	if (p->hour != now_ms / HOUR_MS)
		*p = (struct place){client, now_ms / HOUR_MS, 0};
	if (p->client == client)
		p->count++;
	else if (p->count > 0)
		p->count--;
	else
		*p = (struct place){client, now_ms / HOUR_MS, 1};
}

struct tally *
tally_new(void)
{
	return mem_zalloc(sizeof(struct tally));
}

void
tally_free(struct tally *t)
{
	free(t);
}
