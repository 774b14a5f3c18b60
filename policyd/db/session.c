#include "db/session.h"

#include "base/clock.h"
#include "base/mem.h"
#include "db/places.h"

#include <assert.h>
#include <ev.h>
#include <stdlib.h>

static const double FIRST_RETRY_S = 0.1;

/* The server is back: all who wait for it come within so long. */
static const double TOGETHER_S = 0.1;

struct db_session {
	struct db_session *next; /* of all */
	struct ev_loop *loop;
	struct db_handlers on;
	char *conninfo;
	double connect_timeout_s;
	double reconnect_max_s;

	enum db_state state;
	PGconn *conn; /* NULL when DOWN, and while CONNECTING looks for hosts */
	ev_io io;
	ev_timer timer;  /* DOWN: retry; CONNECTING, BUSY: deadline */
	double retry_s;  /* how long the next wait is, before jitter */
	double since;    /* when it came up, or was lost; for people */
	double began;    /* when it came up; clock_s() */
	bool unreached;  /* the last attempt got no connection */
	bool dropped;    /* by its owner: it is of no use there */
	bool flushing;   /* libpq holds bytes that the socket did not take */
	char *broken;    /* why to drop it, found inside a caller's call */
	struct places *places;

	db_done_fn *done;
	void *done_arg;
	PGresult *result; /* of the query in flight, until all of it is read */
};

/* A handful. */
static struct db_session *all;

static void on_io(struct ev_loop *loop, ev_io *w, int events);
static void on_timer(struct ev_loop *loop, ev_timer *w, int events);

struct str
db_first_line(const char *message)
{
	struct str s = str_of(message);
	const char *lf = memchr(s.p, '\n', s.n);

	return lf == NULL ? s : (struct str){s.p, (size_t)(lf - s.p)};
}

/* The server's notices are for its log; libpq would print them on stderr. */
static void
on_notice(void *arg, const PGresult *res)
{
	(void)arg;
	(void)res;
}

static void
set_timer(struct db_session *s, double after_s)
{
	ev_timer_stop(s->loop, &s->timer);
	ev_now_update(s->loop);
	ev_timer_set(&s->timer, after_s, 0);
	ev_timer_start(s->loop, &s->timer);
}

/*
 * libpq may have closed its socket and opened another under the same number,
 * which epoll would not notice: always stop, set anew, start.
 */
static void
watch(struct db_session *s, int events)
{
	ev_io_stop(s->loop, &s->io);
	if (PQsocket(s->conn) == -1)
		return;
	ev_io_set(&s->io, PQsocket(s->conn), events);
	ev_io_start(s->loop, &s->io);
}

static double
with_jitter(double s)
{
	return s * (0.5 + drand48());
}

/* When to try again; each time later. */
static void
set_retry(struct db_session *s)
{
	double after_s = with_jitter(s->retry_s);

	set_timer(s, after_s < s->reconnect_max_s ? after_s :
						    s->reconnect_max_s);
	s->retry_s *= 2;
	if (s->retry_s > s->reconnect_max_s)
		s->retry_s = s->reconnect_max_s;
}

/*
 * There is a server: those that found none need not wait any longer.  Not those
 * that were connected and dropped, which would have each other try for ever.
 */
static void
tell_others(const struct db_session *s)
{
	for (struct db_session *o = all; o != NULL; o = o->next) {
		double after_s = drand48() * TOGETHER_S;

		if (o != s && o->state == DB_DOWN && o->unreached &&
		    strcmp(o->conninfo, s->conninfo) == 0 &&
		    ev_timer_remaining(o->loop, &o->timer) > after_s)
			set_timer(o, after_s);
	}
}

/* What was good for a while is as good as ever: begin anew. */
static void
judge_life(struct db_session *s)
{
	s->unreached = s->state == DB_CONNECTING;
	if (!s->unreached) {
		s->since = ev_now(s->loop);
		if (clock_s() - s->began > s->reconnect_max_s) {
			s->retry_s = FIRST_RETRY_S;
			places_in_order(s->places);
		}
	}
	if (s->dropped)
		places_turn(s->places);
	s->dropped = false;
}

/* The one place where a session goes down. */
static void
go_down(struct db_session *s, enum db_outcome outcome, const char *why)
{
	db_done_fn *done = s->done;
	char *reason = mem_strdup(why);

	ev_io_stop(s->loop, &s->io);
	PQclear(s->result);
	PQfinish(s->conn);
	s->result = NULL;
	s->conn = NULL;
	s->done = NULL;
	s->flushing = false;
	free(s->broken);
	s->broken = NULL;
	judge_life(s);
	s->state = DB_DOWN;
	set_retry(s);
	if (done != NULL)
		done(s->done_arg, outcome, NULL);
	if (s->on.down != NULL)
		s->on.down(s->on.arg, reason);
	free(reason);
}

static void
fail(struct db_session *s, enum db_outcome outcome)
{
	char why[400];
	struct sbuf b = sbuf_over(why, sizeof(why));

	sbuf_add(&b, db_first_line(PQerrorMessage(s->conn)));
	go_down(s, outcome, b.n > 0 ? why : "connection lost");
}

