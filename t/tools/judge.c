/*
 * judge - what policyd's own code says of conditions and actions, line by line.
 *
 *	judge < LINES
 *
 * A line is `c` for a condition or `a` for the action of a rule, a tab, and the
 * text, in which \x{N} is the byte of that hexadecimal number.  Answered by a
 * line `yes`, or `no: WHY: PART`.  t/12-rules-schema.t holds the answers
 * against those of the schema.
 */

#include "tables/condition.h"
#include "tables/rule.h"

#include <stdio.h>
#include <stdlib.h>

/* Unescape in place; the new length. */
static size_t
unescape(char *s, size_t n)
{
	size_t to = 0;

	for (size_t i = 0; i < n; to++) {
		if (n - i > 4 && memcmp(s + i, "\\x{", 3) == 0) {
			char *end;

			s[to] = (char)strtoul(s + i + 3, &end, 16);
			i = (size_t)(end - s) + 1;
		} else {
			s[to] = s[i++];
		}
	}
	return to;
}

/* On one line, whatever stands in the part. */
static void
print_fault(const char *why, struct str part)
{
	printf("no: %s: ", why);
	for (size_t i = 0; i < part.n; i++)
		putchar(part.p[i] == '\n' ? ' ' : part.p[i]);
	putchar('\n');
}

int
main(void)
{
	char *line = NULL;
	size_t size = 0;
	ssize_t n;

	while ((n = getline(&line, &size, stdin)) > 2) {
		struct str text = {line + 2, 0}, part = {"", 0};
		const char *why;

		n -= line[n - 1] == '\n';
		text.n = unescape(line + 2, (size_t)n - 2);
		why = line[0] == 'c' ? condition_error(text, &part) :
				       rule_action_error(text, &part);
		if (why == NULL)
			puts("yes");
		else
			print_fault(why, part);
	}
	free(line);
	return 0;
}
