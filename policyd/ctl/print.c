#include "base/mem.h"
#include "ctl/ctl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BOOLOID = 16, GAP = 2 };

/* A table may have millions of rows: so many are in memory at a time. */
enum { BATCH_ROWS = 10000 };

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

/* A list on its way out: what of it is printed. */
struct list {
	bool json;
	int64_t rows;
	int columns;
	size_t *fill; /* the width of each column, as far as it is known */
};

static void
widen(struct list *l, const PGresult *result, int rows)
{
	if (l->fill == NULL) {
		l->columns = PQnfields(result);
		l->fill = mem_zalloc((size_t)l->columns * sizeof(*l->fill));
	}
	for (int c = 0; c < l->columns; c++)
		for (int r = -1; r < rows; r++) {
			size_t n = width(r == -1 ? PQfname(result, c) :
						   cell(result, r, c));

			if (n > l->fill[c])
				l->fill[c] = n;
		}
}

static void
print_columns(struct list *l, const PGresult *result, int rows)
{
	int last = PQnfields(result) - 1;

	widen(l, result, rows);
	for (int c = 0; c <= last && l->rows == 0; c++)
		put(PQfname(result, c), l->fill[c], c == last);
	for (int r = 0; r < rows; r++)
		for (int c = 0; c <= last; c++)
			put(cell(result, r, c), l->fill[c], c == last);
}

static void
print_json(const struct list *l, const PGresult *result, int rows)
{
	if (l->rows == 0)
		putchar('[');
	for (int r = 0; r < rows; r++)
		printf("%s\n%s", l->rows + r > 0 ? "," : "",
		    PQgetvalue(result, r, 0));
}

/* true: there may be more. */
static bool
print_batch(struct list *l, const PGresult *result, int64_t limit)
{
	int got = PQntuples(result), rows = got;

	if (limit > 0 && rows > limit - l->rows)
		rows = (int)(limit - l->rows);
	if (l->json)
		print_json(l, result, rows);
	else
		print_columns(l, result, rows);
	l->rows += rows;
	if (rows < got)
		ctl_complain("limit=N says how many, limit=0 is all.",
		    "there are more than these %lld", (long long)l->rows);
	/* What cannot be written is told at the end. */
	return got == BATCH_ROWS && rows == got && !ferror(stdout);
}

static bool
open_cursor(struct ctl *ctl, const char *sql, size_t n,
    const char *const *params)
{
	char *declare = mem_printf("DECLARE list NO SCROLL CURSOR FOR %s", sql);
	PGresult *result = NULL;

	/* All of it is wanted, not its first rows soon. */
	if (ctl_script(ctl, "BEGIN READ ONLY;"
			    " SET LOCAL cursor_tuple_fraction = 1"))
		result = ctl_query(ctl, declare, n, params);
	free(declare);
	PQclear(result);
	return result != NULL;
}

enum ctl_status
print_list(struct ctl *ctl, const char *sql, size_t n,
    const char *const *params, int64_t limit)
{
	struct list list = {.json = ctl->json};
	bool good = open_cursor(ctl, sql, n, params), more = good;
	char fetch[64];

	snprintf(fetch, sizeof(fetch), "FETCH %d FROM list", BATCH_ROWS);
	while (more) {
		PGresult *result = ctl_query(ctl, fetch, 0, NULL);

		good = result != NULL;
		more = good && print_batch(&list, result, limit);
		PQclear(result);
	}
	if (good && list.json)
		puts("\n]");
	free(list.fill);
	return good ? CTL_YES : CTL_NO;
}
