#include "ctl/import.h"

#include <inttypes.h>
#include <stdlib.h>

enum { ROW_MAX_BYTES = 8192, REASON_MAX_BYTES = 1000 };

static const char *const what_names[IMPORT_WHATS] = {"keys", "clients",
    "allowed"};

static const char *const skip_names[SKIPS] = {
    [SKIP_OLD] = "too old",
    [SKIP_UNKNOWN] = "not understood",
    [SKIP_HASHED] = "hashed by --privacy",
    [SKIP_CLIENT] = "without an IP address",
    [SKIP_WIDE] = "of a network wider than ipv4_prefix or ipv6_prefix",
    [SKIP_RECIPIENT] = "without a usable recipient",
    [SKIP_SOME] = "for some recipients only",
    [SKIP_SENDERS] = "of senders, whatever the client: a rule says that",
    [SKIP_NAME] = "with a name that policyd knows no client by",
};

/* ---- to a table of our own ---- */

/* One row for anything: of a client, sender is null. */
static const char TABLE[] =
    "CREATE TEMPORARY TABLE import_row (client text COLLATE \"C\","
    " sender text COLLATE \"C\", recipient text COLLATE \"C\","
    " first_seen float8, last_seen float8, passed_at float8,"
    " count integer, reason text) ON COMMIT DROP;"
    "SET LOCAL work_mem = '64MB'";

bool
import_begin(struct import *im, struct ctl *ctl)
{
	PGresult *result;

	*im = (struct import){.ctl = ctl, .config = ctl_config(ctl)};
	if (im->config == NULL)
		return false;
	im->key = key_options_of(im->config);
	host_init();
	if (ctl_script(ctl, "BEGIN") && ctl_script(ctl, TABLE)) {
		result = ctl_query(ctl, "SELECT date_part('epoch', now())", 0,
		    NULL);
		if (result != NULL)
			im->now = strtod(PQgetvalue(result, 0, 0), NULL);
		PQclear(result);
		result = PQexec(ctl->db, "COPY import_row FROM STDIN");
		if (im->now > 0 && PQresultStatus(result) == PGRES_COPY_IN) {
			PQclear(result);
			return true;
		}
		PQclear(result);
	}
	host_done();
	config_free(im->config);
	return false;
}

static void
add_null(struct sbuf *b)
{
	sbuf_add(b, b->n > 0 ? STR("\t\\N") : STR("\\N"));
}

/* What is no UTF-8 (a database may hold anything) would end the whole import. */
static void
add_text(struct sbuf *b, struct str s)
{
	static const char *const escapes[] = {
	    ['\\'] = "\\\\", ['\t'] = "\\t", ['\n'] = "\\n", ['\r'] = "\\r"};

	if (b->n > 0)
		sbuf_addc(b, '\t');
	for (size_t i = 0, len; i < s.n; i += len) {
		unsigned char c = (unsigned char)s.p[i];

		len = utf8_len(s.p + i, s.n - i);
		if (len == 0)
			sbuf_addc(b, '?');
		else if (c < sizeof(escapes) / sizeof(escapes[0]) &&
		    escapes[c] != NULL)
			sbuf_add(b, str_of(escapes[c]));
		else
			sbuf_add(b, (struct str){s.p + i, len});
		len += len == 0;
	}
}

static void
add_time(struct sbuf *b, double t)
{
	sbuf_addf(b, "\t%.6f", t);
}

static void
send_row(struct import *im, struct sbuf *b)
{
	sbuf_addc(b, '\n');
	if (im->failed || PQputCopyData(im->ctl->db, b->p, (int)b->n) == 1)
		return;
	ctl_complain(NULL, "%s", PQerrorMessage(im->ctl->db));
	im->failed = true;
}

void
import_skip(struct import *im, enum import_what what, enum import_skip why)
{
	im->read[what]++;
	im->skipped[what][why]++;
}

static bool
is_wide(const struct import *im, const struct cidr *c)
{
	return c->prefix < (c->family == 4 ? im->key.host.ipv4_prefix :
					     im->key.host.ipv6_prefix);
}

