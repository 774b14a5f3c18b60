#include "tables/strtab.h"

#include "base/hash.h"

#include "tap.h"

#include <stdlib.h>

/* A table and a plain array that is told the same, for some thousand steps. */
enum { KEYS = 5000, STEPS = 200000 };

static int model[KEYS]; /* length of the value, or -1 */

static struct str
key_of(int i, char buf[32])
{
	return (struct str){buf, (size_t)sprintf(buf, "key%d@example", i)};
}

static bool
is_as_expected(const struct strtab *t, int i)
{
	char buf[32];
	struct str v;
	bool there = strtab_get(t, key_of(i, buf), &v);

	if (!there || model[i] == -1)
		return there == (model[i] != -1);
	if (v.n != (size_t)model[i])
		return false;
	for (size_t j = 0; j < v.n; j++)
		if (v.p[j] != (char)('a' + i % 26))
			return false;
	return true;
}

static void
step(struct strtab *t, int i, long *bad)
{
	char buf[32], value[300];
	struct str key = key_of(i, buf);
	bool was = model[i] != -1;

	if (drand48() < 0.3) {
		*bad += strtab_delete(t, key) != was;
		model[i] = -1;
		return;
	}
	model[i] = (int)(drand48() * 300);
	memset(value, 'a' + i % 26, sizeof(value));
	*bad += strtab_set(t, key,
		    (struct str){value, (size_t)model[i]}) == was;
}

static void
against_model(void)
{
	struct strtab *t = strtab_new();
	long bad = 0, count = 0, walked = 0;
	uint64_t cursor = 0;
	struct str key, value;

	for (int i = 0; i < KEYS; i++)
		model[i] = -1;
	for (int n = 0; n < STEPS; n++) {
		int i = (int)(drand48() * KEYS);

		step(t, i, &bad);
		bad += !is_as_expected(t, i);
		bad += !is_as_expected(t, (int)(drand48() * KEYS));
	}
	for (int i = 0; i < KEYS; i++) {
		bad += !is_as_expected(t, i);
		count += model[i] != -1;
	}
	while (strtab_next(t, &cursor, &key, &value))
		walked++;
	is_long(bad, 0, "200000 changes, as a plain array has them");
	is_long(strtab_count(t), count, "the count is right");
	is_long(walked, count, "a walk sees each once");
	ok(strtab_waste(t) > 0, "waste is accounted for");
	strtab_free(t);
}

static void
large_values(void)
{
	static const size_t sizes[] = {0, 1, 127, 128, 16384, 1 << 20,
	    (1 << 20) + 1, 5 << 20};
	struct strtab *t = strtab_new();
	char *value = malloc(5 << 20);
	long bad = 0;

	memset(value, 'v', 5 << 20);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		char key = (char)('a' + i);

		strtab_set(t, (struct str){&key, 1},
		    (struct str){value, sizes[i]});
	}
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		char key = (char)('a' + i);
		struct str v;

		bad += !strtab_get(t, (struct str){&key, 1}, &v) ||
		    v.n != sizes[i] || memcmp(v.p, value, v.n) != 0;
	}
	is_long(bad, 0, "values of up to 5 MiB");
	free(value);
	strtab_free(t);
}

/* The mission's figure: a million addresses, at most 48 bytes each. */
static void
million(void)
{
	enum { ROWS = 1000000 };
	struct strtab *t = strtab_new();
	char flags = 1;

	for (int i = 0; i < ROWS; i++) {
		char key[32];
		size_t n = (size_t)sprintf(key, "\1\1\1\1user%07d", i);

		strtab_set(t, (struct str){key, n}, (struct str){&flags, 1});
	}
	is_long(strtab_count(t), ROWS, "a million records");
	ok(strtab_bytes(t) <= 48UL * ROWS, "%.1f bytes each, at most 48",
	    (double)strtab_bytes(t) / ROWS);
	strtab_free(t);
}

int
main(void)
{
	hash_init();
	srand48(1);
	against_model();
	large_values();
	million();
	return tap_done();
}
