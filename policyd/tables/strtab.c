#include "tables/strtab.h"

#include "base/hash.h"
#include "base/mem.h"

#include <stdlib.h>
#include <sys/mman.h>

enum {
	SHARDS = 1024,
	CHUNK_BYTES = 2 << 20, /* the size of a huge page */
	UNIT = 4, /* a record starts at a multiple of it: 32 bits reach 16 GiB */
	CHUNK_UNITS = CHUNK_BYTES / UNIT,
	FIRST_SLOTS = 4,
	CHUNKS_MAX = UINT32_MAX / CHUNK_UNITS,
};

/*
 * An open-addressing table with linear probing.  A slot is a byte and four,
 * side by side so that both are in one cache line.  The tag is 0 for an empty
 * slot, else 8 bits of the hash: a probe that does not belong here is passed
 * over without a look at the record.  The rest is where that is, in units.
 */
enum { SLOT_BYTES = 5 };

struct shard {
	uint8_t *slot;
	uint32_t slots;
	uint32_t count;
};

struct strtab {
	struct shard shard[SHARDS];
	char **chunk; /* NULL where a large record goes on */
	uint32_t chunks;
	uint32_t used; /* units of the last chunk */
	size_t count;
	size_t waste;
	size_t index_bytes;
};

struct record {
	struct str key;
	struct str value;
	size_t bytes; /* in the chunk */
};

struct strtab *
strtab_new(void)
{
	return mem_zalloc(sizeof(struct strtab));
}

void
strtab_free(struct strtab *t)
{
	if (t == NULL)
		return;
	for (size_t i = 0; i < SHARDS; i++)
		free(t->shard[i].slot);
	for (uint32_t i = 0; i < t->chunks; i++)
		free(t->chunk[i]);
	free(t->chunk);
	free(t);
}

/* ---- records: varint of the key's and the value's length, both, padding ---- */

static size_t
varint_put(char *p, size_t v)
{
	size_t n = 0;

	for (; v >= 0x80; v >>= 7)
		p[n++] = (char)(v | 0x80);
	p[n++] = (char)v;
	return n;
}

static size_t
varint_get(const char *p, size_t *v)
{
	size_t n = 0;
	unsigned shift = 0;

	*v = 0;
	do {
		*v |= (size_t)((unsigned char)p[n] & 0x7f) << shift;
		shift += 7;
	} while ((unsigned char)p[n++] & 0x80);
	return n;
}

static char *
at_unit(const struct strtab *t, uint32_t unit)
{
	return t->chunk[unit / CHUNK_UNITS] +
	    (size_t)(unit % CHUNK_UNITS) * UNIT;
}

static size_t
round_up(size_t n)
{
	return (n + UNIT - 1) / UNIT * UNIT;
}

static struct record
record_at(const struct strtab *t, uint32_t unit)
{
	const char *p = at_unit(t, unit), *start = p;
	struct record r;

	p += varint_get(p, &r.key.n);
	p += varint_get(p, &r.value.n);
	r.key.p = p;
	r.value.p = p + r.key.n;
	r.bytes = round_up((size_t)(r.value.p - start) + r.value.n);
	return r;
}

/*
 * A lookup in a large table is a miss of the page tables' cache before it is
 * one of the data's: huge pages spare it that.  The first chunk of a table may
 * stay small.
 */