/* ---- connecting ---- */

static void
connect_step(struct db_session *s, PostgresPollingStatusType status)
{
	switch (status) {
	case PGRES_POLLING_READING:
		watch(s, EV_READ);
		return;
	case PGRES_POLLING_WRITING:
		watch(s, EV_WRITE);
		return;
	case PGRES_POLLING_OK:
		if (PQsetnonblocking(s->conn, 1) == -1)
			break;
		ev_timer_stop(s->loop, &s->timer);
		s->state = DB_IDLE;
		s->since = ev_now(s->loop);
		s->began = clock_s();
		watch(s, EV_READ);
		tell_others(s);
		if (s->on.up != NULL)
			s->on.up(s->on.arg);
		return;
	case PGRES_POLLING_FAILED:
	case PGRES_POLLING_ACTIVE:
		break;
	}
	fail(s, DB_LOST);
}

/*
 * Defaults come before conninfo, which may override them; what must hold comes
 * after it.  One that is NULL changes nothing.
 */
static void
start_connecting(struct db_session *s)
{
	static const char *const keys[] = {"keepalives_idle",
	    "keepalives_interval", "keepalives_count", "tcp_user_timeout",
	    "gssencmode", "fallback_application_name", "target_session_attrs",
	    "dbname", "client_encoding", "host", "hostaddr", "port", NULL};
	struct places_list to;
	const char *nowhere = places_list(s->places, &to);
	const char *const values[] = {"30", "10", "3", "30000", "disable",
	    "policyd", to.session_attrs, s->conninfo, "UTF8", to.host,
	    to.hostaddr, to.port, NULL};

	if (nowhere != NULL) {
		go_down(s, DB_LOST, nowhere);
		return;
	}
	s->conn = PQconnectStartParams(keys, values, 1);
	if (s->conn == NULL) {
		go_down(s, DB_LOST, "out of memory");
		return;
	}
	PQsetNoticeReceiver(s->conn, on_notice, NULL);
	if (PQstatus(s->conn) == CONNECTION_BAD) {
		fail(s, DB_LOST);
		return;
	}
	set_timer(s, s->connect_timeout_s);
	watch(s, EV_WRITE);
}

static void
find_places(struct db_session *s)
{
	double wait_s;

	s->state = DB_CONNECTING;
	places_find(s->places);
	wait_s = places_wait_s(s->places, s->connect_timeout_s);
	if (wait_s > 0)
		set_timer(s, wait_s);
	else
		start_connecting(s);
}

/* Not from here: others want to hear of it, too. */
static void
on_place(void *arg)
{
	struct db_session *s = arg;

	if (s->state == DB_CONNECTING && s->conn == NULL &&
	    s->broken == NULL)
		set_timer(s, places_wait_s(s->places, s->connect_timeout_s));
}

/* ---- one query ---- */

static bool
flush(struct db_session *s)
{
	int rc = PQflush(s->conn);

	if (rc == -1)
		return false;
	s->flushing = rc == 1;
	watch(s, s->flushing ? EV_READ | EV_WRITE : EV_READ);
	return true;
}

/* Keep the first error, else the last result: there is one statement. */
static void
keep(struct db_session *s, PGresult *res)
{
	if (s->result != NULL &&
	    PQresultStatus(s->result) == PGRES_FATAL_ERROR) {
		PQclear(res);
		return;
	}
	PQclear(s->result);
	s->result = res;
}

/* Is all of the answer here? */
static bool
read_results(struct db_session *s)
{
	while (!PQisBusy(s->conn)) {
		PGresult *res = PQgetResult(s->conn);

		if (res == NULL)
			return true;
		keep(s, res);
		if (PQstatus(s->conn) == CONNECTION_BAD)
			return false;
	}
	return false;
}

static void
finish_query(struct db_session *s)
{
	PGresult *res = s->result;
	db_done_fn *done = s->done;
	ExecStatusType status = PQresultStatus(res);
	bool good = status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK;

	ev_timer_stop(s->loop, &s->timer);
	s->result = NULL;
	s->done = NULL;
	s->state = DB_IDLE;
	done(s->done_arg, good ? DB_OK : DB_REFUSED, res);
}

static void
deliver_notifies(struct db_session *s)
{
	PGnotify *n;

	while (s->conn != NULL && (n = PQnotifies(s->conn)) != NULL) {
		if (s->on.notified != NULL)
			s->on.notified(s->on.arg, n->relname, n->extra);
		PQfreemem(n);
	}
}

static void
on_ready(struct db_session *s)
{
	if (PQconsumeInput(s->conn) == 0) {
		fail(s, DB_LOST);
		return;
	}
	if (s->flushing && !flush(s)) {
		fail(s, DB_LOST);
		return;
	}
	if (!s->flushing)
		watch(s, EV_READ);
	if (s->state == DB_BUSY && read_results(s)) {
		deliver_notifies(s);
		if (s->state == DB_BUSY)
			finish_query(s);
		return;
	}
	if (PQstatus(s->conn) == CONNECTION_BAD || PQsocket(s->conn) == -1) {
		fail(s, DB_LOST);
		return;
	}
	deliver_notifies(s);
}