void
import_key(struct import *im, const struct import_key *k)
{
	char row[ROW_MAX_BYTES], network[CIDR_TEXT_MAX_BYTES];
	char sender[SENDER_MAX_BYTES + 1], buf[ADDRESS_MAX_BYTES + 1];
	struct sbuf b = sbuf_over(row, sizeof(row));
	/* A clock that was wrong once keeps nobody waiting. */
	double first = k->first < im->now ? k->first : im->now;
	double last = k->last < im->now ? k->last : im->now;
	struct str recipient;

	if (!key_recipient(&im->key, k->recipient, buf, &recipient)) {
		import_skip(im, IMPORT_KEYS, SKIP_RECIPIENT);
	} else if (is_wide(im, &k->client)) {
		import_skip(im, IMPORT_KEYS, SKIP_WIDE);
	} else if (k->passed ? last < im->now - im->config->greylist.max_age_s :
			       first < im->now -
			im->config->greylist.retry_window_s) {
		import_skip(im, IMPORT_KEYS, SKIP_OLD);
	} else {
		im->read[IMPORT_KEYS]++;
		add_text(&b, key_network(&im->key.host, &k->client, network));
		add_text(&b, sender_fold(k->sender, k->recipient, sender));
		add_text(&b, recipient);
		add_time(&b, first);
		add_time(&b, last);
		/* When it passed they do not say: by then, it had. */
		if (k->passed)
			add_time(&b, last);
		else
			add_null(&b);
		sbuf_addf(&b, "\t%d", k->attempts);
		add_null(&b);
		send_row(im, &b);
	}
}

/* client, then nulls up to last_seen. */
static void
add_client(struct sbuf *b, struct str client)
{
	add_text(b, client);
	add_null(b);
	add_null(b);
	add_null(b);
}

void
import_client(struct import *im, const struct cidr *client, int64_t passes,
    double last)
{
	char row[ROW_MAX_BYTES], network[CIDR_TEXT_MAX_BYTES];
	struct sbuf b = sbuf_over(row, sizeof(row));

	if (last > im->now)
		last = im->now;
	if (is_wide(im, client)) {
		import_skip(im, IMPORT_CLIENTS, SKIP_WIDE);
	} else if (last < im->now - im->config->greylist.max_age_s) {
		import_skip(im, IMPORT_CLIENTS, SKIP_OLD);
	} else {
		im->read[IMPORT_CLIENTS]++;
		add_client(&b, key_network(&im->key.host, client, network));
		add_time(&b, last);
		add_null(&b);
		sbuf_addf(&b, "\t%d",
		    passes < 1000000 ? (int)passes : 1000000);
		add_null(&b);
		send_row(im, &b);
	}
}

void
import_allowed(struct import *im, struct str client, struct str reason)
{
	char row[ROW_MAX_BYTES];
	struct key_clients clients;

	if (reason.n > REASON_MAX_BYTES)
		reason.n = REASON_MAX_BYTES;
	if (key_clients(&im->key, client, &clients) != NULL) {
		import_skip(im, IMPORT_ALLOWED, SKIP_NAME);
	} else {
		im->read[IMPORT_ALLOWED]++;
		for (size_t i = 0; i < clients.count; i++) {
			struct sbuf b = sbuf_over(row, sizeof(row));

			add_client(&b, str_of(clients.name[i]));
			add_null(&b);
			add_null(&b);
			add_null(&b);
			add_text(&b, reason);
			send_row(im, &b);
		}
	}
	key_clients_free(&clients);
}

/* ---- and from there ---- */

/* What became of the rows of one table. */
struct outcome {
	const char *rows, *added, *changed; /* borrowed */
	PGresult *result;
};

/* Several of theirs may be one of ours. */
static const char FOLD[] =
    "CREATE TEMPORARY TABLE import_key ON COMMIT DROP AS"
    " SELECT client, sender, recipient, to_timestamp(min(first_seen))"
    "  AS first_seen, to_timestamp(max(last_seen)) AS last_seen,"
    "  to_timestamp(min(passed_at)) AS passed_at, max(count) AS attempts"
    " FROM import_row WHERE sender IS NOT NULL"
    " GROUP BY client, sender, recipient";

