#include "base/log.h"

#include "tap.h"

/* A line a minute, wherever the clock jumps. */
static const struct {
	double now;
	int allowed;
	long suppressed;
} steps[] = {
    {1000, 1, 0},
    {1000, 0, 0},
    {1059.9, 0, 0},
    {1060, 1, 2},
    {1061, 0, 0},
    {500000, 1, 1},
    {500001, 0, 0},
    {2000, 1, 1}, /* set back */
    {2059, 0, 0},
    {1999, 1, 1},
    {2059, 1, 0},
};

int
main(void)
{
	struct log_limit limit = {0};

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		uint64_t suppressed = 0;
		char name[40];

		snprintf(name, sizeof(name), "at %.1f", steps[i].now);
		is_long(log_allowed(&limit, steps[i].now, &suppressed),
		    steps[i].allowed, name);
		is_long(suppressed, steps[i].suppressed, "suppressed before");
	}
	return tap_done();
}
