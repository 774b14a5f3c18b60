#include "policy/attempt.h"

bool
attempt_is_old(const struct attempt_limits *l, const struct attempt_row *row,
    int64_t now)
{
	if (row->attempts == 0)
		return true;
	if (row->passed_at == ATTEMPT_WAITS)
		return row->first_seen < now - l->retry_window;
	return row->last_seen < now - l->max_age;
}

enum attempt_verdict
attempt_judge(const struct attempt_limits *l, int64_t now, bool counted,
    struct attempt_row *row)
{
	if (attempt_is_old(l, row, now)) {
		*row = (struct attempt_row){now, now, ATTEMPT_WAITS, 1};
		return ATTEMPT_NEW;
	}
	/* A clock that was set back must not keep it waiting for longer. */
	if (row->first_seen > now)
		row->first_seen = now;
	row->last_seen = now;
	if (row->passed_at != ATTEMPT_WAITS)
		return ATTEMPT_KNOWN;
	row->attempts += counted;
	if (row->first_seen > now - l->delay)
		return ATTEMPT_EARLY;
	row->passed_at = now;
	return ATTEMPT_PASS;
}

int64_t
attempt_seconds_left(const struct attempt_limits *l, int64_t first_seen,
    int64_t now)
{
	int64_t left = first_seen + l->delay - now;

	return left <= 1000 ? 1 : (left + 999) / 1000;
}
