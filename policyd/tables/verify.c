#include "tables/verify.h"

#include "base/str.h"
#include "config/config.h"
#include "db/session.h"
#include "schema_version.h"
#include "tables/source.h"

#include <libpq-fe.h>
#include <stdlib.h>

static int
report(FILE *to, const char *what, const PGconn *conn)
{
	struct str why = db_last_line(PQerrorMessage(conn));

	fprintf(to, "database: %s: %.*s\n", what, (int)why.n, why.p);
	return 1;
}

static PGconn *
connect_db(const char *conninfo)
{
	static const char *const keys[] = {"connect_timeout",
	    "fallback_application_name", "dbname", "client_encoding", NULL};
	const char *const values[] = {"5", "policyd", conninfo, "UTF8", NULL};
	PGconn *conn = PQconnectdbParams(keys, values, 1);

	return conn;
}

static int
verify_schema(PGconn *conn, const struct config *config, FILE *to)
{
	PGresult *res = PQexec(conn,
	    "SELECT to_regclass('policyd.schema_version') IS NOT NULL");
	int bad = 0, version = 0;

	if (PQresultStatus(res) != PGRES_TUPLES_OK) {
		PQclear(res);
		return report(to, "schema", conn);
	}
	if (PQgetvalue(res, 0, 0)[0] != 't') {
		PQclear(res);
		if (config->lookup.domains[0] != '\0' &&
		    config->lookup.addresses[0] != '\0')
			return 0;
		fprintf(to, "database: there is no schema policyd: run "
			    "policyctl schema install\n");
		return 1;
	}
	PQclear(res);
	res = PQexec(conn, "SELECT max(version) FROM policyd.schema_version");
	if (PQresultStatus(res) != PGRES_TUPLES_OK)
		bad = report(to, "schema_version", conn);
	else
		version = atoi(PQgetvalue(res, 0, 0));
	PQclear(res);
	if (bad == 0 && version != POLICYD_SCHEMA_VERSION) {
		fprintf(to, "database: the schema is of version %d, this "
			    "program needs %d: run policyctl schema upgrade\n",
		    version, POLICYD_SCHEMA_VERSION);
		bad = 1;
	}
	return bad;
}

static int
verify_source(PGconn *conn, const struct config *config, enum source s,
    FILE *to)
{
	static const char *const names[SOURCES] = {"[lookup] domains",
	    "domain_alias", "[lookup] addresses", "alias"};
	char *query = source_query(config, s), *sql = NULL;
	PGresult *res;
	int bad = 0;

	if (query == NULL)
		return 0;
	/* As the daemon will run it, but without its rows. */
	if (asprintf(&sql, "DECLARE policyd_verify NO SCROLL CURSOR FOR %s",
		query) == -1)
		abort();
	PQclear(PQexec(conn, "BEGIN READ ONLY"));
	res = PQexecParams(conn, sql, 0, NULL, NULL, NULL, NULL, 0);
	if (PQresultStatus(res) != PGRES_COMMAND_OK)
		bad = report(to, names[s], conn);
	PQclear(res);
	PQclear(PQexec(conn, "ROLLBACK"));
	free(sql);
	free(query);
	return bad;
}

int
tables_verify(const struct config *config, FILE *to)
{
	PGconn *conn = connect_db(config->database.conninfo);
	int bad = 0;

	if (PQstatus(conn) != CONNECTION_OK) {
		bad = report(to, "conninfo", conn);
		PQfinish(conn);
		return bad;
	}
	bad += verify_schema(conn, config, to);
	if (bad == 0)
		for (int s = 0; s < SOURCES; s++)
			bad += verify_source(conn, config, (enum source)s, to);
	PQfinish(conn);
	if (strcmp(config->database.conninfo,
		config->database.listen_conninfo) != 0) {
		conn = connect_db(config->database.listen_conninfo);
		if (PQstatus(conn) != CONNECTION_OK)
			bad += report(to, "listen_conninfo", conn);
		PQfinish(conn);
	}
	return bad;
}
