#include "db/array.h"

#include "base/mem.h"
#include "base/str.h"

char *
db_array(char *const *items, size_t count, bool lower)
{
	size_t n = sizeof("{}");
	char *array, *p;

	/* Every byte may need a backslash; then two quotes and a comma. */
	for (size_t i = 0; i < count; i++)
		n += 3 + 2 * strlen(items[i]);
	p = array = mem_alloc(n);
	*p++ = '{';
	for (size_t i = 0; i < count; i++) {
		if (i > 0)
			*p++ = ',';
		*p++ = '"';
		for (const char *c = items[i]; *c != '\0'; c++) {
			if (*c == '"' || *c == '\\')
				*p++ = '\\';
			*p++ = lower ? ascii_lower(*c) : *c;
		}
		*p++ = '"';
	}
	*p++ = '}';
	*p = '\0';
	return array;
}
