#include "tables/source.h"

#include "tap.h"

static const struct {
	const char *text;
	int rc;
	long v;
} times[] = {
    {"1970-01-01 00:00:00+00", 0, 0},
    {"2026-11-22 00:00:00+00", 0, 1795305600},
    {"2026-11-22 00:00:00.123456+00", 0, 1795305600},
    {"2026-11-22", 0, 1795305600},
    {"1795305600", 0, 1795305600},
    {"infinity", 0, INT64_MAX},
    {"-infinity", 0, INT64_MIN},
    {"12026-11-22 00:00:00+00", 0, INT64_MAX},
    {"1795305600.500000", 0, 1795305600},
    {"1795305600.x", -1, 7},
    {"12345abc", -1, 7},
    {"20261122", 0, 20261122},
    {"2026-11-22 00:00:00+02", -1, 7},
    {"tomorrow", -1, 7},
    {"", -1, 7},
    {"2026-11", -1, 7},
    {"99 days", -1, 7},
};

int
main(void)
{
	for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
		int64_t v = 7;

		is_long(source_time(str_of(times[i].text), &v), times[i].rc,
		    times[i].text);
		is_long(v, times[i].v, times[i].text);
	}
	return tap_done();
}
