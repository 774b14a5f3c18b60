#ifndef POLICYD_CLOCK_H
#define POLICYD_CLOCK_H

/*
 * clock - the three clocks, and what each is for.
 *
 * Floor 0.  How long something takes, in seconds; what time it is for us, in
 * milliseconds, by a clock that nobody sets and that goes on while the machine
 * sleeps; and what time it is for others.
 */

#include <stdint.h>
#include <time.h>

static inline double
clock_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static inline int64_t
clock_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Milliseconds since 1970. */
static inline int64_t
clock_since_1970(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

#endif
