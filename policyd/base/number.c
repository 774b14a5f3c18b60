#include "base/number.h"

/* Digits at the head of s; returns how many there are, 0 if it overflows. */
static size_t
digits(struct str s, int64_t *out)
{
	int64_t v = 0;
	size_t i;

	for (i = 0; i < s.n && s.p[i] >= '0' && s.p[i] <= '9'; i++)
		if (__builtin_mul_overflow(v, 10, &v) ||
		    __builtin_add_overflow(v, s.p[i] - '0', &v))
			return 0;
	*out = v;
	return i;
}

int
number_parse(struct str s, int64_t *out)
{
	int64_t v;

	if (s.n == 0 || digits(s, &v) != s.n)
		return -1;
	*out = v;
	return 0;
}

int
duration_parse(struct str s, double *out_s)
{
	static const struct {
		struct str name;
		double s;
	} units[] = {
	    {STR_INIT(""), 1},
	    {STR_INIT("ms"), 0.001},
	    {STR_INIT("s"), 1},
	    {STR_INIT("m"), 60},
	    {STR_INIT("h"), 3600},
	    {STR_INIT("d"), 86400},
	    {STR_INIT("w"), 604800},
	};
	int64_t v;
	size_t n = digits(s, &v);

	if (n == 0)
		return -1;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (str_eq(units[i].name, str_from(s, n))) {
			*out_s = (double)v * units[i].s;
			return 0;
		}
	return -1;
}

int
size_parse(struct str s, int64_t *out)
{
	int64_t v, unit = 1;
	size_t n = digits(s, &v);

	if (n == 0 || s.n - n > 1)
		return -1;
	if (s.n > n)
		switch (s.p[n]) {
		case 'k':
		case 'K':
			unit = 1024;
			break;
		case 'm':
		case 'M':
			unit = 1024 * 1024;
			break;
		case 'g':
		case 'G':
			unit = 1024 * 1024 * 1024;
			break;
		default:
			return -1;
		}
	if (__builtin_mul_overflow(v, unit, &v))
		return -1;
	*out = v;
	return 0;
}
