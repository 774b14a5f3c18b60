#ifndef T_TAP_H
#define T_TAP_H

/* tap - the whole harness of the unit tests: say ok, then tap_done(). */

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int tap_n, tap_bad;

__attribute__((format(printf, 2, 3))) static inline int
ok(int pass, const char *fmt, ...)
{
	va_list ap;

	printf("%sok %d - ", pass ? "" : "not ", ++tap_n);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	/* A child has none of it, and a crash loses none. */
	fflush(stdout);
	tap_bad += !pass;
	return pass;
}

#define is_str(got, want, name)                                            \
	do {                                                               \
		const char *g_ = (got), *w_ = (want);                      \
		if (!ok(strcmp(g_ != NULL ? g_ : "(null)",                 \
			w_ != NULL ? w_ : "(null)") == 0, "%s", (name)))   \
			printf("# %s:%d: got '%s', want '%s'\n", __FILE__, \
			    __LINE__, g_ != NULL ? g_ : "(null)",          \
			    w_ != NULL ? w_ : "(null)");                   \
	} while (0)

#define is_long(got, want, name)                                         \
	do {                                                             \
		long g_ = (long)(got), w_ = (long)(want);                \
		if (!ok(g_ == w_, "%s", (name)))                         \
			printf("# %s:%d: got %ld, want %ld\n", __FILE__, \
			    __LINE__, g_, w_);                           \
	} while (0)

static inline int
tap_done(void)
{
	printf("1..%d\n", tap_n);
	return tap_bad != 0;
}

#endif
