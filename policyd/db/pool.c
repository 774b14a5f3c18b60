#include "db/pool.h"

#include "base/log.h"
#include "base/mem.h"

#include <ev.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct db_call {
	struct db_pool *pool;
	struct db_call *next; /* in the queue */
	struct slot *slot;    /* NULL while it waits */
	char *sql;
	char **params;
	int n;
	double timeout_s;
	ev_timer deadline; /* its owner hears of it by then, served or not */
	db_done_fn *done; /* NULL: cancelled, or told already */
	void *arg;
};

struct slot {
	struct db_pool *pool;
	struct db_session *session;
	struct db_call *call; /* in flight */
	bool ready;           /* up, and its setup is done */
	bool failed;          /* the last thing heard of it: it is down */
	bool could_not_write; /* when it was up */
	int preparing;        /* the next to prepare */
	bool prepared[DB_PREPARED_MAX];
};

struct db_pool {
	struct ev_loop *loop;
	struct slot *slots;
	int count;
	char *setup;
	char *parameter;
	char *prepare[DB_PREPARED_MAX];
	int prepare_count;
	bool writes;
	void (*down)(void *arg);
	void *arg;
	struct db_call *first, **last;
	int queued;
	struct log_limit limit;
};

static const double SETUP_TIMEOUT_S = 5;

/*
 * Who waited for long has little time left; the statement has all of it again,
 * and a moment for the server to say that it gave up, since a connection must
 * not be lost for that.
 */
static const double GRACE_S = 1;

/* With less left than this, a statement is not begun. */
static const double LEAST_S = 0.05;

static void pump(struct db_pool *p);

static void
call_free(struct db_call *c)
{
	ev_timer_stop(c->pool->loop, &c->deadline);
	for (int i = 0; i < c->n; i++)
		free(c->params[i]);
	free(c->params);
	free(c->sql);
	free(c);
}

static void
unqueue(struct db_call *c)
{
	struct db_pool *p = c->pool;
	struct db_call **at = &p->first;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	if (c->next == NULL)
		p->last = at;
	p->queued--;
}

/* The call is over: its owner hears of it, if there still is one. */
static void
finish(struct db_call *c, enum db_outcome outcome, PGresult *res)
{
	db_done_fn *done = c->done;
	void *arg = c->arg;

	call_free(c);
	if (done != NULL)
		done(arg, outcome, res);
	else
		PQclear(res);
}

/*
 * A server that cannot write has become, or always was, a standby: of several
 * hosts, another one may be the primary now.
 */
static const char CANNOT_WRITE[] = "25006";
static const char NO_PRIMARY[] = "the server cannot write";

/* A pooler between us has put us on another connection: [database] prepared. */
static const char NOT_PREPARED[] = "26000";

static bool
has_state(const PGresult *res, const char *sqlstate)
{
	const char *s = PQresultErrorField(res, PG_DIAG_SQLSTATE);

	return s != NULL && strcmp(s, sqlstate) == 0;
}

static void
on_result(void *arg, enum db_outcome outcome, PGresult *res)
{
	struct slot *s = arg;
	struct db_call *c = s->call;

	s->call = NULL;
	if (outcome == DB_LOST || outcome == DB_TIMEOUT) {
		s->ready = false;
	} else if (outcome == DB_REFUSED && has_state(res, CANNOT_WRITE)) {
		s->ready = false;
		s->could_not_write = true;
		db_session_drop(s->session, NO_PRIMARY);
	} else if (outcome == DB_REFUSED && has_state(res, NOT_PREPARED)) {
		memset(s->prepared, 0, sizeof(s->prepared));
	}
	finish(c, outcome, res);
	pump(s->pool);
}

static void
on_deadline(struct ev_loop *loop, ev_timer *w, int events)
{
	struct db_call *c = w->data;
	db_done_fn *done = c->done;

	(void)loop;
	(void)events;
	if (c->slot == NULL) {
		unqueue(c);
		finish(c, DB_TIMEOUT, NULL);
		return;
	}
	c->done = NULL; /* its answer will be thrown away */
	if (done != NULL)
		done(c->arg, DB_TIMEOUT, NULL);
}

/* The name of a prepared statement. */
static void
name_of(int i, char name[32])
{
	snprintf(name, 32, "policyd_%d", i);
}

