#include "policy/tally.h"

#include "tap.h"

int
main(void)
{
	enum { HOUR_MS = 3600 * 1000 };
	/* Two that share a place. */
	const uint64_t a = 7, b = 7 + (UINT64_C(1) << 40);
	struct tally *t = tally_new();

	is_long(tally_of(t, a, 5), 0, "none at first");
	for (int i = 0; i < 100; i++)
		tally_add(t, a, 10);
	is_long(tally_of(t, a, 10), 100, "counted");
	is_long(tally_of(t, b, 10), 0, "not for another");
	tally_add(t, b, 10);
	ok(tally_of(t, a, 10) >= 99, "which does not take its place");
	for (int i = 0; i < 500; i++)
		tally_add(t, b, 10);
	ok(tally_of(t, b, 10) > 100, "until it has begun more");
	is_long(tally_of(t, b, 10 + HOUR_MS), 0, "for an hour");
	tally_add(t, b, 10 + HOUR_MS);
	is_long(tally_of(t, b, 10 + HOUR_MS), 1, "then anew");
	tally_forget(t, a);
	is_long(tally_of(t, b, 10 + HOUR_MS), 1, "another is forgotten");
	tally_forget(t, b);
	is_long(tally_of(t, b, 10 + HOUR_MS), 0, "forgotten");
	tally_free(t);
	tally_free(NULL);
	return tap_done();
}
