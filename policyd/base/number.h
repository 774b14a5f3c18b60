#ifndef POLICYD_NUMBER_H
#define POLICYD_NUMBER_H

/*
 * number - text to numbers, durations and sizes.
 *
 * Floor 0.  All of the text must be the number: no blanks, no sign, nothing
 * after it.  Each returns 0, or -1 and leaves *out alone, also when the value
 * does not fit.
 */

#include "base/str.h"

#include <stdint.h>

int number_parse(struct str s, int64_t *out);

/* `250ms`, `5s`, `1m`, `2h`, `35d`, `2w`; a bare number is seconds. */
int duration_parse(struct str s, double *out_s);

/* `4096`, `64k`, `20M`, `1G` (powers of 1024; letter case is ignored). */
int size_parse(struct str s, int64_t *out);

#endif