/* As greylist_merge does, but that it changes nothing the second time. */
static const char KEYS[] =
    "WITH done AS (INSERT INTO policyd.greylist AS g (client, sender,"
    "  recipient, first_seen, last_seen, passed_at, attempts)"
    " SELECT * FROM import_key ORDER BY client, sender, recipient"
    " ON CONFLICT (client, sender, recipient) DO UPDATE SET"
    "  (first_seen, last_seen, passed_at, attempts) = ("
    "   SELECT CASE WHEN is_old THEN excluded.first_seen"
    "     ELSE least(g.first_seen, excluded.first_seen) END,"
    "    greatest(g.last_seen, excluded.last_seen),"
    "    CASE WHEN is_old THEN excluded.passed_at"
    "     ELSE least(g.passed_at, excluded.passed_at) END,"
    "    CASE WHEN is_old THEN excluded.attempts"
    "     ELSE greatest(g.attempts, excluded.attempts) END"
    "   FROM policyd.greylist_is_old(g.first_seen, g.last_seen, g.passed_at,"
    "    now() - make_interval(secs => $1), now() - make_interval(secs => $2))"
    "    AS is_old)"
    " WHERE policyd.greylist_is_old(g.first_seen, g.last_seen, g.passed_at,"
    "   now() - make_interval(secs => $1), now() - make_interval(secs => $2))"
    "  OR excluded.first_seen < g.first_seen"
    "  OR excluded.last_seen > g.last_seen"
    "  OR excluded.passed_at < coalesce(g.passed_at, 'infinity')"
    "  OR excluded.attempts > g.attempts"
    " RETURNING g.xmax = 0 AS is_new)"
    "SELECT (SELECT count(*) FROM import_key), count(*) FILTER (WHERE is_new),"
    " count(*) FILTER (WHERE NOT is_new) FROM done";

/* A key that has passed has proven its client, as it would have here. */
static const char CLIENTS[] =
    "WITH new AS (SELECT client, max(passes)::integer AS passes,"
    "   max(last_seen) AS last_seen"
    "  FROM (SELECT client, least(sum(count), 1000000) AS passes,"
    "    to_timestamp(max(last_seen)) AS last_seen FROM import_row"
    "    WHERE sender IS NULL AND last_seen IS NOT NULL GROUP BY client"
    "   UNION ALL SELECT client, count(*), max(last_seen) FROM import_key"
    "    WHERE passed_at IS NOT NULL GROUP BY client) AS t"
    "  GROUP BY client),"
    " done AS (INSERT INTO policyd.client AS c (client, passes, last_seen)"
    " SELECT client, passes, last_seen FROM new ORDER BY client"
    " ON CONFLICT (client) DO UPDATE SET"
    "  passes = greatest(c.passes, excluded.passes),"
    "  last_seen = greatest(c.last_seen, excluded.last_seen)"
    " WHERE excluded.passes > c.passes OR excluded.last_seen > c.last_seen"
    " RETURNING c.xmax = 0 AS is_new)"
    "SELECT (SELECT count(*) FROM new), count(*) FILTER (WHERE is_new),"
    " count(*) FILTER (WHERE NOT is_new) FROM done";

/* What an administrator has said here goes before what he said there. */
static const char ALLOWED[] =
    "WITH new AS (SELECT client, min(reason) AS reason FROM import_row"
    "  WHERE sender IS NULL AND last_seen IS NULL GROUP BY client),"
    " done AS (INSERT INTO policyd.client AS c (client, allowed_at, reason)"
    " SELECT client, now(), reason FROM new ORDER BY client"
    " ON CONFLICT (client) DO UPDATE SET allowed_at = now(),"
    "  reason = coalesce(c.reason, excluded.reason)"
    " WHERE c.allowed_at IS NULL RETURNING c.xmax = 0 AS is_new)"
    "SELECT (SELECT count(*) FROM new), count(*) FILTER (WHERE is_new),"
    " count(*) FILTER (WHERE NOT is_new) FROM done";

