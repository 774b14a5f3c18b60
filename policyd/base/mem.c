#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

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
	return mem_must(malloc(size > 0 ? size : 1));
}

void *
mem_zalloc(size_t size)
{
	return mem_must(calloc(1, size > 0 ? size : 1));
}

void *
mem_realloc(void *p, size_t size)
{
	return mem_must(realloc(p, size > 0 ? size : 1));
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

	va_start(ap, fmt);
	n = vasprintf(&p, fmt, ap);
	va_end(ap);
	return mem_must(n == -1 ? NULL : p);
}
