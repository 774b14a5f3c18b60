#include "base/number.h"

#include "tap.h"

static const struct {
	const char *text;
	double s; /* -1: no duration */
} durations[] = {
    {"0", 0},     {"5", 5},	 {"250ms", 0.25}, {"5s", 5},
    {"1m", 60},   {"2h", 7200},	 {"35d", 3024000}, {"2w", 1209600},
    {"", -1},     {"s", -1},	 {"5 s", -1},	  {"-5s", -1},
    {"5x", -1},   {"5ss", -1},	 {"1.5s", -1},	  {"99999999999999999999s", -1},
};

static const struct {
	const char *text;
	long v; /* -1: no size */
} sizes[] = {
    {"0", 0},	 {"4096", 4096}, {"64k", 65536}, {"64K", 65536},
    {"2M", 2 << 20}, {"1G", 1 << 30}, {"", -1},	 {"k", -1},
    {"1kk", -1}, {"1T", -1},	 {"-1", -1},	 {"9223372036854775807G", -1},
};

int
main(void)
{
	for (size_t i = 0; i < sizeof(durations) / sizeof(durations[0]); i++) {
		double s = -1;
		int rc = duration_parse(str_of(durations[i].text), &s);
		double diff = s - durations[i].s;

		ok((rc == 0) == (durations[i].s >= 0) && diff < 1e-9 &&
			diff > -1e-9,
		    "duration '%s'", durations[i].text);
	}
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		int64_t v = -1;

		size_parse(str_of(sizes[i].text), &v);
		is_long(v, sizes[i].v, sizes[i].text);
	}
	return tap_done();
}