static bool
merge(struct import *im, struct outcome outcomes[IMPORT_WHATS])
{
	static const char *const statements[IMPORT_WHATS] = {KEYS, CLIENTS,
	    ALLOWED};
	char window[32], age[32];
	const char *params[] = {window, age};

	snprintf(window, sizeof(window), "%.3f",
	    im->config->greylist.retry_window_s);
	snprintf(age, sizeof(age), "%.3f", im->config->greylist.max_age_s);
	if (!ctl_script(im->ctl, FOLD))
		return false;
	for (int i = 0; i < IMPORT_WHATS; i++) {
		PGresult *result = ctl_query(im->ctl, statements[i],
		    i == IMPORT_KEYS ? 2 : 0, params);

		if (result == NULL)
			return false;
		outcomes[i] = (struct outcome){PQgetvalue(result, 0, 0),
		    PQgetvalue(result, 0, 1), PQgetvalue(result, 0, 2),
		    result};
	}
	return true;
}

/* ---- the report ---- */

static uint64_t
number_of(const char *text)
{
	return strtoull(text, NULL, 10);
}

static uint64_t
unchanged(const struct outcome *o)
{
	return number_of(o->rows) - number_of(o->added) -
	    number_of(o->changed);
}

static uint64_t
skipped(const struct import *im, int what)
{
	uint64_t n = 0;

	for (int why = 0; why < SKIPS; why++)
		n += im->skipped[what][why];
	return n;
}

static void
print_for_programs(const struct import *im, const struct outcome *outcomes)
{
	const char *between = "";

	printf("{\"dry_run\": %s", im->ctl->dry_run ? "true" : "false");
	for (int i = 0; i < IMPORT_WHATS; i++)
		printf(",\n \"%s\": {\"read\": %" PRIu64 ", \"added\": %s, "
		       "\"changed\": %s, \"unchanged\": %" PRIu64
		       ", \"skipped\": %" PRIu64 "}",
		    what_names[i], im->read[i], outcomes[i].added,
		    outcomes[i].changed, unchanged(&outcomes[i]),
		    skipped(im, i));
	printf(",\n \"skipped\": [");
	for (int i = 0; i < IMPORT_WHATS; i++)
		for (int why = 0; why < SKIPS; why++)
			if (im->skipped[i][why] > 0) {
				printf("%s{\"what\": \"%s\", \"why\": \"%s\", "
				       "\"count\": %" PRIu64 "}",
				    between, what_names[i], skip_names[why],
				    im->skipped[i][why]);
				between = ", ";
			}
	puts("]}");
}

static void
print_for_people(const struct import *im, const struct outcome *outcomes)
{
	printf("%-8s %10s %10s %10s %10s %10s\n", "", "read", "skipped", "new",
	    "changed", "as before");
	for (int i = 0; i < IMPORT_WHATS; i++)
		printf("%-8s %10" PRIu64 " %10" PRIu64 " %10s %10s %10" PRIu64
		       "\n",
		    what_names[i], im->read[i], skipped(im, i),
		    outcomes[i].added, outcomes[i].changed,
		    unchanged(&outcomes[i]));
	for (int i = 0; i < IMPORT_WHATS; i++)
		for (int why = 0; why < SKIPS; why++)
			if (im->skipped[i][why] > 0)
				printf("skipped: %" PRIu64 " %s %s\n",
				    im->skipped[i][why], what_names[i],
				    skip_names[why]);
	if (im->ctl->dry_run)
		puts("nothing is changed: this was a dry run");
}

enum ctl_status
import_end(struct import *im, bool read_all)
{
	struct outcome outcomes[IMPORT_WHATS] = {0};
	const char *why = read_all && !im->failed ? NULL : "given up";
	bool done = PQputCopyEnd(im->ctl->db, why) == 1;
	PGresult *result;

	while ((result = PQgetResult(im->ctl->db)) != NULL) {
		if (PQresultStatus(result) != PGRES_COMMAND_OK) {
			if (why == NULL)
				ctl_complain_of(result);
			done = false;
		}
		PQclear(result);
	}
	done = done && why == NULL && merge(im, outcomes) &&
	    ctl_script(im->ctl, im->ctl->dry_run ? "ROLLBACK" : "COMMIT");
	if (done && im->ctl->json)
		print_for_programs(im, outcomes);
	else if (done)
		print_for_people(im, outcomes);
	for (int i = 0; i < IMPORT_WHATS; i++)
		PQclear(outcomes[i].result);
	host_done();
	config_free(im->config);
	return done ? CTL_YES : CTL_NO;
}
