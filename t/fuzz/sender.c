#include "mail/sender.h"

#include "fuzz.h"

#include <stdlib.h>

/*
 * A sender, a newline, a recipient: what is folded is short, clean, in lower
 * case, no longer than it was, and a fixed point, with its recipient and
 * without one.
 */

static void
check(int good)
{
	if (!good)
		abort();
}

static void
check_text(struct str s)
{
	for (size_t i = 0, len; i < s.n; i += len) {
		len = utf8_printable_len(s.p + i, s.n - i);
		check(len > 0 && (s.p[i] < 'A' || s.p[i] > 'Z'));
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char buf[SENDER_MAX_BYTES + 1], again[SENDER_MAX_BYTES + 1];
	const uint8_t *end = n > 0 ? memchr(data, '\n', n) : NULL;
	struct str sender, recipient, once;
	char *a, *b;

	if (end == NULL)
		return 0;
	sender.n = (size_t)(end - data);
	recipient.n = n - sender.n - 1;
	/* Buffers of their own, so that a read past an end is seen. */
	sender.p = a = malloc(sender.n > 0 ? sender.n : 1);
	recipient.p = b = malloc(recipient.n > 0 ? recipient.n : 1);
	check(a != NULL && b != NULL);
	memcpy(a, data, sender.n);
	memcpy(b, end + 1, recipient.n);
	once = sender_fold(sender, recipient, buf);
	check(once.p == buf && once.n <= SENDER_MAX_BYTES);
	check(once.n <= sender.n && buf[once.n] == '\0');
	check((once.n == 0) == (sender.n == 0));
	check_text(once);
	check(str_eq(sender_fold(once, recipient, again), once));
	check(str_eq(sender_fold(once, STR(""), again), once));
	free(a);
	free(b);
	return 0;
}
