#ifndef POLICYD_GLOB_H
#define POLICYD_GLOB_H

/*
 * glob - patterns such as `*.example.org` against a whole text.
 *
 * Floor 1: pure, and nothing is allocated.  `*` is any run, `?` one character,
 * `[abc]`, `[a-z]` and `[!abc]` one of a set or none of it, `\x` the character
 * x.  In a set a `]` right after `[` or `[!`, a `-` at either end, and all of
 * `\ * ? [` stand for themselves.  A character is one of UTF-8, and a byte that
 * is none is one of its own.  ASCII letter case is ignored.
 */

#include "base/str.h"

/* NULL, or what is wrong with the pattern. */
const char *glob_error(struct str pattern);

/*
 * Takes at most as many steps as pattern and text have characters, multiplied.
 * A pattern that is wrong matches nothing past the point where it is.
 */
bool glob_match(struct str pattern, struct str text);

#endif