/* Which prepared statement is this, or -1? */
static int
prepared_as(const struct slot *s, const char *sql)
{
	for (int i = 0; i < s->pool->prepare_count; i++)
		if (s->prepared[i] && strcmp(s->pool->prepare[i], sql) == 0)
			return i;
	return -1;
}

static void
start(struct slot *s, struct db_call *c)
{
	double timeout_s = c->timeout_s + GRACE_S;
	const char *const *params = (const char *const *)c->params;
	int prepared = prepared_as(s, c->sql);
	char name[32];

	unqueue(c);
	s->call = c;
	c->slot = s;
	if (prepared == -1) {
		db_query(s->session, c->sql, c->n, params, timeout_s,
		    on_result, s);
		return;
	}
	name_of(prepared, name);
	db_query_prepared(s->session, name, c->n, params, timeout_s, on_result,
	    s);
}

/* The first that has time for it, or NULL; others hear of theirs in a moment. */
static struct db_call *
first_in_time(struct db_pool *p)
{
	struct db_call *c = p->first;

	/* By the timer, which a clock that is set does not move. */
	while (c != NULL &&
	    ev_timer_remaining(p->loop, &c->deadline) <
		fmin(LEAST_S, c->timeout_s / 2))
		c = c->next;
	return c;
}

static void
pump(struct db_pool *p)
{
	struct db_call *c;

	for (int i = 0; i < p->count && (c = first_in_time(p)) != NULL; i++) {
		struct slot *s = &p->slots[i];

		if (s->ready && s->call == NULL &&
		    db_session_state(s->session) == DB_IDLE)
			start(s, c);
	}
}

/* ---- sessions ---- */

static void
become_ready(struct slot *s)
{
	s->ready = true;
	s->failed = false;
	pump(s->pool);
}

static void prepare_next(struct slot *s);

static void
on_prepared(void *arg, enum db_outcome outcome, PGresult *res)
{
	struct slot *s = arg;

	PQclear(res);
	if (outcome == DB_LOST || outcome == DB_TIMEOUT)
		return;
	s->prepared[s->preparing++] = outcome == DB_OK;
	prepare_next(s);
}

static void
prepare_next(struct slot *s)
{
	char name[32];

	if (s->preparing == s->pool->prepare_count) {
		become_ready(s);
		return;
	}
	name_of(s->preparing, name);
	db_prepare(s->session, name, s->pool->prepare[s->preparing],
	    SETUP_TIMEOUT_S, on_prepared, s);
}

static void
on_setup(void *arg, enum db_outcome outcome, PGresult *res)
{
	struct slot *s = arg;

	PQclear(res);
	if (outcome == DB_OK)
		prepare_next(s);
	else if (outcome == DB_REFUSED)
		db_session_drop(s->session, "the session cannot be set up");
}

static void
set_up(struct slot *s)
{
	const char *params[] = {s->pool->parameter};

	s->preparing = 0;
	memset(s->prepared, 0, sizeof(s->prepared));
	if (s->pool->setup != NULL)
		db_query(s->session, s->pool->setup, 1, params,
		    SETUP_TIMEOUT_S, on_setup, s);
	else
		prepare_next(s);
}

static void
on_writable(void *arg, enum db_outcome outcome, PGresult *res)
{
	struct slot *s = arg;
	bool writable = outcome == DB_OK && PQntuples(res) == 1 &&
	    strcmp(PQgetvalue(res, 0, 0), "off") == 0;

	PQclear(res);
	if (outcome == DB_LOST || outcome == DB_TIMEOUT)
		return;
	if (!writable) {
		db_session_drop(s->session, NO_PRIMARY);
		return;
	}
	s->could_not_write = false;
	set_up(s);
}

/* As long as it cannot write, it stays failed, and nobody asks it in vain. */
static void
on_up(void *arg)
{
	struct slot *s = arg;

	if (s->pool->writes && s->could_not_write)
		db_query(s->session, "SHOW transaction_read_only", 0, NULL,
		    SETUP_TIMEOUT_S, on_writable, s);
	else
		set_up(s);
}

bool
db_pool_hopeful(const struct db_pool *p)
{
	for (int i = 0; i < p->count; i++)
		if (!p->slots[i].failed)
			return true;
	return false;
}

