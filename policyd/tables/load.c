#include "tables/load.h"

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

const char *
tables_load(PGconn *conn, const struct config *config, struct tables *t,
    struct str *table)
{
	const char *why = run(conn,
	    "SET DateStyle = ISO; SET TimeZone = 'UTC'; "
	    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");

	*table = STR("database");
	for (int s = 0; why == NULL && s < SOURCES; s++) {
		*table = source_name((enum source)s);
		why = load(conn, config, t, (enum source)s);
	}
	if (why == NULL)
		why = run(conn, "COMMIT");
	if (why == NULL)
		tables_swap(t);
	else
		tables_abandon(t);
	return why;
}
