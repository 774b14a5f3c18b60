#include "policy/known.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

enum {
	WAYS = 4, /* entries of 16 bytes in a line of 64 */
	WAITING_MAX = WAYS / 2,
	EPOCH_BITS = 14,
	KIND_BITS = 3,
	EPOCHS = 1 << EPOCH_BITS,
};

/* One word: time, epoch, kind; zero is an empty place. */
struct entry {
	uint64_t key;
	uint64_t word;
};

struct line {
	struct entry way[WAYS];
};

__extension__ typedef unsigned __int128 uint128;

struct known {
	struct line *line;
	void *memory; /* of the lines, which begin where one of the CPU's does */
	size_t lines;
	size_t count; /* entries in use */
	uint32_t epoch; /* never a multiple of EPOCHS: that is always doubted */
	uint64_t version;
};

static uint64_t
pack(enum known_kind kind, int64_t time, uint32_t epoch)
{
	return (uint64_t)time << (EPOCH_BITS + KIND_BITS) |
	    (uint64_t)(epoch % EPOCHS) << KIND_BITS | (uint64_t)kind;
}

static enum known_kind
kind_of(const struct entry *e)
{
	return (enum known_kind)(e->word & ((1U << KIND_BITS) - 1));
}

static int64_t
time_of(const struct entry *e)
{
	return (int64_t)e->word >> (EPOCH_BITS + KIND_BITS);
}

static uint32_t
epoch_of(const struct entry *e)
{
	return (uint32_t)(e->word >> KIND_BITS) % EPOCHS;
}

static struct line *
line_of(const struct known *k, uint64_t key)
{
	/* The high half of the product: any number of lines will do. */
	return &k->line[(size_t)((uint128)key * k->lines >> 64)];
}

static struct entry *
find(const struct known *k, uint64_t key)
{
	struct line *l;

	if (k->lines == 0)
		return NULL;
	l = line_of(k, key);
	for (int i = 0; i < WAYS; i++)
		if (l->way[i].key == key && l->way[i].word != 0)
			return &l->way[i];
	return NULL;
}

static struct known_entry
read(const struct known *k, const struct entry *e)
{
	return (struct known_entry){kind_of(e),
	    epoch_of(e) == k->epoch % EPOCHS, time_of(e)};
}

struct known_entry
known_find(const struct known *k, uint64_t key)
{
	const struct entry *e = find(k, key);

	return e != NULL ? read(k, e) :
			   (struct known_entry){KNOWN_NOTHING, false, 0};
}

bool
known_next(const struct known *k, size_t *cursor, uint64_t *key,
    struct known_entry *out)
{
	while (*cursor < k->lines * WAYS) {
		const struct entry *e =
		    &k->line[*cursor / WAYS].way[*cursor % WAYS];

		++*cursor;
		if (e->word == 0)
			continue;
		*key = e->key;
		*out = read(k, e);
		return true;
	}
	return false;
}

uint64_t
known_version(const struct known *k)
{
	return k->version;
}

/* The one to forget for another of this kind; an empty one, where there is. */
static struct entry *
victim(struct line *l, enum known_kind kind)
{
	struct entry *waiting = NULL, *other = NULL;
	int n = 0;

	for (int i = 0; i < WAYS; i++) {
		struct entry *e = &l->way[i];
		struct entry **oldest;

		if (e->word == 0)
			return e;
		n += kind_of(e) == KNOWN_WAITING;
		oldest = kind_of(e) == KNOWN_WAITING ? &waiting : &other;
		if (*oldest == NULL || time_of(e) < time_of(*oldest))
			*oldest = e;
	}
	if (n > WAITING_MAX || (n == WAITING_MAX && kind == KNOWN_WAITING) ||
	    other == NULL)
		return waiting;
	return other;
}

void
known_put(struct known *k, uint64_t key, enum known_kind kind, int64_t time,
    uint32_t epoch)
{
	struct entry *e = find(k, key);

	if (k->lines == 0)
		return;
	if (e == NULL)
		e = victim(line_of(k, key), kind);
	k->count += e->word == 0;
	e->key = key;
	e->word = pack(kind, time, epoch);
	k->version++;
}

void
known_drop(struct known *k, uint64_t key)
{
	struct entry *e = find(k, key);

	if (e == NULL)
		return;
	e->word = 0;
	k->count--;
	k->version++;
}

uint32_t
known_epoch(const struct known *k)
{
	return k->epoch;
}

void
known_doubt(struct known *k)
{
	k->epoch++;
	if (k->epoch % EPOCHS != 0)
		return;
	/* An entry of so long ago would be sure again. */
	if (k->lines > 0)
		memset(k->line, 0, k->lines * sizeof(k->line[0]));
	k->count = 0;
	k->epoch++;
}

size_t
known_count(const struct known *k)
{
	return k->count;
}

struct known *
known_new(size_t entries, uint32_t epoch)
{
	struct known *k = mem_zalloc(sizeof(*k));
	size_t align = sizeof(struct line);

	k->epoch = epoch % EPOCHS != 0 ? epoch : epoch + 1;
	/* Hashes fill lines unevenly: a quarter more keeps nearly all. */
	k->lines = (entries + entries / 4 + WAYS - 1) / WAYS;
	if (k->lines == 0)
		return k;
	/* Zeroed by the kernel, so that it takes memory as it fills. */
	k->memory = mem_zalloc(k->lines * align + align);
	k->line = (struct line *)(((uintptr_t)k->memory + align - 1) / align *
	    align);
	return k;
}

void
known_free(struct known *k)
{
	if (k == NULL)
		return;
	free(k->memory);
	free(k);
}