static char *
chunk_new(const struct strtab *t, size_t bytes)
{
	char *p = aligned_alloc(CHUNK_BYTES, bytes);

	if (p == NULL)
		return mem_alloc(bytes); /* which says so */
	madvise(p, bytes, t->chunks > 0 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return p;
}

/* The unit of a free run of that many bytes, at the end of what is in use. */
static uint32_t
room_for(struct strtab *t, size_t bytes)
{
	uint32_t units = (uint32_t)(bytes / UNIT), at;

	if (t->chunks == 0 || t->used + units > CHUNK_UNITS) {
		uint32_t n = (uint32_t)((bytes + CHUNK_BYTES - 1) / CHUNK_BYTES);

		if (n > CHUNKS_MAX - t->chunks)
			mem_alloc(PTRDIFF_MAX); /* out of reach: it ends */
		t->chunk = mem_realloc(t->chunk,
		    (t->chunks + n) * sizeof(t->chunk[0]));
		t->chunk[t->chunks] = chunk_new(t, (size_t)n * CHUNK_BYTES);
		for (uint32_t i = 1; i < n; i++)
			t->chunk[t->chunks + i] = NULL;
		at = t->chunks * CHUNK_UNITS;
		t->chunks += n;
		t->used = n > 1 ? CHUNK_UNITS : units;
		return at;
	}
	at = (t->chunks - 1) * CHUNK_UNITS + t->used;
	t->used += units;
	return at;
}

/* The last record goes back, if it is that one: a growing value stays cheap. */
static void
give_back(struct strtab *t, uint32_t unit, size_t bytes)
{
	uint32_t end = (t->chunks - 1) * CHUNK_UNITS + t->used;

	if (bytes <= CHUNK_BYTES && unit + bytes / UNIT == end)
		t->used -= (uint32_t)(bytes / UNIT);
	else
		t->waste += bytes;
}

static uint32_t
record_write(struct strtab *t, struct str key, struct str value)
{
	char head[20];
	size_t n = varint_put(head, key.n);
	uint32_t unit;
	char *p;

	n += varint_put(head + n, value.n);
	unit = room_for(t, round_up(n + key.n + value.n));
	p = at_unit(t, unit);
	memcpy(p, head, n);
	memcpy(p + n, key.p, key.n);
	if (value.n > 0)
		memcpy(p + n + key.n, value.p, value.n);
	return unit;
}

/* ---- the index ---- */

static const struct shard *
shard_of(const struct strtab *t, uint64_t h)
{
	return &t->shard[h >> 54];
}

static uint8_t
tag_of(uint64_t h)
{
	return (uint8_t)(1 + (h >> 46) % 255);
}

static uint32_t
home_of(const struct shard *s, uint64_t h)
{
	return (uint32_t)((h & 0xffffffff) * s->slots >> 32);
}

static uint8_t
slot_tag(const struct shard *s, uint32_t i)
{
	return s->slot[(size_t)i * SLOT_BYTES];
}

static uint32_t
slot_unit(const struct shard *s, uint32_t i)
{
	uint32_t unit;

	memcpy(&unit, s->slot + (size_t)i * SLOT_BYTES + 1, sizeof(unit));
	return unit;
}

static void
slot_set(struct shard *s, uint32_t i, uint8_t tag, uint32_t unit)
{
	s->slot[(size_t)i * SLOT_BYTES] = tag;
	memcpy(s->slot + (size_t)i * SLOT_BYTES + 1, &unit, sizeof(unit));
}

static uint32_t
after(const struct shard *s, uint32_t i)
{
	return i + 1 == s->slots ? 0 : i + 1;
}

/* The slot of the key, or the empty one where it would go. */
static uint32_t
probe(const struct strtab *t, const struct shard *s, uint64_t h,
    struct str key, struct record *found)
{
	uint8_t tag = tag_of(h), there;
	uint32_t i;

	for (i = home_of(s, h); (there = slot_tag(s, i)) != 0; i = after(s, i)) {
		if (there != tag)
			continue;
		*found = record_at(t, slot_unit(s, i));
		if (str_eq(found->key, key))
			break;
	}
	return i;
}

static void
shard_grow(struct strtab *t, struct shard *s)
{
	struct shard old = *s;

	s->slots = old.slots == 0 ? FIRST_SLOTS : old.slots + old.slots / 2;
	s->slot = mem_zalloc((size_t)s->slots * SLOT_BYTES);
	for (uint32_t i = 0; i < old.slots; i++) {
		struct str key;
		uint64_t h;
		uint32_t to;

		if (slot_tag(&old, i) == 0)
			continue;
		key = record_at(t, slot_unit(&old, i)).key;
		h = hash(key.p, key.n);
		for (to = home_of(s, h); slot_tag(s, to) != 0;)
			to = after(s, to);
		slot_set(s, to, slot_tag(&old, i), slot_unit(&old, i));
	}
	t->index_bytes += (size_t)(s->slots - old.slots) * SLOT_BYTES;
	free(old.slot);
}

bool
strtab_get(const struct strtab *t, struct str key, struct str *value)
{
	const struct shard *s;
	struct record r = {0};
	uint64_t h;

	if (t->count == 0)
		return false;
	h = hash(key.p, key.n);
	s = shard_of(t, h);
	if (s->count == 0 || slot_tag(s, probe(t, s, h, key, &r)) == 0)
		return false;
	*value = r.value;
	return true;
}

bool
strtab_set(struct strtab *t, struct str key, struct str value)
{
	uint64_t h = hash(key.p, key.n);
	struct shard *s = &t->shard[h >> 54];
	struct record old = {0};
	char *p;
	uint32_t i;

	/* At most four slots in five are taken, so that probes stay short. */
	if ((s->count + 1) * 5ULL > s->slots * 4ULL)
		shard_grow(t, s);
	i = probe(t, s, h, key, &old);
	if (slot_tag(s, i) == 0) {
		slot_set(s, i, tag_of(h), record_write(t, key, value));
		s->count++;
		t->count++;
		return true;
	}
	if (old.value.n == value.n) {
		p = at_unit(t, slot_unit(s, i));
		if (value.n > 0)
			memcpy(p + (old.value.p - p), value.p, value.n);
	} else {
		give_back(t, slot_unit(s, i), old.bytes);
		slot_set(s, i, tag_of(h), record_write(t, key, value));
	}
	return false;
}

/*
 * Close the gap at i: what follows in the same run moves back, where its home
 * lets it, so that no marks of the deleted are needed.
 */
static void
close_gap(struct strtab *t, struct shard *s, uint32_t i)
{
	for (uint32_t j = after(s, i); slot_tag(s, j) != 0; j = after(s, j)) {
		struct str key = record_at(t, slot_unit(s, j)).key;
		uint32_t home = home_of(s, hash(key.p, key.n));
		bool stays = i < j ? home > i && home <= j :
				     home > i || home <= j;

		if (stays)
			continue;
		slot_set(s, i, slot_tag(s, j), slot_unit(s, j));
		i = j;
	}
	slot_set(s, i, 0, 0);
}

bool
strtab_delete(struct strtab *t, struct str key)
{
	uint64_t h = hash(key.p, key.n);
	struct shard *s = &t->shard[h >> 54];
	struct record r = {0};
	uint32_t i;

	if (s->count == 0)
		return false;
	i = probe(t, s, h, key, &r);
	if (slot_tag(s, i) == 0)
		return false;
	t->waste += r.bytes;
	close_gap(t, s, i);
	s->count--;
	t->count--;
	return true;
}

size_t
strtab_count(const struct strtab *t)
{
	return t->count;
}

size_t
strtab_waste(const struct strtab *t)
{
	return t->waste;
}

size_t
strtab_bytes(const struct strtab *t)
{
	return sizeof(*t) + (size_t)t->chunks * (CHUNK_BYTES + sizeof(char *)) +
	    t->index_bytes;
}

bool
strtab_next(const struct strtab *t, uint64_t *cursor, struct str *key,
    struct str *value)
{
	uint32_t shard = (uint32_t)(*cursor >> 32), i = (uint32_t)*cursor;

	for (; shard < SHARDS; shard++, i = 0)
		for (; i < t->shard[shard].slots; i++)
			if (slot_tag(&t->shard[shard], i) != 0) {
				struct record r = record_at(t,
				    slot_unit(&t->shard[shard], i));

				*key = r.key;
				*value = r.value;
				*cursor = (uint64_t)shard << 32 | (i + 1);
				return true;
			}
	return false;
}
