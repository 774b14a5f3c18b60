#include "policy/script.h"

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "config/config.h"
#include "db/pool.h"
#include "tables/subject.h"

#include <ev.h>
#include <stdio.h>
#include <stdlib.h>

/*
 * The server gives up at query_timeout and says so, which keeps the connection;
 * only one that says nothing is dropped, a little later.
 */
static const double GRACE_S = 0.2;

enum { LIMITS = 32 };

struct scripts {
	struct ev_loop *loop;
	const struct config *config;
	struct db_pool *pool;
	struct log_limit limit[LIMITS]; /* by name: one must not hide another */
};

struct script_call {
	struct scripts *scripts;
	struct db_call *call;
	script_done_fn *done;
	void *arg;
	char name[64];
};

static void
connect_pool(struct scripts *s)
{
	struct db_options options = {
	    .conninfo = s->config->database.conninfo,
	    .connect_timeout_s = 5,
	    .reconnect_max_s = s->config->database.reconnect_max_s,
	};
	char timeout[32];

	snprintf(timeout, sizeof(timeout), "%.0f",
	    s->config->database.query_timeout_s * 1000);
	s->pool = db_pool_new(s->loop, &options,
	    (int)s->config->database.script_connections,
	    &(struct db_pool_setup){.sql = DB_SET_TIMEOUT,
		.parameter = timeout});
}

struct scripts *
scripts_new(struct ev_loop *loop, const struct config *config)
{
	struct scripts *s = mem_zalloc(sizeof(*s));

	s->loop = loop;
	s->config = config;
	connect_pool(s);
	return s;
}

void
scripts_free(struct scripts *s)
{
	if (s == NULL)
		return;
	db_pool_free(s->pool);
	free(s);
}

void
scripts_count(const struct scripts *s, struct db_count *count)
{
	db_pool_count(s->pool, count);
}

void
scripts_reconfigure(struct scripts *s, const struct config *config)
{
	const struct config *old = s->config;
	struct db_pool *before = s->pool;

	s->config = config;
	if (strcmp(old->database.conninfo, config->database.conninfo) == 0 &&
	    old->database.script_connections ==
		config->database.script_connections &&
	    old->database.query_timeout_s == config->database.query_timeout_s &&
	    old->database.reconnect_max_s == config->database.reconnect_max_s)
		return;
	/* What fails with the old one may ask for the next script at once. */
	connect_pool(s);
	db_pool_free(before);
}

/* ---- the request as JSON ---- */

static void
add_escaped(struct sbuf *b, struct str s)
{
	for (size_t i = 0, len; i < s.n; i += len) {
		len = utf8_len(s.p + i, s.n - i);
		if (len == 0) {
			sbuf_add(b, STR("\xef\xbf\xbd")); /* U+FFFD */
			len = 1;
		} else if (len == 1 && ((unsigned char)s.p[i] < ' ')) {
			sbuf_addf(b, "\\u%04x", (unsigned char)s.p[i]);
		} else {
			if (s.p[i] == '"' || s.p[i] == '\\')
				sbuf_addc(b, '\\');
			sbuf_add(b, (struct str){s.p + i, len});
		}
	}
}

/* Every attribute, empty where it did not come; the caller frees it. */
static char *
request_json(struct subject *s)
{
	enum { OVERHEAD = 40 }; /* quotes, colon, comma and the name */
	size_t size = 3;
	struct sbuf b;
	char *buf;
	bool first = true;

	for (int a = 0; a < SUBJECT_ATTRIBUTES; a++)
		size += subject_value(s, a).n * 6 + OVERHEAD;
	buf = mem_alloc(size);
	b = sbuf_over(buf, size);
	sbuf_addc(&b, '{');
	for (int a = ATTR_request + 1; a < SUBJECT_ATTRIBUTES; a++) {
		if (!first)
			sbuf_addc(&b, ',');
		first = false;
		sbuf_addc(&b, '"');
		sbuf_add(&b, subject_name(a));
		sbuf_add(&b, STR("\":\""));
		add_escaped(&b, subject_value(s, a));
		sbuf_addc(&b, '"');
	}
	sbuf_addc(&b, '}');
	return buf;
}

/* ---- calling ---- */

static void
log_failure(struct scripts *s, const char *name, const char *why)
{
	struct log_entry e;
	uint64_t suppressed;

	if (!log_allowed(&s->limit[hash(name, strlen(name)) % LIMITS],
		ev_now(s->loop), &suppressed))
		return;
	log_begin(&e, LOG_ERR, "a script failed");
	log_str(&e, "script", str_of(name));
	log_str(&e, "error", str_of(why));
	if (suppressed > 0)
		log_int(&e, "suppressed", (int64_t)suppressed);
	log_end(&e);
}

static void
on_done(void *arg, enum db_outcome outcome, PGresult *res)
{
	struct script_call *r = arg;
	script_done_fn *done = r->done;
	void *done_arg = r->arg;
	enum script_result result = SCRIPT_FAILED;
	struct str text = STR("");

	switch (outcome) {
	case DB_OK:
		if (PQntuples(res) != 1 || PQgetisnull(res, 0, 0)) {
			result = SCRIPT_GO_ON;
			break;
		}
		result = SCRIPT_ANSWER;
		text = (struct str){PQgetvalue(res, 0, 0),
		    (size_t)PQgetlength(res, 0, 0)};
		break;
	case DB_REFUSED:
		log_failure(r->scripts, r->name,
		    PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY));
		break;
	case DB_TIMEOUT:
		log_failure(r->scripts, r->name, "no answer within the time");
		break;
	case DB_LOST:
		log_failure(r->scripts, r->name, "connection lost");
		break;
	}
	free(r);
	done(done_arg, result, text);
	PQclear(res);
}

struct script_call *
script_call(struct scripts *s, struct str name, struct subject *subject,
    double max_s, script_done_fn *done, void *arg)
{
	double limit_s = s->config->database.query_timeout_s + GRACE_S;
	struct script_call *r = mem_zalloc(sizeof(*r));
	char sql[128], *json = request_json(subject);
	const char *params[] = {json};

	r->scripts = s;
	r->done = done;
	r->arg = arg;
	/* A name is letters, digits and '_': config.c, rule.c. */
	snprintf(r->name, sizeof(r->name), "%.*s", (int)name.n, name.p);
	snprintf(sql, sizeof(sql), "SELECT policyd_script.\"%s\"($1::jsonb)",
	    r->name);
	r->call = db_pool_query(s->pool, sql, 1, params,
	    limit_s < max_s ? limit_s : max_s, on_done, r);
	free(json);
	if (r->call == NULL) {
		log_failure(s, r->name, "no connection to the database");
		free(r);
		return NULL;
	}
	return r;
}

void
script_cancel(struct script_call *call)
{
	db_call_cancel(call->call);
	free(call);
}
