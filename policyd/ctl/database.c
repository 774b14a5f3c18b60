#include "base/mem.h"
#include "ctl/ctl.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* At most so long, and never longer than --timeout. */
static const unsigned CONNECT_S = 10;

PGconn *
ctl_open(const struct ctl *ctl, const char *conninfo)
{
	/* What the conninfo itself says goes before what stands before it. */
	static const char *const keys[] = {"connect_timeout",
	    "tcp_user_timeout", "keepalives_idle", "keepalives_interval",
	    "keepalives_count", "options", "dbname", "client_encoding",
	    "fallback_application_name", NULL};
	/* A lock that somebody forgot is not worth to wait for. */
	char *options = mem_printf("-c client_min_messages=warning"
				   " -c lock_timeout=%us"
				   " -c statement_timeout=%us",
	    ctl->timeout_s, ctl->patient ? 0 : ctl->timeout_s);
	bool short_of_time = ctl->timeout_s > 0 && ctl->timeout_s < CONNECT_S;
	char *connect = mem_printf("%u",
	    short_of_time ? ctl->timeout_s : CONNECT_S);
	const char *const values[] = {connect, "30000", "30", "10", "3",
	    options, conninfo, "UTF8", "policyctl", NULL};
	PGconn *db = PQconnectdbParams(keys, values, 1);

	free(connect);
	free(options);
	return db;
}

bool
ctl_connect(struct ctl *ctl, const char *conninfo)
{
	char *message;
	size_t n;

	ctl->db = ctl_open(ctl, conninfo);
	if (PQstatus(ctl->db) == CONNECTION_OK)
		return true;
	message = PQerrorMessage(ctl->db);
	n = strlen(message);
	while (n > 0 && message[n - 1] == '\n')
		n--;
	ctl_complain("The conninfo in policyd.ini, or after -d, says where "
		     "PostgreSQL is and as whom to connect; without user= there "
		     "it is your own name, as in sudo -u postgres policyctl.",
	    "%.*s", (int)n, message);
	return false;
}

/* ---- a server that is frozen ends nothing by itself ---- */

static void
on_alarm(int sig)
{
	static const char why[] =
	    "policyctl: PostgreSQL does not answer\n"
	    "hint: --timeout SECONDS waits longer, 0 for ever.\n";

	(void)sig;
	(void)!write(STDERR_FILENO, why, sizeof(why) - 1);
	_exit(CTL_NO);
}

void
ctl_wait_begin(const struct ctl *ctl)
{
	enum { GRACE_S = 2 }; /* the server's own end of it comes first */

	if (ctl->patient || ctl->timeout_s == 0)
		return;
	signal(SIGALRM, on_alarm);
	alarm(ctl->timeout_s + GRACE_S);
}

void
ctl_wait_end(void)
{
	alarm(0);
}

PGresult *
ctl_try(struct ctl *ctl, const char *sql, size_t n, const char *const *params)
{
	PGresult *result;

	ctl_wait_begin(ctl);
	result = PQexecParams(ctl->db, sql, (int)n, NULL, params, NULL, NULL,
	    0);
	ctl_wait_end();
	return result;
}

static bool
is_good(const PGresult *result)
{
	ExecStatusType status = PQresultStatus(result);

	return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
}

/* What to do about errors that PostgreSQL has no hint for. */
static const struct {
	const char *sqlstate;
	const char *hint;
} hints[] = {
    {"42501",
	"Tables are written by the role policyd_admin and its members, the "
	"schema is built by a superuser: -d with another conninfo, or "
	"sudo -u postgres policyctl."},
    {"3F000", "policyctl schema install builds the tables."},
    {"42P01", "policyctl schema install builds the tables."},
    {"22P02", "policyctl --help shows the order of the values."},
    {"22007", "Write a time such as '2026-12-31 18:00'."},
    {"55P03", "Somebody holds a lock: --timeout SECONDS waits longer."},
    {"57014", "--timeout SECONDS waits longer, 0 for ever."},
    {"25006", "This is a standby: connect to the primary."},
};

static const char *
hint_for(const char *sqlstate)
{
	for (size_t i = 0; i < sizeof(hints) / sizeof(hints[0]); i++)
		if (strcmp(hints[i].sqlstate, sqlstate) == 0)
			return hints[i].hint;
	return NULL;
}

void
ctl_complain_of(const PGresult *result)
{
	const char *message = PQresultErrorField(result,
	    PG_DIAG_MESSAGE_PRIMARY);
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);

	/* A lost connection has a message, but no fields. */
	if (message == NULL)
		message = PQresultErrorMessage(result);
	if (hint == NULL && sqlstate != NULL)
		hint = hint_for(sqlstate);
	ctl_complain(hint, "%.*s", (int)strcspn(message, "\n"), message);
}

PGresult *
ctl_query(struct ctl *ctl, const char *sql, size_t n, const char *const *params)
{
	PGresult *result = ctl_try(ctl, sql, n, params);

	if (is_good(result))
		return result;
	ctl_complain_of(result);
	PQclear(result);
	return NULL;
}

bool
ctl_script(struct ctl *ctl, const char *sql)
{
	PGresult *result;
	bool good;

	ctl_wait_begin(ctl);
	result = PQexec(ctl->db, sql);
	ctl_wait_end();
	good = is_good(result);
	if (!good)
		ctl_complain_of(result);
	PQclear(result);
	return good;
}
