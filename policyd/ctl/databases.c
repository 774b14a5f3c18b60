/*
 * policyctl import sqlgrey, iredapd - from the PostgreSQL databases of others.
 */

#include "base/mem.h"
#include "ctl/import.h"

#include <stdlib.h>

/* ---- their database ---- */

static void
complain_of_theirs(const char *message)
{
	ctl_complain("The argument says where their PostgreSQL database is, "
		     "and as whom to connect: a conninfo or a URI of libpq.",
	    "%.*s", (int)strcspn(message, "\n"), message);
}

/* In one snapshot; NULL, complained of. */
static PGconn *
connect_to(const struct ctl *ctl, const char *conninfo)
{
	PGconn *db = ctl_open(ctl, conninfo);

	if (PQstatus(db) == CONNECTION_OK) {
		PQclear(PQexec(db, "BEGIN ISOLATION LEVEL REPEATABLE READ,"
				   " READ ONLY"));
		return db;
	}
	complain_of_theirs(PQerrorMessage(db));
	PQfinish(db);
	return NULL;
}

typedef void row_fn(struct import *, const PGresult *, int row);

/* Hand over each row of a query, without keeping them. */
static bool
each_row(struct import *im, PGconn *db, const char *sql, row_fn *take)
{
	bool good = PQsendQuery(db, sql) == 1 && PQsetSingleRowMode(db) == 1;
	PGresult *result;

	if (!good)
		complain_of_theirs(PQerrorMessage(db));
	while ((result = PQgetResult(db)) != NULL) {
		ExecStatusType status = PQresultStatus(result);

		for (int i = 0; i < PQntuples(result); i++)
			take(im, result, i);
		if (status != PGRES_SINGLE_TUPLE &&
		    status != PGRES_TUPLES_OK) {
			const char *why = PQresultErrorField(result,
			    PG_DIAG_MESSAGE_PRIMARY);

			complain_of_theirs(why != NULL ?
				why : PQresultErrorMessage(result));
			good = false;
		}
		PQclear(result);
	}
	return good && !im->failed;
}

static struct str
cell(const PGresult *result, int row, int column)
{
	return (struct str){PQgetvalue(result, row, column),
	    (size_t)PQgetlength(result, row, column)};
}

/* Nothing was before 1970, not even what says -infinity. */
static double
time_cell(const PGresult *result, int row, int column)
{
	double t = strtod(PQgetvalue(result, row, column), NULL);

	return t > 0 ? t : 0;
}

/* Theirs are of 64 bits, ours of 32. */
static int
count_cell(const PGresult *result, int row, int column)
{
	double n = strtod(PQgetvalue(result, row, column), NULL);

	return n < 1000000 ? (int)(n > 0 ? n : 0) : 1000000;
}

/* ---- sqlgrey ---- */

static const char SQLGREY_CONNECT[] =
    "SELECT src, CASE WHEN sender_domain <> '-undef-'"
    "   THEN sender_name || '@' || sender_domain"
    "  WHEN sender_name <> '-undef-' THEN sender_name ELSE '' END,"
    " rcpt, date_part('epoch', first_seen::timestamptz) FROM connect";

/* Whom it let pass, it knows without recipients. */
static const char SQLGREY_AWL[] =
    "SELECT src, date_part('epoch', last_seen::timestamptz) FROM from_awl"
    " UNION ALL"
    " SELECT src, date_part('epoch', last_seen::timestamptz) FROM domain_awl";

static void
take_connect(struct import *im, const PGresult *result, int row)
{
	double first = time_cell(result, row, 3);
	struct import_key k = {{0}, cell(result, row, 1), cell(result, row, 2),
	    first, first, false, 1};

	if (foreign_sqlgrey_client(cell(result, row, 0), &k.client))
		import_key(im, &k);
	else
		import_skip(im, IMPORT_KEYS, SKIP_CLIENT);
}

static void
take_awl(struct import *im, const PGresult *result, int row)
{
	struct cidr client;

	if (foreign_sqlgrey_client(cell(result, row, 0), &client))
		import_client(im, &client, 1, time_cell(result, row, 1));
	else
		import_skip(im, IMPORT_CLIENTS, SKIP_CLIENT);
}

