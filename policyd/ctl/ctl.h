#ifndef POLICYD_CTL_H
#define POLICYD_CTL_H

/*
 * ctl - policyctl, the administrator's tool.
 *
 * A program of its own over base, mail, config and tables.  It runs one command and
 * ends, so it waits for PostgreSQL where it stands and lets exit() free things.
 * Commands are tables in main.c; what a command prints for people goes to
 * stdout, what is wrong to stderr.
 */

#include <libpq-fe.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Exit statuses, and what a command returns. */
enum ctl_status { CTL_YES, CTL_NO, CTL_USAGE };

struct config;
struct table;
struct verb;

struct ctl {
	PGconn *db;
	bool json; /* print for programs */
	bool dry_run; /* change nothing, only say what would be */
	bool patient; /* the command may take as long as it takes */
	unsigned timeout_s; /* else PostgreSQL has so long to answer; 0: ever */
	const char *file; /* the configuration */
	bool may_lack_file;
};

/* What was given for each column of a table; NULL: nothing. */
enum { COLUMNS_MAX = 10 };
struct values {
	const char *of[COLUMNS_MAX];
	char **many; /* for the column that is an array: the conditions; owned */
	size_t many_count;
};

/* table: the one that the command is about, or NULL. */
typedef enum ctl_status ctl_run_fn(struct ctl *, const struct table *,
    const struct values *);

/* What stands after a verb, for the parser and the help alike. */
enum ctl_args {
	ARGS_NONE,
	ARGS_ROW,    /* values of a row; the ones that a row needs first */
	ARGS_KEY,    /* the whole key of a row */
	ARGS_SOME,   /* the key or its beginning: all rows that have it */
	ARGS_FILTER, /* any columns at all, or none */
	ARGS_FILE,   /* the name of a file, or nothing */
	ARGS_SOURCE, /* a conninfo */
};

struct verb {
	const char *name; /* empty: the object alone is the command */
	enum ctl_args args;
	const char *summary;
	ctl_run_fn *run;
};

/* ---- main.c ---- */

/* Complain on stderr, `policyctl: …`; hint may be NULL. */
void ctl_complain(const char *hint, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* The settings, which the caller frees; NULL, complained of. */
struct config *ctl_config(const struct ctl *ctl);

/* ---- database.c ---- */

/* Connect as policyctl does to any database; PQstatus() says how it went. */
PGconn *ctl_open(const struct ctl *ctl, const char *conninfo);

/* Connect, or complain and return false. */
bool ctl_connect(struct ctl *ctl, const char *conninfo);

/*
 * What stands between these asks PostgreSQL by itself: where it answers
 * nothing for so long, the program ends and says so.
 */
void ctl_wait_begin(const struct ctl *ctl);
void ctl_wait_end(void);

/*
 * Run one statement with n text parameters, where NULL is SQL NULL.  The
 * result, which the caller clears; or NULL, complained of already.
 */
PGresult *ctl_query(struct ctl *ctl, const char *sql, size_t n,
    const char *const *params);

/* The same, but the result may be an error. */
PGresult *ctl_try(struct ctl *ctl, const char *sql, size_t n,
    const char *const *params);

/* Complain of the error of a result, with the server's hint or one of ours. */
void ctl_complain_of(const PGresult *result);

/* Several statements as one; false, complained of, if one fails. */
bool ctl_script(struct ctl *ctl, const char *sql);

/* ---- print.c ---- */

/*
 * Print what a SELECT of n parameters gives, in batches: as columns under a
 * header, or the first column, which holds JSON objects, as an array.  At most
 * limit rows (0: all), and then complain where there are more.
 */
enum ctl_status print_list(struct ctl *ctl, const char *sql, size_t n,
    const char *const *params, int64_t limit);

/* ---- the commands ---- */

ctl_run_fn daemon_status;
ctl_run_fn schema_install, schema_upgrade, schema_status;
ctl_run_fn check_rules;
ctl_run_fn explain;
ctl_run_fn rows_add, rows_remove, rows_list, rows_enable, rows_disable;
ctl_run_fn greylist_list, greylist_release, greylist_allow, greylist_forget;
ctl_run_fn client_list;
ctl_run_fn import_postgrey, import_sqlgrey, import_iredapd;

/* ---- rows.c ---- */

/* Does the table have all columns that the verb is about? */
bool table_allows(const struct table *table, ctl_run_fn *run);

/*
 * Take the arguments of a verb: values in the order of the table's columns, or
 * COLUMN=VALUE.  false, complained of, if there are too many or too few.
 */
bool args_parse(const struct table *table, enum ctl_args args, char **argv,
    size_t argc, struct values *out);

/* Print them as the help does: ` PRIORITY ACTION [CONDITION]...`. */
void args_print(const struct table *table, enum ctl_args args, FILE *to);

/* What was given for a column; NULL: nothing. */
const char *value_of(const struct table *table, const struct values *values,
    const char *column);

/* NULL if there is none of this name. */
const struct table *table_named(const char *name);

#endif
