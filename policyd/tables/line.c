#include "tables/line.h"

#include "base/log.h"
#include "base/mem.h"
#include "config/config.h"

#include <ev.h>
#include <stdlib.h>

static const double CONNECT_TIMEOUT_S = 5;
/* The server gives up before we do. */
static const double GRACE_S = 5;
/* An idle connection that died says nothing: ask it. */
static const double PING_S = 10;

/* Times come in one form, and cursors are planned for all their rows. */
static const char SETUP[] = "SELECT set_config('DateStyle', 'ISO', false), "
			    "set_config('TimeZone', 'UTC', false), "
			    "set_config('cursor_tuple_fraction', '1', false)";

struct limits {
	double statement_s, lock_s;
};

/* What the line asks for itself; the first two make it ready. */
enum phase {
	PHASE_NONE,
	PHASE_SETUP,
	PHASE_LISTEN,
	PHASE_LIMITS,
	PHASE_PING,
};

struct line {
	struct ev_loop *loop;
	const struct config *config;
	struct line_handlers on;
	bool quiet;
	struct db_session *db;
	enum phase phase;     /* what is out */
	struct limits limits; /* of the session */
	ev_timer ping;
	struct log_limit down_limit;
};

static void on_own_answer(void *arg, enum db_outcome outcome, PGresult *res);

/* ---- statements ---- */

void
line_ask(struct line *l, const char *sql, const char *param, db_done_fn *done,
    void *arg)
{
	db_query(l->db, sql, param != NULL, &param,
	    l->config->database.query_timeout_s, done, arg);
}

void
line_read(struct line *l, const char *sql, const char *param, db_done_fn *done,
    void *arg)
{
	db_query(l->db, sql, param != NULL, &param,
	    l->limits.statement_s + GRACE_S, done, arg);
}

static void
ask_own(struct line *l, enum phase phase, const char *sql)
{
	l->phase = phase;
	line_ask(l, sql, NULL, on_own_answer, l);
}

bool
line_limit(struct line *l, double statement_s, double lock_s)
{
	char sql[160];

	if (statement_s == l->limits.statement_s && lock_s == l->limits.lock_s)
		return false;
	l->limits = (struct limits){statement_s, lock_s};
	snprintf(sql, sizeof(sql),
	    "SELECT set_config('statement_timeout', '%.0f', false), "
	    "set_config('lock_timeout', '%.0f', false)",
	    statement_s * 1000, lock_s * 1000);
	ask_own(l, PHASE_LIMITS, sql);
	return true;
}

static void
go_on(struct line *l)
{
	bool is_new = l->phase == PHASE_LISTEN;

	if (l->phase == PHASE_SETUP) {
		ask_own(l, PHASE_LISTEN, "LISTEN policyd");
		return;
	}
	l->phase = PHASE_NONE;
	if (is_new)
		l->on.listening(l->on.arg);
	l->on.free(l->on.arg);
}

static void
on_own_answer(void *arg, enum db_outcome outcome, PGresult *res)
{
	struct line *l = arg;

	/* Of any other outcome on_down() tells. */
	if (outcome == DB_OK)
		go_on(l);
	else if (outcome == DB_REFUSED)
		line_refused(l, res, STR(""));
	PQclear(res);
}

void
line_refused(struct line *l, const PGresult *res, struct str table)
{
	struct log_entry e;

	log_begin(&e, LOG_ERR, "the database refused to be read");
	if (table.n > 0)
		log_str(&e, "table", table);
	log_str(&e, "sqlstate",
	    str_of(PQresultErrorField(res, PG_DIAG_SQLSTATE)));
	log_str(&e, "error",
	    str_of(PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY)));
	log_end(&e);
	line_drop(l, "the database refused to be read");
}

bool
line_drop(struct line *l, const char *why)
{
	if (db_session_state(l->db) == DB_DOWN)
		return false;
	db_session_drop(l->db, why);
	return true;
}

/* ---- how it is ---- */

bool
line_is_up(const struct line *l)
{
	return db_session_state(l->db) >= DB_IDLE;
}

bool
line_is_listening(const struct line *l)
{
	return line_is_up(l) && l->phase != PHASE_SETUP &&
	    l->phase != PHASE_LISTEN;
}

bool
line_is_busy(const struct line *l)
{
	return l->phase != PHASE_NONE;
}

bool
line_is_free(const struct line *l)
{
	return l->phase == PHASE_NONE && db_session_state(l->db) == DB_IDLE;
}

bool
line_is_impatient(const struct line *l)
{
	return l->limits.lock_s > 0;
}

void
line_count(const struct line *l, struct db_count *count)
{
	db_session_count(l->db, count);
}

/* ---- the connection ---- */

static void
on_up(void *arg)
{
	struct line *l = arg;

	if (!l->quiet)
		log_line(LOG_INFO, "database connection up");
	ev_timer_again(l->loop, &l->ping);
	l->limits = (struct limits){0};
	ask_own(l, PHASE_SETUP, SETUP);
}

static void
log_down(struct line *l, const char *why)
{
	struct log_entry e;
	uint64_t suppressed;

	if (!log_allowed(&l->down_limit, ev_now(l->loop), &suppressed))
		return;
	log_begin(&e, LOG_WARNING, "database connection down");
	log_str(&e, "error", str_of(why));
	if (suppressed > 0)
		log_int(&e, "suppressed", (int64_t)suppressed);
	log_end(&e);
}

static void
on_down(void *arg, const char *why)
{
	struct line *l = arg;

	ev_timer_stop(l->loop, &l->ping);
	l->phase = PHASE_NONE;
	if (!l->quiet)
		log_down(l, why);
	l->on.down(l->on.arg);
}

static void
on_notified(void *arg, const char *channel, const char *payload)
{
	const struct line *l = arg;

	if (strcmp(channel, "policyd") == 0)
		l->on.heard(l->on.arg, payload);
}

static void
on_ping(struct ev_loop *loop, ev_timer *w, int events)
{
	struct line *l = w->data;

	(void)loop;
	(void)events;
	if (line_is_free(l))
		ask_own(l, PHASE_PING, "SELECT 1");
}

static void
call(struct line *l)
{
	struct db_options options = {
	    .conninfo = l->config->database.listen_conninfo,
	    .connect_timeout_s = CONNECT_TIMEOUT_S,
	    .reconnect_max_s = l->config->database.reconnect_max_s,
	};
	struct db_handlers handlers = {on_up, on_down, on_notified, l};

	l->db = db_session_new(l->loop, &options, &handlers);
}

static void
hang_up(struct line *l)
{
	db_session_free(l->db);
	l->phase = PHASE_NONE;
	ev_timer_stop(l->loop, &l->ping);
}

/* ---- life ---- */

struct line *
line_new(struct ev_loop *loop, const struct config *config, bool quiet,
    const struct line_handlers *handlers)
{
	struct line *l = mem_zalloc(sizeof(*l));

	l->loop = loop;
	l->config = config;
	l->quiet = quiet;
	l->on = *handlers;
	ev_timer_init(&l->ping, on_ping, PING_S, PING_S);
	l->ping.data = l;
	call(l);
	return l;
}

void
line_free(struct line *l)
{
	if (l == NULL)
		return;
	hang_up(l);
	free(l);
}

bool
line_reconfigure(struct line *l, const struct config *config, bool anew)
{
	const struct config *old = l->config;

	l->config = config;
	if (!anew &&
	    strcmp(old->database.listen_conninfo,
		config->database.listen_conninfo) == 0 &&
	    old->database.reconnect_max_s == config->database.reconnect_max_s)
		return false;
	hang_up(l);
	call(l);
	return true;
}
