/*
 * attempt - the arithmetic of greylisting, as policyd does it in memory.
 *
 * Reads lines `DELAY WINDOW AGE NOW COUNTED FIRST_SEEN LAST_SEEN PASSED_AT
 * ATTEMPTS`, whole numbers in any one unit, PASSED_AT `-` for a key that waits;
 * prints `VERDICT FIRST_SEEN LAST_SEEN PASSED_AT ATTEMPTS` for each.
 */

#include "policy/attempt.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t
number(char **rest)
{
	const char *word = strsep(rest, " \n");

	if (word == NULL)
		exit(2);
	return strcmp(word, "-") == 0 ? ATTEMPT_WAITS :
					strtoll(word, NULL, 10);
}

int
main(void)
{
	static const char *const words[] = {"new", "early", "pass", "known"};
	char *line = NULL;
	size_t size = 0;

	while (getline(&line, &size, stdin) > 0) {
		char *rest = line;
		struct attempt_limits l;
		struct attempt_row row;
		enum attempt_verdict verdict;
		int64_t now;
		bool counted;

		l.delay = number(&rest);
		l.retry_window = number(&rest);
		l.max_age = number(&rest);
		now = number(&rest);
		counted = number(&rest) != 0;
		row.first_seen = number(&rest);
		row.last_seen = number(&rest);
		row.passed_at = number(&rest);
		row.attempts = (int32_t)number(&rest);
		verdict = attempt_judge(&l, now, counted, &row);
		printf("%s %" PRId64 " %" PRId64 " ", words[verdict],
		    row.first_seen, row.last_seen);
		if (row.passed_at == ATTEMPT_WAITS)
			printf("- ");
		else
			printf("%" PRId64 " ", row.passed_at);
		printf("%d\n", (int)row.attempts);
	}
	free(line);
	return 0;
}
