#include "tables/load.h"

#include "base/mem.h"
#include "tables/source.h"
#include "tables/tables.h"

#include <stdlib.h>

static const char *
run(PGconn *conn, const char *sql)
{
	PGresult *res = PQexec(conn, sql);
	bool good = PQresultStatus(res) == PGRES_COMMAND_OK ||
	    PQresultStatus(res) == PGRES_TUPLES_OK;

	PQclear(res);
	return good ? NULL : PQerrorMessage(conn);
}

static const char *
load(PGconn *conn, const struct config *config, struct tables *t,
    enum source s)
{
	char *query = source_query(config, s);
	PGresult *res;
	const char *why = NULL;

	if (query == NULL)
		return NULL;
	res = PQexecParams(conn, query, 0, NULL, NULL, NULL, NULL, 0);
	if (PQresultStatus(res) == PGRES_TUPLES_OK) {
		source_begin(config, t, s);
		source_put(t, s, res);
	} else {
		why = PQerrorMessage(conn);
	}
	PQclear(res);
	free(query);
	return why;
}

/* Ends the transaction; *stale says whether its snapshot was good for nothing. */
static const char *
end(PGconn *conn, bool *stale)
{
	char *sql = mem_printf("SELECT %s", source_is_stale());
	PGresult *res = PQexec(conn, sql);
	bool good = PQresultStatus(res) == PGRES_TUPLES_OK;

	*stale = good && PQgetvalue(res, 0, 0)[0] == 't';
	PQclear(res);
	free(sql);
	return good ? run(conn, "COMMIT") : PQerrorMessage(conn);
}

static const char *
load_all(PGconn *conn, const struct config *config, struct tables *t,
    struct str *table, bool *stale)
{
	const char *why = run(conn,
	    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");

	*table = STR("database");
	for (int s = 0; why == NULL && s < SOURCES; s++) {
		*table = source_name((enum source)s);
		why = load(conn, config, t, (enum source)s);
	}
	return why == NULL ? end(conn, stale) : why;
}

const char *
tables_load(PGconn *conn, const struct config *config, struct tables *t,
    struct str *table)
{
	enum { TRIES = 10 };
	const char *why =
	    run(conn, "SET DateStyle = ISO; SET TimeZone = 'UTC'");
	bool stale = true;

	*table = STR("database");
	for (int i = 0; i < TRIES && why == NULL && stale; i++)
		why = load_all(conn, config, t, table, &stale);
	if (why == NULL && stale)
		why = "tables are written anew faster than they can be read";
	if (why == NULL)
		tables_swap(t);
	else
		tables_abandon(t);
	return why;
}
