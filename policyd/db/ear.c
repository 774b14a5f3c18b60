#include "db/ear.h"

#include "base/mem.h"

#include <ev.h>
#include <stdlib.h>

static const double QUERY_TIMEOUT_S = 5;
static const double PING_S = 10;

struct ear {
	struct ev_loop *loop;
	struct db_session *session;
	struct ear_handlers on;
	char *listen; /* the statement */
	bool listening;
	ev_timer ping;
};

static void
on_clock(void *arg, enum db_outcome outcome, PGresult *res)
{
	struct ear *e = arg;

	if (outcome == DB_OK && PQntuples(res) == 1)
		e->on.clock(e->on.arg, PQgetvalue(res, 0, 0));
	else if (outcome == DB_REFUSED)
		db_session_drop(e->session, "the clock cannot be read");
	PQclear(res);
}

static void
ask_clock(struct ear *e)
{
	db_query(e->session, "SELECT date_part('epoch', clock_timestamp())", 0,
	    NULL, QUERY_TIMEOUT_S, on_clock, e);
}

static void
on_listening(void *arg, enum db_outcome outcome, PGresult *res)
{
	struct ear *e = arg;

	PQclear(res);
	if (outcome == DB_REFUSED)
		db_session_drop(e->session, "the session cannot listen");
	if (outcome != DB_OK)
		return;
	e->listening = true;
	e->on.begun(e->on.arg);
	ev_timer_again(e->loop, &e->ping);
	ask_clock(e);
}

static void
on_up(void *arg)
{
	struct ear *e = arg;

	db_query(e->session, e->listen, 0, NULL, QUERY_TIMEOUT_S, on_listening,
	    e);
}

static void
on_down(void *arg, const char *why)
{
	struct ear *e = arg;

	(void)why;
	ev_timer_stop(e->loop, &e->ping);
	if (e->listening) {
		e->listening = false;
		e->on.ended(e->on.arg);
	}
}

static void
on_notified(void *arg, const char *channel, const char *payload)
{
	struct ear *e = arg;

	(void)channel;
	e->on.heard(e->on.arg, payload);
}

static void
on_ping(struct ev_loop *loop, ev_timer *w, int events)
{
	struct ear *e = w->data;

	(void)loop;
	(void)events;
	if (db_session_state(e->session) == DB_IDLE)
		ask_clock(e);
}

struct ear *
ear_new(struct ev_loop *loop, const struct db_options *options,
    const char *channel, const struct ear_handlers *handlers)
{
	struct ear *e = mem_zalloc(sizeof(*e));
	struct db_handlers of_session = {on_up, on_down, on_notified, e};

	e->loop = loop;
	e->on = *handlers;
	e->listen = mem_printf("LISTEN %s", channel);
	ev_timer_init(&e->ping, on_ping, 0, PING_S);
	e->ping.data = e;
	e->session = db_session_new(loop, options, &of_session);
	return e;
}

void
ear_count(const struct ear *e, struct db_count *count)
{
	db_session_count(e->session, count);
}

void
ear_free(struct ear *e)
{
	if (e == NULL)
		return;
	ev_timer_stop(e->loop, &e->ping);
	db_session_free(e->session);
	free(e->listen);
	free(e);
}
