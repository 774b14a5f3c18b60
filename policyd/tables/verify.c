#include "tables/verify.h"

#include "base/mem.h"
#include "base/number.h"
#include "config/config.h"
#include "db/session.h"
#include "schema_version.h"
#include "tables/rule.h"
#include "tables/source.h"
#include "tables/tables.h"

#include <libpq-fe.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

/* Whom to tell, and how many times it was done. */
struct verify {
	const struct config *config;
	const char *file;
	FILE *to;
	PGconn *conn;
	int bad;
	bool ours; /* the database has our schema */
};

static void
report(struct verify *v, const char *key, struct str why)
{
	fprintf(v->to, "%s: %s: %.*s\n", v->file, key, (int)why.n, why.p);
	v->bad++;
}

static void
report_failure(struct verify *v, const char *key)
{
	report(v, key, db_first_line(PQerrorMessage(v->conn)));
}

/*
 * A server that is frozen, or behind a network that has gone, never answers;
 * libpq waits for it, and nothing but this program's end helps.
 */
static void
on_alarm(int sig)
{
	static const char why[] = "[database] conninfo: PostgreSQL did not "
				  "answer within query_timeout\n";

	(void)sig;
	(void)!write(STDERR_FILENO, why, sizeof(why) - 1);
	_exit(1);
}

/* To be cleared.  PostgreSQL ends by itself what takes too long. */
static PGresult *
query(struct verify *v, const char *sql, int n, const char *const *parameters)
{
	PGresult *res;

	alarm((unsigned)ceil(v->config->database.query_timeout_s) + 1);
	res = PQexecParams(v->conn, sql, n, NULL, parameters, NULL, NULL, 0);
	alarm(0);
	return res;
}

static bool
open_conn(struct verify *v, const char *key, const char *conninfo)
{
	static const char *const keys[] = {"connect_timeout",
	    "fallback_application_name", "dbname", "client_encoding", NULL};
	const char *const values[] = {"5", "policyd", conninfo, "UTF8", NULL};
	char *limit;

	v->conn = PQconnectdbParams(keys, values, 1);
	if (PQstatus(v->conn) != CONNECTION_OK) {
		report_failure(v, key);
		return false;
	}
	limit = mem_printf("SET statement_timeout = %.0f",
	    ceil(v->config->database.query_timeout_s * 1000));
	PQclear(query(v, limit, 0, NULL));
	free(limit);
	return true;
}

/* One value, to be freed; NULL where there is none, reported if it failed. */
static char *
one_value(struct verify *v, const char *key, const char *sql,
    const char *parameter)
{
	PGresult *res = query(v, sql, parameter != NULL, &parameter);
	char *value = NULL;

	if (PQresultStatus(res) != PGRES_TUPLES_OK)
		report_failure(v, key);
	else if (PQntuples(res) == 1 && !PQgetisnull(res, 0, 0))
		value = mem_strdup(PQgetvalue(res, 0, 0));
	PQclear(res);
	return value;
}

static void
verify_schema(struct verify *v)
{
	static const char key[] = "[database] conninfo";
	char why[160], *version;
	int64_t number = 0;
	struct sbuf b = sbuf_over(why, sizeof(why));
	char *there = one_value(v, key,
	    "SELECT to_regclass('policyd.schema_version')", NULL);

	if (there == NULL) {
		/* [lookup] may read all there is from another schema. */
		if (v->config->lookup.domains[0] == '\0' ||
		    v->config->lookup.addresses[0] == '\0')
			report(v, key, STR("the database has no schema policyd: "
					   "run policyctl schema install"));
		else if (v->config->greylist.enabled)
			report(v, "[greylist] enabled",
			    STR("the database has no schema policyd: run "
				"policyctl schema install, or set it to no"));
		return;
	}
	free(there);
	v->ours = true;
	version = one_value(v, key,
	    "SELECT max(version) FROM policyd.schema_version", NULL);
	number_parse(str_of(version), &number);
	if (v->bad == 0 && number != POLICYD_SCHEMA_VERSION) {
		sbuf_addf(&b, "the schema is of version %lld, this program "
			      "needs %d: %s",
		    (long long)number, POLICYD_SCHEMA_VERSION,
		    number < POLICYD_SCHEMA_VERSION ?
			"run policyctl schema upgrade" :
			"install a policyd of that version");
		report(v, key, sbuf_str(&b));
	}
	free(version);
}

