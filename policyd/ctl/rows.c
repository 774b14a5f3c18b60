/*
 * rows - the commands that write and show the rows of a policy table.
 *
 * SQL is put together from the names in `tables` alone; what the administrator
 * typed travels as parameters.
 */

#include "base/str.h"
#include "ctl/ctl.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

enum { SQL_MAX_BYTES = 1024 };

enum type { TEXT, OTHER };

struct table {
	const char *name;
	size_t keys;     /* how many of the columns tell rows apart */
	size_t required; /* how many a new row must have */
	struct column {
		const char *name; /* NULL after the last */
		enum type type;   /* text is compared without letter case */
	} columns[COLUMNS_MAX + 1];
};

static const struct table tables[] = {
    {"domain", 1, 1,
	{{"name", TEXT}, {"recipients", TEXT}, {"greylist", OTHER},
	    {"max_recipients", OTHER}, {"subdomains", OTHER},
	    {"enabled", OTHER}}},
    {"address", 1, 1,
	{{"address", TEXT}, {"greylist", OTHER}, {"reply", TEXT},
	    {"expires_at", OTHER}, {"enabled", OTHER}}},
    {"alias", 2, 2,
	{{"address", TEXT}, {"destination", TEXT}, {"expires_at", OTHER},
	    {"enabled", OTHER}}},
    {"domain_alias", 1, 2, {{"name", TEXT}, {"target", TEXT}}},
};

const struct table *
table_named(const char *name)
{
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		if (strcmp(tables[i].name, name) == 0)
			return &tables[i];
	return NULL;
}

static int
column_named(const struct table *table, struct str name)
{
	for (int i = 0; table->columns[i].name != NULL; i++)
		if (str_eq(str_of(table->columns[i].name), name))
			return i;
	return -1;
}

bool
table_allows(const struct table *table, ctl_run_fn *run)
{
	if (run != rows_enable && run != rows_disable)
		return true;
	return column_named(table, STR("enabled")) != -1;
}

/* ---- arguments ---- */

/* How many arguments a verb needs, and how many it takes. */
static void
args_bounds(const struct table *table, enum ctl_args args, size_t *least,
    size_t *most)
{
	size_t columns = 0;

	*least = *most = 0;
	if (table == NULL)
		return;
	while (table->columns[columns].name != NULL)
		columns++;
	switch (args) {
	case ARGS_NONE:
		break;
	case ARGS_ROW:
		*least = table->required;
		*most = columns;
		break;
	case ARGS_KEY:
		*least = *most = table->keys;
		break;
	case ARGS_SOME:
		*least = 1;
		*most = table->keys;
		break;
	case ARGS_FILTER:
		*most = columns;
		break;
	}
}

void
args_print(const struct table *table, enum ctl_args args, FILE *to)
{
	size_t least, most;

	args_bounds(table, args, &least, &most);
	for (size_t i = 0; i < most; i++) {
		fputs(i < least ? " " : " [", to);
		for (const char *p = table->columns[i].name; *p != '\0'; p++)
			fputc(toupper((unsigned char)*p), to);
	}
	for (size_t i = least; i < most; i++)
		fputc(']', to);
}

/* The column that an argument is for; *value is set to what it says. */
static size_t
args_column(const struct table *table, const char *arg, size_t *next,
    const char **value)
{
	const char *equals = strchr(arg, '=');
	int c = -1;

	*value = arg;
	if (equals != NULL && table != NULL)
		c = column_named(table,
		    (struct str){arg, (size_t)(equals - arg)});
	if (c == -1)
		return (*next)++;
	*value = equals + 1;
	return (size_t)c;
}

bool
args_parse(const struct table *table, enum ctl_args args, char **argv,
    size_t argc, struct values *out)
{
	size_t least, most, next = 0;

	args_bounds(table, args, &least, &most);
	*out = (struct values){0};
	for (size_t i = 0; i < argc; i++) {
		const char *value;
		size_t c = args_column(table, argv[i], &next, &value);

		if (c >= most) {
			ctl_complain(NULL, "\"%s\" is one argument too many",
			    argv[i]);
			return false;
		}
		if (out->of[c] != NULL) {
			ctl_complain(NULL, "%s is given twice",
			    table->columns[c].name);
			return false;
		}
		out->of[c] = value;
	}
	for (size_t c = 0; c < least; c++) {
		if (out->of[c] != NULL)
			continue;
		ctl_complain(NULL, "%s is missing", table->columns[c].name);
		return false;
	}
	return true;
}

/* ---- statements ---- */

struct statement {
	struct sbuf sql;
	size_t n;
	const char *params[COLUMNS_MAX];
	char buf[SQL_MAX_BYTES];
};

static void
begin(struct statement *s, const char *start, const struct table *table)
{
	s->sql = sbuf_over(s->buf, sizeof(s->buf));
	s->n = 0;
	sbuf_addf(&s->sql, "%s policyd.%s", start, table->name);
}

