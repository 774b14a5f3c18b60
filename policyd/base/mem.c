#include "base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

static void *
checked(void *p)
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
	return checked(malloc(size > 0 ? size : 1));
}

void *
mem_zalloc(size_t size)
{
	return checked(calloc(1, size > 0 ? size : 1));
}

void *
mem_realloc(void *p, size_t size)
{
	return checked(realloc(p, size > 0 ? size : 1));
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
