/*
 * rows - the commands that write and show the rows of a policy table.
 *
 * SQL is put together from the names in `tables` alone; what the administrator
 * typed travels as parameters.
 */

#include "base/mem.h"
#include "base/str.h"
#include "ctl/ctl.h"
#include "db/array.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SQL_MAX_BYTES = 1024 };

enum type {
	TEXT,  /* compared without letter case */
	OTHER,
	ARRAY, /* takes all arguments that are left */
};

struct table {
	const char *name;
	const char *label;    /* of a row, in what is said */
	const char *between;  /* the first part of its key and the second */
	const char *order_by;
	size_t keys;          /* how many of the columns tell rows apart */
	size_t required;      /* how many arguments a new row must have */
	/* The columns of a new row's arguments; none: all, in their order. */
	size_t arguments[COLUMNS_MAX], argument_count;
	struct column {
		const char *name; /* NULL after the last */
		enum type type;
	} columns[COLUMNS_MAX + 1];
};

enum { RULE_PRIORITY = 1, RULE_CONDITIONS = 3, RULE_ACTION = 4 };
enum { CLIENT_CLIENT = 0, CLIENT_REASON = 4 };

static const struct table tables[] = {
    {"domain", "domain", "", "lower(name)", 1, 1, {0}, 0,
	{{"name", TEXT}, {"recipients", TEXT}, {"greylist", OTHER},
	    {"max_recipients", OTHER}, {"subdomains", OTHER},
	    {"enabled", OTHER}}},
    {"address", "address", "", "lower(address)", 1, 1, {0}, 0,
	{{"address", TEXT}, {"greylist", OTHER}, {"reply", TEXT},
	    {"expires_at", OTHER}, {"enabled", OTHER}}},
    {"alias", "alias", " to ", "lower(address), lower(destination)", 2, 2, {0},
	0,
	{{"address", TEXT}, {"destination", TEXT}, {"expires_at", OTHER},
	    {"enabled", OTHER}}},
    {"domain_alias", "domain_alias", "", "lower(name)", 1, 2, {0}, 0,
	{{"name", TEXT}, {"target", TEXT}}},
    {"list_entry", "list", ": ", "list, lower(value)", 2, 2, {0}, 0,
	{{"list", OTHER}, {"value", TEXT}, {"comment", TEXT}}},
    {"rule", "rule", "", "priority, id", 1, 2,
	{RULE_PRIORITY, RULE_ACTION, RULE_CONDITIONS}, 3,
	{{"id", OTHER}, {"priority", OTHER}, {"state", TEXT},
	    {"conditions", ARRAY}, {"action", TEXT}, {"shadow", OTHER},
	    {"enabled", OTHER}, {"comment", TEXT}}},
    /* The last two are no columns, but filters of their lists. */
    {"greylist", "key", " ", "", 3, 3, {0}, 0,
	{{"client", OTHER}, {"sender", OTHER}, {"recipient", OTHER},
	    {"first_seen", OTHER}, {"last_seen", OTHER}, {"passed_at", OTHER},
	    {"attempts", OTHER}, {"state", OTHER}, {"limit", OTHER}}},
    {"client", "client", "", "", 1, 1, {CLIENT_CLIENT, CLIENT_REASON}, 2,
	{{"client", OTHER}, {"passes", OTHER}, {"last_seen", OTHER},
	    {"allowed_at", OTHER}, {"reason", TEXT}, {"state", OTHER},
	    {"limit", OTHER}}},
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

const char *
value_of(const struct table *table, const struct values *values,
    const char *column)
{
	int c = column_named(table, str_of(column));

	return c != -1 ? values->of[c] : NULL;
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
	case ARGS_FILE:
	case ARGS_SOURCE:
		break;
	case ARGS_ROW:
		*least = table->required;
		*most = table->argument_count > 0 ? table->argument_count :
						    columns;
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

/* The column that the i-th argument is for. */
static size_t
column_of(const struct table *table, enum ctl_args args, size_t i)
{
	return args == ARGS_ROW && table->argument_count > 0 ?
	    table->arguments[i] :
	    i;
}

static bool
is_required(const struct table *table, size_t c)
{
	for (size_t i = 0; i < table->required; i++)
		if (column_of(table, ARGS_ROW, i) == c)
			return true;
	return false;
}

void
args_print(const struct table *table, enum ctl_args args, FILE *to)
{
	size_t least, most;

	if (args == ARGS_FILE || args == ARGS_SOURCE) {
		fputs(args == ARGS_FILE ? " [FILE]" : " CONNINFO", to);
		return;
	}
	args_bounds(table, args, &least, &most);
	for (size_t i = 0; i < most; i++) {
		const struct column *column =
		    &table->columns[column_of(table, args, i)];

		fputs(i < least ? " " : " [", to);
		for (const char *p = column->name; *p != '\0'; p++)
			fputc(toupper((unsigned char)*p), to);
		if (column->type == ARRAY && args == ARGS_ROW)
			fputs("...", to);
	}
	for (size_t i = least; i < most; i++)
		fputc(']', to);
}

/*
 * The column of COLUMN=VALUE, with *value set to what it says; or -1.  No
 * attribute of a request has the name of a column, so that this can be no
 * condition of a rule.
 */
static int
named_column(const struct table *table, enum ctl_args args, const char *arg,
    const char **value)
{
	const char *equals = strchr(arg, '=');
	int c;

	if (equals == NULL || table == NULL)
		return -1;
	c = column_named(table, (struct str){arg, (size_t)(equals - arg)});
	if (c == -1 || (args != ARGS_ROW && args != ARGS_FILTER &&
			   (size_t)c >= table->keys))
		return -1;
	if (args == ARGS_ROW && table->columns[c].type == ARRAY)
		return -1;
	*value = equals + 1;
	return c;
}

bool
args_parse(const struct table *table, enum ctl_args args, char **argv,
    size_t argc, struct values *out)
{
	size_t least, most, next = 0;

	if (args == ARGS_FILE || args == ARGS_SOURCE) {
		*out = (struct values){.of = {argc > 0 ? argv[0] : NULL}};
		if (argc > 1)
			ctl_complain(NULL, "\"%s\" is one argument too many",
			    argv[1]);
		else if (args == ARGS_SOURCE && argc == 0)
			ctl_complain(NULL, "the conninfo is missing");
		return argc == 1 || (argc == 0 && args == ARGS_FILE);
	}
	args_bounds(table, args, &least, &most);
	*out = (struct values){0};
	out->many = mem_alloc((argc + 1) * sizeof(*out->many));
	for (size_t i = 0; i < argc; i++) {
		const char *value = argv[i];
		int named = named_column(table, args, argv[i], &value);
		size_t c;

		if (named == -1 && next >= most) {
			ctl_complain(NULL, "\"%s\" is one argument too many",
			    argv[i]);
			return false;
		}
		c = named != -1 ? (size_t)named : column_of(table, args, next);
		if (args == ARGS_ROW && table->columns[c].type == ARRAY) {
			out->many[out->many_count++] = argv[i];
			continue;
		}
		if (out->of[c] != NULL) {
			ctl_complain(NULL, "%s is given twice",
			    table->columns[c].name);
			return false;
		}
		out->of[c] = value;
		if (named == -1)
			next++;
	}
	for (size_t i = 0; i < least; i++) {
		size_t c = column_of(table, args, i);

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
		else if (column->type == ARRAY)
			sbuf_addf(&s->sql, "$%zu = ANY (%s)", s->n,
			    column->name);
		else
			sbuf_addf(&s->sql, "%s = $%zu", column->name, s->n);
	}
}

/* The row as it is called in a message: its key, which may be new. */
static const char *
row_name(const struct table *table, const struct values *values,
    const PGresult *result, char *buf, size_t size)
{
	struct sbuf b = sbuf_over(buf, size);

	sbuf_add(&b, str_of(table->label));
	if (PQntuples(result) == 1) {
		sbuf_addf(&b, " %s", PQgetvalue(result, 0, 0));
		return buf;
	}
	for (size_t c = 0; c < table->keys; c++)
		if (values->of[c] != NULL)
			sbuf_addf(&b, "%s%s", c == 1 ? table->between : " ",
			    values->of[c]);
	return buf;
}

static void
print_done(const struct ctl *ctl, const char *done, const char *name,
    PGresult *result)
{
	if (!ctl->json)
		printf("%s %s\n", name, done);
	else if (PQntuples(result) == 1)
		printf("{\"%s\": %s, \"%s\": %s}\n", done, PQcmdTuples(result),
		    PQfname(result, 0), PQgetvalue(result, 0, 0));
	else
		printf("{\"%s\": %s}\n", done, PQcmdTuples(result));
}

/* Run a statement that changes rows, and say what it did. */
static enum ctl_status
change(struct ctl *ctl, const struct table *table, const struct values *values,
    const struct statement *s, const char *done)
{
	PGresult *result = ctl_try(ctl, s->sql.p, s->n, s->params);
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	ExecStatusType got = PQresultStatus(result);
	char name[2048];
	enum ctl_status status = CTL_NO;

	row_name(table, values, result, name, sizeof(name));
	if (sqlstate != NULL && strcmp(sqlstate, "23505") == 0) {
		ctl_complain(NULL, "%s is there already", name);
	} else if (got != PGRES_COMMAND_OK && got != PGRES_TUPLES_OK) {
		ctl_complain_of(result);
	} else if (strcmp(PQcmdTuples(result), "0") == 0) {
		ctl_complain(NULL, "there is no %s", name);
	} else {
		print_done(ctl, done, name, result);
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
	enum ctl_status status;
	char *array = NULL;

	begin(&s, "INSERT INTO", table);
	for (size_t c = 0; table->columns[c].name != NULL; c++) {
		const char *value = values->of[c];

		if (table->columns[c].type == ARRAY)
			value = array = db_array(values->many,
			    values->many_count, false);
		/* Empty: leave it to the default, so that the next can be set. */
		if (value == NULL || (value[0] == '\0' && !is_required(table, c)))
			continue;
		sbuf_addf(&s.sql, "%s%s", s.n == 0 ? " (" : ", ",
		    table->columns[c].name);
		s.params[s.n++] = value;
	}
	sbuf_add(&s.sql, STR(") VALUES ("));
	for (size_t i = 1; i <= s.n; i++)
		sbuf_addf(&s.sql, "%s$%zu", i > 1 ? ", " : "", i);
	sbuf_addc(&s.sql, ')');
	/* A key that PostgreSQL gives is news. */
	if (!is_required(table, 0))
		sbuf_addf(&s.sql, " RETURNING %s", table->columns[0].name);
	status = change(ctl, table, values, &s, "added");
	free(array);
	return status;
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
	static const char FOR_PEOPLE[] =
	    "SELECT id, priority, state,"
	    " array_to_string(conditions, '; ') AS conditions,"
	    " action, shadow, enabled, comment FROM";
	bool has_array = column_named(table, STR("conditions")) != -1;
	struct statement s;

	begin(&s,
	    ctl->json     ? "SELECT row_to_json(t) FROM" :
		has_array ? FOR_PEOPLE :
			    "SELECT * FROM",
	    table);
	sbuf_add(&s.sql, STR(" AS t"));
	add_where(&s, table, values);
	sbuf_addf(&s.sql, " ORDER BY %s", table->order_by);
	return print_list(ctl, s.sql.p, s.n, s.params, 0);
}
