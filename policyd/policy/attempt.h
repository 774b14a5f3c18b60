#ifndef POLICYD_ATTEMPT_H
#define POLICYD_ATTEMPT_H

/*
 * attempt - what one more attempt makes of a greylisted key: pure arithmetic.
 *
 * Floor 6.  The same as policyd.greylist_see does in SQL (t/71 holds one
 * against the other); here it is for what is judged in memory.  RFC 6647
 * section 4: a retry window with both ends, and an age.
 *
 * All times are in milliseconds of one clock, whichever that is.
 */

#include <stdbool.h>
#include <stdint.h>

/* passed_at of a key that waits. */
#define ATTEMPT_WAITS INT64_MIN

struct attempt_limits {
	int64_t delay;        /* earlier than this is too early */
	int64_t retry_window; /* later than this is a new first attempt */
	int64_t max_age;      /* what passed is good for, since its last use */
};

/* A key that has never been seen has attempts 0, and its times mean nothing. */
struct attempt_row {
	int64_t first_seen;
	int64_t last_seen;
	int64_t passed_at;
	int32_t attempts; /* until it passed */
};

enum attempt_verdict {
	ATTEMPT_NEW,   /* greylisted for the first time, or as if */
	ATTEMPT_EARLY, /* greylisted still */
	ATTEMPT_PASS,  /* by this attempt it passes */
	ATTEMPT_KNOWN, /* it has passed before */
};

/* Does the row count as if it were not there? */
bool attempt_is_old(const struct attempt_limits *l,
    const struct attempt_row *row, int64_t now);

/*
 * An attempt at now; the row becomes what it is afterwards.  counted is false
 * where the same attempt is asked about again.
 */
enum attempt_verdict attempt_judge(const struct attempt_limits *l, int64_t now,
    bool counted, struct attempt_row *row);

/* Whole seconds that a key still has to wait, at least 1. */
int64_t attempt_seconds_left(const struct attempt_limits *l, int64_t first_seen,
    int64_t now);

#endif