/* Some rows of the open cursor, or none where it ends or fails. */
static int
try_rows(struct verify *v, enum source s, const char *key, int *left_out,
    char **first)
{
	PGresult *res = query(v, "FETCH 10000 FROM policyd_verify", 0, NULL);
	int rows = PQntuples(res), odd;
	struct tables t;
	struct str which;

	if (PQresultStatus(res) != PGRES_TUPLES_OK) {
		report_failure(v, key);
	} else {
		tables_init(&t, true);
		odd = source_try(&t, s, res, &which);
		if (odd > 0 && *left_out == 0)
			*first = mem_strndup(which.p, which.n);
		*left_out += odd;
		tables_fini(&t);
	}
	PQclear(res);
	return rows;
}

/*
 * Rows of the administrator's own query, which nobody has looked at yet.  Others
 * are served without them: that is no mistake in the configuration.
 */
static void
verify_rows(struct verify *v, enum source s, const char *key)
{
	int left_out = 0;
	char *first = NULL;

	while (try_rows(v, s, key, &left_out, &first) > 0)
		;
	if (left_out > 0)
		fprintf(v->to,
		    "%s: %s: warning: rows that make no sense are left out: "
		    "%d, the first is \"%s\"\n",
		    v->file, key, left_out, first);
	free(first);
}

static bool
is_own_query(const struct config *config, enum source s)
{
	const char *sql = s == SOURCE_DOMAIN ? config->lookup.domains :
	    s == SOURCE_ADDRESS		     ? config->lookup.addresses :
						 "";

	return sql[0] != '\0';
}

static void
verify_source(struct verify *v, enum source s)
{
	static const char *const keys[SOURCES] = {"[lookup] domains",
	    "[lookup] domains", "[lookup] addresses", "[lookup] addresses",
	    "[database] conninfo", "[database] conninfo"};
	char *all = source_query(v->config, s), *sql;
	PGresult *res;

	if (all == NULL)
		return;
	/* As the daemon will run it. */
	sql = mem_printf("DECLARE policyd_verify NO SCROLL CURSOR FOR %s",
	    all);
	PQclear(query(v, "BEGIN READ ONLY", 0, NULL));
	res = query(v, sql, 0, NULL);
	if (PQresultStatus(res) != PGRES_COMMAND_OK)
		report_failure(v, keys[s]);
	else if (is_own_query(v->config, s))
		verify_rows(v, s, keys[s]);
	PQclear(res);
	PQclear(query(v, "ROLLBACK", 0, NULL));
	free(sql);
	free(all);
}

/* May the daemon write its state there?  Asked with nothing to write. */
static void
verify_greylist(struct verify *v)
{
	static const char *const statements[] = {
	    "SELECT FROM policyd.greylist_see('{}', '{}', '{}', '{}', '{}', "
	    "1, 1, 1, 1)",
	    "SELECT policyd.greylist_merge(false, '{}', '{}', '{}', '{}', '{}', "
	    "'{}', '{}', 1, 1)",
	    "SELECT policyd.client_merge('{}', '{}')",
	};

	if (!v->config->greylist.enabled)
		return;
	for (size_t i = 0; i < sizeof(statements) / sizeof(statements[0]);
	     i++) {
		PGresult *res = query(v, statements[i], 0, NULL);

		if (PQresultStatus(res) != PGRES_TUPLES_OK)
			report_failure(v, "[greylist] enabled");
		PQclear(res);
	}
}

/* What PostgreSQL took, but this program does not. */
static void
report_rule(struct verify *v, const struct rule *rule)
{
	for (size_t i = 0; rule->enabled && i < rule->count; i++) {
		const struct condition *c = rule->conditions[i];
		const char *error = condition_regex_error(c);
		char why[400];
		struct sbuf b = sbuf_over(why, sizeof(why));

		if (error == NULL)
			continue;
		sbuf_addf(&b, "rule %lld: \"%s\": no regular expression to "
			      "PCRE2, it never matches: %s",
		    (long long)rule->id, condition_text(c).p, error);
		report(v, "policyd.rule", sbuf_str(&b));
	}
}