void
db_pool_count(const struct db_pool *p, struct db_count *count)
{
	for (int i = 0; i < p->count; i++)
		db_session_count(p->slots[i].session, count);
}

/* Nobody is left to serve them: they hear of it now, not at their deadline. */
static void
fail_queue(struct db_pool *p)
{
	while (p->first != NULL && !db_pool_hopeful(p)) {
		struct db_call *c = p->first;

		unqueue(c);
		finish(c, DB_LOST, NULL);
	}
}

static void
on_down(void *arg, const char *why)
{
	struct slot *s = arg;
	uint64_t suppressed;

	s->ready = false;
	s->failed = true;
	if (log_allowed(&s->pool->limit, ev_now(s->pool->loop), &suppressed)) {
		struct log_entry e;

		log_begin(&e, LOG_WARNING, "database session down");
		log_str(&e, "error", str_of(why));
		if (suppressed > 0)
			log_int(&e, "suppressed", (int64_t)suppressed);
		log_end(&e);
	}
	if (s->pool->down != NULL)
		s->pool->down(s->pool->arg);
	fail_queue(s->pool);
}

/* ---- calls ---- */

struct db_call *
db_pool_query(struct db_pool *p, const char *sql, int n,
    const char *const *params, double timeout_s, db_done_fn *done, void *arg)
{
	struct db_call *c;

	if (!db_pool_hopeful(p) || p->queued >= DB_QUEUE_MAX)
		return NULL;
	c = mem_zalloc(sizeof(*c));
	c->pool = p;
	c->timeout_s = timeout_s;
	c->sql = mem_strdup(sql);
	c->n = n;
	c->params = mem_zalloc((size_t)n * sizeof(c->params[0]));
	for (int i = 0; i < n; i++)
		c->params[i] = params[i] != NULL ? mem_strdup(params[i]) : NULL;
	c->done = done;
	c->arg = arg;
	*p->last = c;
	p->last = &c->next;
	p->queued++;
	ev_timer_init(&c->deadline, on_deadline, timeout_s, 0);
	c->deadline.data = c;
	ev_timer_start(p->loop, &c->deadline);
	pump(p);
	return c;
}

void
db_call_cancel(struct db_call *call)
{
	if (call->slot != NULL) {
		call->done = NULL; /* its answer will be thrown away */
		return;
	}
	unqueue(call);
	call_free(call);
}

/* ---- life ---- */

struct db_pool *
db_pool_new(struct ev_loop *loop, const struct db_options *options,
    int sessions, const struct db_pool_setup *setup)
{
	struct db_pool *p = mem_zalloc(sizeof(*p));

	p->loop = loop;
	p->last = &p->first;
	p->count = sessions;
	p->slots = mem_zalloc((size_t)sessions * sizeof(p->slots[0]));
	if (setup != NULL) {
		p->writes = setup->writes;
		p->down = setup->down;
		p->arg = setup->arg;
	}
	if (setup != NULL && setup->sql != NULL) {
		p->setup = mem_strdup(setup->sql);
		p->parameter = mem_strdup(setup->parameter);
	}
	for (; setup != NULL && setup->prepare != NULL &&
	     setup->prepare[p->prepare_count] != NULL &&
	     p->prepare_count < DB_PREPARED_MAX; p->prepare_count++)
		p->prepare[p->prepare_count] =
		    mem_strdup(setup->prepare[p->prepare_count]);
	for (int i = 0; i < sessions; i++) {
		struct slot *s = &p->slots[i];
		struct db_handlers handlers = {on_up, on_down, NULL, s};

		s->pool = p;
		s->session = db_session_new(loop, options, &handlers);
	}
	return p;
}

void
db_pool_free(struct db_pool *p)
{
	if (p == NULL)
		return;
	for (int i = 0; i < p->count; i++) {
		db_session_free(p->slots[i].session);
		if (p->slots[i].call != NULL)
			finish(p->slots[i].call, DB_LOST, NULL);
	}
	for (struct db_call *c = p->first, *next; c != NULL; c = next) {
		next = c->next;
		finish(c, DB_LOST, NULL);
	}
	free(p->slots);
	for (int i = 0; i < p->prepare_count; i++)
		free(p->prepare[i]);
	free(p->setup);
	free(p->parameter);
	free(p);
}
