#include "policy/known.h"

#include "base/hash.h"

#include "tap.h"

#include <stdlib.h>

static uint64_t
key(const char *kind, uint64_t n)
{
	return hash_mix(hash(kind, 1), hash(&n, sizeof(n)));
}

static bool
is_there(const struct known *k, uint64_t h, enum known_kind kind, int64_t time)
{
	struct known_entry e = known_find(k, h);

	return e.kind == kind && e.time == time;
}

static void
test_entries(void)
{
	static const int64_t times[] = {0, 1, -1, 1795316427000, -1795316427000,
	    KNOWN_FOREVER, -KNOWN_FOREVER};
	struct known *k = known_new(1000, 0);

	is_long(known_find(k, 1).kind, KNOWN_NOTHING, "nothing at first");
	for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++)
		for (enum known_kind kind = KNOWN_WAITING;
		     kind <= KNOWN_CHANGED; kind++) {
			known_put(k, 7, kind, times[i], known_epoch(k));
			ok(is_there(k, 7, kind, times[i]), "kind %d at %lld",
			    (int)kind, (long long)times[i]);
		}
	is_long((long)known_count(k), 1, "one entry");
	known_put(k, 0, KNOWN_PASSED, 5, known_epoch(k));
	ok(is_there(k, 0, KNOWN_PASSED, 5), "a hash that is 0");
	known_drop(k, 7);
	known_drop(k, 8);
	is_long(known_find(k, 7).kind, KNOWN_NOTHING, "dropped");
	is_long((long)known_count(k), 1, "one is left");
	known_free(k);
}

static void
test_doubt(void)
{
	struct known *k = known_new(1000, 0);
	uint32_t before = known_epoch(k);

	known_put(k, 1, KNOWN_PASSED, 5, known_epoch(k));
	ok(known_find(k, 1).sure, "sure");
	known_doubt(k);
	ok(!known_find(k, 1).sure, "no longer");
	ok(is_there(k, 1, KNOWN_PASSED, 5), "but there");
	known_put(k, 2, KNOWN_PASSED, 5, before);
	ok(!known_find(k, 2).sure, "an answer to an older question");
	known_put(k, 1, KNOWN_PASSED, 6, known_epoch(k));
	ok(known_find(k, 1).sure, "asked anew: sure");
	for (int i = 0; i < 100000; i++) {
		known_doubt(k);
		if (known_find(k, 1).sure)
			break;
	}
	ok(!known_find(k, 1).sure, "however often it is doubted");
	known_free(k);
}

static void
test_bounds(void)
{
	enum { ENTRIES = 20000 };
	struct known *k = known_new(0, 0);
	long kept = 0;

	known_put(k, 1, KNOWN_PASSED, 5, 0);
	is_long(known_find(k, 1).kind, KNOWN_NOTHING, "no room, no entry");
	known_drop(k, 1);
	known_doubt(k);
	is_long((long)known_count(k), 0, "none");
	known_free(k);

	k = known_new(ENTRIES, 0);
	for (uint64_t i = 0; i < ENTRIES; i++)
		known_put(k, key("p", i), KNOWN_PASSED, (int64_t)i, 0);
	for (uint64_t i = 0; i < ENTRIES; i++)
		kept += known_find(k, key("p", i)).kind == KNOWN_PASSED;
	ok(kept > ENTRIES * 85L / 100, "%ld of %d are kept", kept, ENTRIES);
	for (uint64_t i = 0; i < 10L * ENTRIES; i++)
		known_put(k, key("w", i), KNOWN_WAITING,
		    (int64_t)(ENTRIES + i), 0);
	kept = 0;
	for (uint64_t i = 0; i < ENTRIES; i++)
		kept += known_find(k, key("p", i)).kind == KNOWN_PASSED;
	ok(kept > ENTRIES / 2, "a flood that waits leaves %ld", kept);
	ok(known_count(k) <= ENTRIES * 5UL / 4 + 4, "and there is a bound");
	for (uint64_t i = 0; i < 10; i++)
		ok(known_find(k, key("w", 10L * ENTRIES - 1 - i)).kind ==
			KNOWN_WAITING, "the newest is there");
	known_free(k);
}

int
main(void)
{
	hash_init();
	test_entries();
	test_doubt();
	test_bounds();
	known_free(NULL);
	return tap_done();
}
