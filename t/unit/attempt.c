#include "policy/attempt.h"

#include "tap.h"

/* Delay 60 s, window a day, age 35 days; now is 0, so that times are ages. */
enum { S = 1000 };
#define DAY (INT64_C(86400) * S)
#define W ATTEMPT_WAITS

static const struct attempt_limits limits = {60 * S, DAY, 35 * DAY};

static const struct {
	const char *name;
	struct attempt_row row;
	bool counted;
	enum attempt_verdict verdict;
	struct attempt_row after;
} cases[] = {
    {"never seen", {0, 0, 0, 0}, true, ATTEMPT_NEW, {0, 0, W, 1}},
    {"never seen, asked again", {0, 0, 0, 0}, false, ATTEMPT_NEW,
	{0, 0, W, 1}},
    {"at once", {0, 0, W, 1}, true, ATTEMPT_EARLY, {0, 0, W, 2}},
    {"at once, the same attempt", {0, 0, W, 1}, false, ATTEMPT_EARLY,
	{0, 0, W, 1}},
    {"a moment too early", {-60 * S + 1, -5, W, 3}, true, ATTEMPT_EARLY,
	{-60 * S + 1, 0, W, 4}},
    {"in time to the millisecond", {-60 * S, -5, W, 3}, true, ATTEMPT_PASS,
	{-60 * S, 0, 0, 4}},
    {"at the end of the window", {-DAY, -5, W, 1}, true, ATTEMPT_PASS,
	{-DAY, 0, 0, 2}},
    {"after it", {-DAY - 1, -5, W, 7}, true, ATTEMPT_NEW, {0, 0, W, 1}},
    {"long after it", {-400 * DAY, -5, W, 7}, false, ATTEMPT_NEW,
	{0, 0, W, 1}},
    {"passed before", {-9 * DAY, -DAY, -8 * DAY, 2}, true, ATTEMPT_KNOWN,
	{-9 * DAY, 0, -8 * DAY, 2}},
    {"passed, used at the end of its age", {-90 * DAY, -35 * DAY, -80 * DAY, 2},
	true, ATTEMPT_KNOWN, {-90 * DAY, 0, -80 * DAY, 2}},
    {"passed, unused for longer", {-90 * DAY, -35 * DAY - 1, -80 * DAY, 2},
	true, ATTEMPT_NEW, {0, 0, W, 1}},
    {"passed a moment ago", {-60 * S, 0, 0, 2}, true, ATTEMPT_KNOWN,
	{-60 * S, 0, 0, 2}},
    {"the clock was set back", {3600 * S, 3600 * S, W, 1}, true, ATTEMPT_EARLY,
	{0, 0, W, 2}},
    {"passed, the clock was set back", {3600 * S, 7200 * S, 7200 * S, 2}, true,
	ATTEMPT_KNOWN, {0, 0, 7200 * S, 2}},
    {"for good", {-90 * DAY, 400 * DAY, -80 * DAY, 2}, true, ATTEMPT_KNOWN,
	{-90 * DAY, 0, -80 * DAY, 2}},
};

static const struct {
	int64_t first_seen, left;
} lefts[] = {{0, 60}, {-1, 60}, {-1 * S, 59}, {-1001, 59}, {-59 * S, 1},
    {-59999, 1}, {-60 * S, 1}, {-90 * S, 1}};

int
main(void)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct attempt_row row = cases[i].row;
		enum attempt_verdict verdict =
		    attempt_judge(&limits, 0, cases[i].counted, &row);

		ok(verdict == cases[i].verdict &&
			row.first_seen == cases[i].after.first_seen &&
			row.last_seen == cases[i].after.last_seen &&
			row.passed_at == cases[i].after.passed_at &&
			row.attempts == cases[i].after.attempts,
		    "%s", cases[i].name);
	}
	for (size_t i = 0; i < sizeof(lefts) / sizeof(lefts[0]); i++)
		is_long(attempt_seconds_left(&limits, lefts[i].first_seen, 0),
		    lefts[i].left, "seconds left");
	return tap_done();
}