/* WHERE the columns are what was given; an empty value stands for NULL. */
static void
add_where(struct statement *s, const struct table *table,
    const struct values *values)
{
	struct str word = STR(" WHERE ");

	for (size_t c = 0; table->columns[c].name != NULL; c++) {
		const struct column *column = &table->columns[c];

		if (values->of[c] == NULL)
			continue;
		sbuf_add(&s->sql, word);
		word = STR(" AND ");
		if (values->of[c][0] == '\0' && c >= table->keys) {
			sbuf_addf(&s->sql, "%s IS NULL", column->name);
			continue;
		}
		s->params[s->n++] = values->of[c];
		/* Folded as the index is, whatever the database's language. */
		if (column->type == TEXT)
			sbuf_addf(&s->sql,
			    "lower(%s) = lower($%zu::text COLLATE \"C\")",
			    column->name, s->n);
		else
			sbuf_addf(&s->sql, "%s = $%zu", column->name, s->n);
	}
}

/* The row as it is called in a message: its key. */
static const char *
row_name(const struct table *table, const struct values *values, char *buf,
    size_t size)
{
	struct sbuf b = sbuf_over(buf, size);

	sbuf_add(&b, str_of(table->name));
	for (size_t c = 0; c < table->keys; c++)
		if (values->of[c] != NULL)
			sbuf_addf(&b, "%s%s", c == 1 ? " to " : " ",
			    values->of[c]);
	return buf;
}

/* Run a statement that changes rows, and say what it did. */
static enum ctl_status
change(struct ctl *ctl, const struct table *table, const struct values *values,
    const struct statement *s, const char *done)
{
	PGresult *result = ctl_try(ctl, s->sql.p, s->n, s->params);
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	char name[2048];
	enum ctl_status status = CTL_NO;

	row_name(table, values, name, sizeof(name));
	if (sqlstate != NULL && strcmp(sqlstate, "23505") == 0) {
		ctl_complain(NULL, "%s is there already", name);
	} else if (PQresultStatus(result) != PGRES_COMMAND_OK) {
		ctl_complain_of(result);
	} else if (strcmp(PQcmdTuples(result), "0") == 0) {
		ctl_complain(NULL, "there is no %s", name);
	} else {
		if (ctl->json)
			printf("{\"%s\": %s}\n", done, PQcmdTuples(result));
		else
			printf("%s %s\n", name, done);
		status = CTL_YES;
	}
	PQclear(result);
	return status;
}

/* ---- the commands ---- */

enum ctl_status
rows_add(struct ctl *ctl, const struct table *table,
    const struct values *values)
{
	struct statement s;

	begin(&s, "INSERT INTO", table);
	for (size_t c = 0; table->columns[c].name != NULL; c++) {
		/* Empty: leave it to the default, so that the next can be set. */
		if (values->of[c] == NULL ||
		    (values->of[c][0] == '\0' && c >= table->required))
			continue;
		sbuf_addf(&s.sql, "%s%s", s.n == 0 ? " (" : ", ",
		    table->columns[c].name);
		s.params[s.n++] = values->of[c];
	}
	sbuf_add(&s.sql, STR(") VALUES ("));
	for (size_t i = 1; i <= s.n; i++)
		sbuf_addf(&s.sql, "%s$%zu", i > 1 ? ", " : "", i);
	sbuf_addc(&s.sql, ')');
	return change(ctl, table, values, &s, "added");
}

enum ctl_status
rows_remove(struct ctl *ctl, const struct table *table,
    const struct values *values)
{
	struct statement s;

	begin(&s, "DELETE FROM", table);
	add_where(&s, table, values);
	return change(ctl, table, values, &s, "removed");
}

enum ctl_status
rows_enable(struct ctl *ctl, const struct table *table,
    const struct values *values)
{
	struct statement s;

	begin(&s, "UPDATE", table);
	sbuf_add(&s.sql, STR(" SET enabled = true"));
	add_where(&s, table, values);
	return change(ctl, table, values, &s, "enabled");
}

enum ctl_status
rows_disable(struct ctl *ctl, const struct table *table,
    const struct values *values)
{
	struct statement s;

	begin(&s, "UPDATE", table);
	sbuf_add(&s.sql, STR(" SET enabled = false"));
	add_where(&s, table, values);
	return change(ctl, table, values, &s, "disabled");
}

enum ctl_status
rows_list(struct ctl *ctl, const struct table *table,
    const struct values *values)
{
	struct statement s;
	PGresult *result;

	begin(&s, ctl->json ? "SELECT row_to_json(t) FROM" : "SELECT * FROM",
	    table);
	sbuf_add(&s.sql, STR(" AS t"));
	add_where(&s, table, values);
	for (size_t c = 0; c < table->keys; c++)
		sbuf_addf(&s.sql, "%slower(%s)", c == 0 ? " ORDER BY " : ", ",
		    table->columns[c].name);
	result = ctl_query(ctl, s.sql.p, s.n, s.params);
	if (result == NULL)
		return CTL_NO;
	if (ctl->json)
		print_json(result);
	else
		print_columns(result);
	PQclear(result);
	return CTL_YES;
}
