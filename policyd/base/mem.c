#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

/* What a piece of a table takes, and all that is asked meanwhile. */
enum { RESERVE_BYTES = 8 << 20 };

/* Nothing is ever written there: it takes addresses, not memory. */
static void *reserve;

bool
mem_reserve(void)
{
	if (reserve == NULL)
		reserve = malloc(RESERVE_BYTES);
	return reserve != NULL;
}

/* Was there one? */
static bool
spend_reserve(void)
{
	bool was_there = reserve != NULL;

	free(reserve);
	reserve = NULL;
	return was_there;
}

void *
mem_try(void *p, size_t size)
{
	void *new = realloc(p, size);

	if (new == NULL && spend_reserve())
		new = realloc(p, size);
	return new;
}

void *
mem_spare(void *p, size_t size)
{
	return mem_reserve() ? realloc(p, size) : NULL;
}

void *
mem_must(void *p)
{
	static const char why[] = "<2>level=crit msg=\"out of memory\"\n";

	if (p != NULL)
		return p;
	if (write(STDERR_FILENO, why, sizeof(why) - 1) == -1)
		_exit(EX_OSERR);
	_exit(EX_OSERR);
}

void *
mem_alloc(size_t size)
{
	return mem_realloc(NULL, size);
}

void *
mem_zalloc(size_t size)
{
	void *p = calloc(1, size > 0 ? size : 1);

	if (p == NULL) {
		p = mem_alloc(size);
		memset(p, 0, size);
	}
	return p;
}

void *
mem_realloc(void *p, size_t size)
{
	return mem_must(mem_try(p, size > 0 ? size : 1));
}

char *
mem_strdup(const char *s)
{
	return mem_strndup(s, strlen(s));
}

char *
mem_strndup(const char *s, size_t n)
{
	char *p = mem_alloc(n + 1);

	if (n > 0) /* else s may be NULL */
		memcpy(p, s, n);
	p[n] = '\0';
	return p;
}

char *
mem_printf(const char *fmt, ...)
{
	char *p;
	va_list ap;
	int n;

	do {
		va_start(ap, fmt);
		n = vasprintf(&p, fmt, ap);
		va_end(ap);
	} while (n == -1 && spend_reserve());
	return mem_must(n == -1 ? NULL : p);
}