static bool
read_sqlgrey(struct import *im, PGconn *db)
{
	return each_row(im, db, SQLGREY_CONNECT, take_connect) &&
	    each_row(im, db, SQLGREY_AWL, take_awl);
}

/* ---- iRedAPD ---- */

/*
 * When it last let somebody pass it writes as when that ends, 30 days later by
 * default; what has ended counts as too old.
 */
static const char IREDAPD_TRACKING[] =
    "SELECT client_address, sender, recipient, init_time,"
    " CASE WHEN record_expired < date_part('epoch', now()) THEN 0"
    "  WHEN passed = 1 THEN greatest(init_time, record_expired - 30 * 86400)"
    "  ELSE init_time END, passed, blocked_count FROM greylisting_tracking";

static const char IREDAPD_WHITELISTS[] =
    "SELECT sender, account = '@.', coalesce('iRedAPD: ' || nullif(comment, ''),"
    " 'iRedAPD') FROM greylisting_whitelists ORDER BY id";

/* That of their hosts' addresses is made of this one, out of SPF, each day. */
static const char IREDAPD_DOMAINS[] =
    "SELECT domain, 'iRedAPD: ' || domain FROM greylisting_whitelist_domains"
    " ORDER BY id";

static void
take_tracking(struct import *im, const PGresult *result, int row)
{
	struct import_key k = {.sender = cell(result, row, 1),
	    .recipient = cell(result, row, 2),
	    .first = time_cell(result, row, 3),
	    .last = time_cell(result, row, 4),
	    .passed = PQgetvalue(result, row, 5)[0] == '1',
	    .attempts = count_cell(result, row, 6)};

	k.attempts += k.passed;
	if (k.last == 0)
		import_skip(im, IMPORT_KEYS, SKIP_OLD);
	else if (cidr_parse(cell(result, row, 0), &k.client) == NULL)
		import_key(im, &k);
	else
		import_skip(im, IMPORT_KEYS, SKIP_CLIENT);
}

static void
take_whitelist(struct import *im, const PGresult *result, int row)
{
	char buf[CIDR_TEXT_MAX_BYTES];
	struct cidr client;

	if (!foreign_iredapd_client(cell(result, row, 0), &client))
		import_skip(im, IMPORT_ALLOWED, SKIP_SENDERS);
	else if (PQgetvalue(result, row, 1)[0] != 't')
		import_skip(im, IMPORT_ALLOWED, SKIP_SOME);
	else
		import_allowed(im, cidr_format(&client, buf),
		    cell(result, row, 2));
}

/* It stands for its hosts, and need be none itself. */
static void
take_domain(struct import *im, const PGresult *result, int row)
{
	struct str name = cell(result, row, 0), above = name;
	struct key_clients clients = {0};

	while (above.n > 0 && key_clients(&im->key, above, &clients) != NULL)
		above = domain_parent(above);
	key_clients_free(&clients);
	import_allowed(im, above.n > 0 ? above : name, cell(result, row, 1));
}

static bool
read_iredapd(struct import *im, PGconn *db)
{
	return each_row(im, db, IREDAPD_TRACKING, take_tracking) &&
	    each_row(im, db, IREDAPD_WHITELISTS, take_whitelist) &&
	    each_row(im, db, IREDAPD_DOMAINS, take_domain);
}

/* ---- the commands ---- */

static enum ctl_status
import_database(struct ctl *ctl, const char *conninfo,
    bool (*read)(struct import *, PGconn *))
{
	enum ctl_status status = CTL_NO;
	PGconn *db = connect_to(ctl, conninfo);
	struct import im;

	if (db == NULL)
		return CTL_NO;
	if (import_begin(&im, ctl))
		status = import_end(&im, read(&im, db));
	PQfinish(db);
	return status;
}

enum ctl_status
import_sqlgrey(struct ctl *ctl, const struct table *table,
    const struct values *values)
{
	(void)table;
	return import_database(ctl, values->of[0], read_sqlgrey);
}

enum ctl_status
import_iredapd(struct ctl *ctl, const struct table *table,
    const struct values *values)
{
	(void)table;
	return import_database(ctl, values->of[0], read_iredapd);
}