static void
verify_rules(struct verify *v)
{
	char *all = source_query(v->config, SOURCE_RULE);
	PGresult *res = query(v, all, 0, NULL);
	struct tables t;
	int left_out;

	tables_init(&t, true);
	if (PQresultStatus(res) != PGRES_TUPLES_OK) {
		report_failure(v, "policyd.rule");
	} else {
		left_out = source_put(&t, SOURCE_RULE, res);
		if (left_out > 0)
			report(v, "policyd.rule",
			    STR("rules that this program does not take"));
		for (size_t i = 0; rules_at(t.rules, i) != NULL; i++)
			report_rule(v, rules_at(t.rules, i));
	}
	PQclear(res);
	tables_fini(&t);
	free(all);
}

static void
verify_script(struct verify *v)
{
	const char *name = v->config->rcpt.script;
	char *there, why[160];
	struct sbuf b = sbuf_over(why, sizeof(why));

	if (name[0] == '\0')
		return;
	there = one_value(v, "[rcpt] script",
	    "SELECT to_regprocedure('policyd_script.' || quote_ident($1) || "
	    "'(jsonb)')",
	    name);
	if (there == NULL) {
		sbuf_addf(&b, "there is no function policyd_script.%s(jsonb)",
		    name);
		report(v, "[rcpt] script", sbuf_str(&b));
	}
	free(there);
}

/* Is a notification there within query_timeout? */
static bool
hears(struct verify *v, PGconn *ear)
{
	struct pollfd fd = {.fd = PQsocket(ear), .events = POLLIN};
	int ms = (int)ceil(v->config->database.query_timeout_s * 1000);
	PGnotify *n;

	while (PQconsumeInput(ear) == 1) {
		n = PQnotifies(ear);
		PQfreemem(n);
		if (n != NULL)
			return true;
		if (poll(&fd, 1, ms) <= 0)
			break;
	}
	return false;
}

/*
 * A pooler of transactions takes a LISTEN and never delivers anything: only
 * what another connection announces shows it.  A standby refuses.
 */
static void
verify_listening(struct verify *v, const char *key)
{
	const char *conninfo = v->config->database.listen_conninfo;
	PGconn *ear = NULL;
	PGresult *res = NULL;

	if (open_conn(v, key, conninfo)) {
		res = query(v, "LISTEN policyd_verify", 0, NULL);
		if (PQresultStatus(res) != PGRES_COMMAND_OK)
			report_failure(v, key);
		else
			ear = v->conn;
	}
	PQclear(res);
	if (ear == NULL) {
		PQfinish(v->conn);
		return;
	}
	if (open_conn(v, key, conninfo)) {
		res = query(v, "NOTIFY policyd_verify", 0, NULL);
		if (PQresultStatus(res) != PGRES_COMMAND_OK)
			report_failure(v, key);
		else if (!hears(v, ear))
			report(v, key,
			    STR("notifications do not arrive: it must lead to the "
				"server, past a pooler of transactions"));
		PQclear(res);
	}
	PQfinish(v->conn);
	PQfinish(ear);
}

int
tables_verify(const struct config *config, const char *file, FILE *to)
{
	static const char conninfo[] = "[database] conninfo";
	struct verify v = {.config = config, .file = file, .to = to};
	bool same = strcmp(config->database.conninfo,
			config->database.listen_conninfo) == 0, there;

	signal(SIGALRM, on_alarm);
	there = open_conn(&v, conninfo, config->database.conninfo);
	if (there) {
		verify_schema(&v);
		for (int s = 0, bad = v.bad; bad == 0 && s < SOURCES; s++)
			if (v.ours || s <= SOURCE_ALIAS)
				verify_source(&v, (enum source)s);
		if (v.ours && v.bad == 0) {
			verify_rules(&v);
			verify_greylist(&v);
		}
		verify_script(&v);
	}
	PQfinish(v.conn);
	if (there || !same)
		verify_listening(&v,
		    same ? conninfo : "[database] listen_conninfo");
	return v.bad;
}
