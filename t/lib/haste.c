/*
 * haste - a clock that goes twenty times as fast, so that a test of a minute
 * takes three seconds.
 *
 *	LD_PRELOAD=haste.so policyd ...
 *
 * All clocks go faster, from when the process began, and the loop sleeps for
 * less; what others do takes as long as ever.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/time.h>
#include <time.h>

enum { TIMES = 20, CLOCKS = 16 };

int
clock_gettime(clockid_t clock, struct timespec *t)
{
	static int (*real)(clockid_t, struct timespec *);
	static int64_t began[CLOCKS];
	int64_t ns;
	int rc;

	if (real == NULL)
		*(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
	rc = real(clock, t);
	if (rc == -1 || clock < 0 || clock >= CLOCKS)
		return rc;
	ns = (int64_t)t->tv_sec * 1000000000 + t->tv_nsec;
	if (began[clock] == 0)
		began[clock] = ns;
	ns = began[clock] + (ns - began[clock]) * TIMES;
	t->tv_sec = ns / 1000000000;
	t->tv_nsec = ns % 1000000000;
	return 0;
}

int
gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
	struct timespec t;

	(void)zone;
	clock_gettime(CLOCK_REALTIME, &t);
	*tv = (struct timeval){t.tv_sec, t.tv_nsec / 1000};
	return 0;
}

int
epoll_wait(int fd, struct epoll_event *events, int max, int timeout)
{
	static int (*real)(int, struct epoll_event *, int, int);

	if (real == NULL)
		*(void **)&real = dlsym(RTLD_NEXT, "epoll_wait");
	return real(fd, events, max,
	    timeout > 0 ? (timeout + TIMES - 1) / TIMES : timeout);
}