static void
on_io(struct ev_loop *loop, ev_io *w, int events)
{
	struct db_session *s = w->data;

	/* EV_ERROR: epoll does not take it; what is there is read all the same. */
	(void)events;
	/* libpq may close the socket: epoll must have let go of it before. */
	ev_io_stop(loop, w);
	if (s->broken != NULL)
		return; /* the timer drops it in this turn or the next */
	if (s->state == DB_CONNECTING)
		connect_step(s, PQconnectPoll(s->conn));
	else
		on_ready(s);
}

static void
on_timer(struct ev_loop *loop, ev_timer *w, int events)
{
	struct db_session *s = w->data;

	(void)loop;
	(void)events;
	if (s->broken != NULL) {
		char *why = s->broken;

		s->broken = NULL;
		go_down(s, DB_LOST, why);
		free(why);
		return;
	}
	switch (s->state) {
	case DB_DOWN:
		find_places(s);
		break;
	case DB_CONNECTING:
		if (s->conn == NULL) {
			start_connecting(s);
			break;
		}
		places_turn(s->places);
		go_down(s, DB_TIMEOUT, "no connection within the time");
		break;
	case DB_BUSY:
		go_down(s, DB_TIMEOUT, "no answer within the time");
		break;
	case DB_IDLE:
		break;
	}
}

/* Found inside a caller's call: go down in the next turn of the loop. */
static void
break_later(struct db_session *s, struct str why)
{
	if (s->broken == NULL)
		s->broken = mem_strndup(why.p, why.n);
	set_timer(s, 0);
}

/* Before libpq is asked to send something. */
static void
begin_query(struct db_session *s, double timeout_s, db_done_fn *done,
    void *arg)
{
	assert(s->state == DB_IDLE);
	s->state = DB_BUSY;
	s->done = done;
	s->done_arg = arg;
	ev_io_stop(s->loop, &s->io);
	set_timer(s, timeout_s);
}

static void
end_query(struct db_session *s, bool sent)
{
	if (!sent || !flush(s))
		break_later(s, db_first_line(PQerrorMessage(s->conn)));
}

void
db_query(struct db_session *s, const char *sql, int n,
    const char *const *params, double timeout_s, db_done_fn *done, void *arg)
{
	begin_query(s, timeout_s, done, arg);
	end_query(s, s->broken == NULL &&
		PQsendQueryParams(s->conn, sql, n, NULL, params, NULL, NULL,
		    0));
}

void
db_prepare(struct db_session *s, const char *name, const char *sql,
    double timeout_s, db_done_fn *done, void *arg)
{
	begin_query(s, timeout_s, done, arg);
	end_query(s, s->broken == NULL &&
		PQsendPrepare(s->conn, name, sql, 0, NULL));
}

void
db_query_prepared(struct db_session *s, const char *name, int n,
    const char *const *params, double timeout_s, db_done_fn *done, void *arg)
{
	begin_query(s, timeout_s, done, arg);
	end_query(s, s->broken == NULL &&
		PQsendQueryPrepared(s->conn, name, n, params, NULL, NULL, 0));
}

void
db_session_drop(struct db_session *s, const char *why)
{
	if (s->state == DB_DOWN)
		return;
	s->dropped = true;
	break_later(s, str_of(why));
}

struct db_session *
db_session_new(struct ev_loop *loop, const struct db_options *options,
    const struct db_handlers *handlers)
{
	struct db_session *s = mem_zalloc(sizeof(*s));

	s->loop = loop;
	s->on = *handlers;
	s->conninfo = mem_strdup(options->conninfo);
	s->places = places_new(loop, options->conninfo, on_place, s);
	s->connect_timeout_s = options->connect_timeout_s;
	s->reconnect_max_s = options->reconnect_max_s;
	s->retry_s = FIRST_RETRY_S;
	s->state = DB_DOWN;
	ev_init(&s->io, on_io);
	ev_init(&s->timer, on_timer);
	s->io.data = s;
	s->timer.data = s;
	s->next = all;
	all = s;
	set_timer(s, 0);
	return s;
}

void
db_session_free(struct db_session *s)
{
	struct db_session **at = &all;

	if (s == NULL)
		return;
	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	ev_io_stop(s->loop, &s->io);
	ev_timer_stop(s->loop, &s->timer);
	PQclear(s->result);
	PQfinish(s->conn);
	free(s->conninfo);
	free(s->broken);
	places_free(s->places);
	free(s);
}

enum db_state
db_session_state(const struct db_session *s)
{
	return s->state;
}

void
db_session_count(const struct db_session *s, struct db_count *count)
{
	count->wanted++;
	if (s->state >= DB_IDLE)
		count->up++;
	if (s->since > count->since)
		count->since = s->since;
}
