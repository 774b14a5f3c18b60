#include "base/mem.h"
#include "ctl/ctl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BOOLOID = 16, GAP = 2 };

/* Columns that the text takes on a terminal, as far as UTF-8 says. */
static size_t
width(const char *s)
{
	size_t n = 0;

	for (; *s != '\0'; s++)
		if (((unsigned char)*s & 0xc0) != 0x80)
			n++;
	return n;
}

static const char *
cell(const PGresult *result, int row, int column)
{
	const char *value = PQgetvalue(result, row, column);

	if (PQgetisnull(result, row, column))
		return "-";
	if (PQftype(result, column) == BOOLOID)
		return value[0] == 't' ? "yes" : "no";
	return value;
}

/* The last cell of a line is not filled up: nothing stands after it. */
static void
put(const char *text, size_t fill, bool last)
{
	size_t n = width(text);

	fputs(text, stdout);
	if (last)
		putchar('\n');
	else
		printf("%*s", (int)(fill - n + GAP), "");
}

void
print_columns(const PGresult *result, int rows)
{
	int columns = PQnfields(result);
	size_t *fill = mem_alloc((size_t)columns * sizeof(*fill));

	for (int c = 0; c < columns; c++) {
		fill[c] = width(PQfname(result, c));
		for (int r = 0; r < rows; r++) {
			size_t n = width(cell(result, r, c));

			if (n > fill[c])
				fill[c] = n;
		}
	}
	for (int c = 0; c < columns; c++)
		put(PQfname(result, c), fill[c], c == columns - 1);
	for (int r = 0; r < rows; r++)
		for (int c = 0; c < columns; c++)
			put(cell(result, r, c), fill[c], c == columns - 1);
	free(fill);
}

void
print_json(const PGresult *result, int rows)
{
	putchar('[');
	for (int r = 0; r < rows; r++)
		printf("%s\n%s", r > 0 ? "," : "", PQgetvalue(result, r, 0));
	puts("\n]");
}
