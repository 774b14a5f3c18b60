#include "tables/follower.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "tables/line.h"
#include "tables/schema.h"

#include <ev.h>
#include <stdlib.h>

enum { STALE_MAX = 10 }; /* reads in vain, one behind the other */

/* Changes that never end must not keep earlier ones from being in force. */
static const double ROUNDS_MAX_S = 0.05;
/* Where they are in force already, a side having read them, they can wait. */
static const double ROUNDS_BESIDE_S = 1;
/*
 * Sorting a large table comes before its first row.  Where the server ends it,
 * it gets twice as long the next time.
 */
static const double READ_TIMEOUT_S = 60, READ_TIMEOUT_MOST_S = 960;
/* How long the others wait for a table that is locked, and when to try again. */
static const double LOCK_TIMEOUT_S = 0.05, LOCK_PAUSE_S = 0.5;

/* What is said in the log at most once a minute. */
enum trouble {
	TROUBLE_MEMORY,
	TROUBLE_SCHEMA,
	TROUBLE_LOCK,
	TROUBLE_QUEUE,
	TROUBLES,
};

struct follower {
	struct ev_loop *loop;
	const struct config *config;
	struct tables *tables;
	const struct follower *beside;
	struct follower_handlers on;

	struct line *line;
	bool out; /* a job is, at the step of the reading */
	struct wants wants; /* gathers meanwhile */
	struct reading reading;
	bool full; /* everything is to be read: look at the schema first */
	bool unread[SOURCES]; /* not yet, since that was so */
	double read_timeout_s;
	double began;
	double first_done; /* when its first round was over */
	uint64_t jobs; /* so many are over */
	int in_vain; /* so many reads were */

	ev_timer pause; /* runs while something is held */
	struct log_limit said[TROUBLES];
};

static void on_answer(void *arg, enum db_outcome outcome, PGresult *res);

/* ---- a job begins, and is over ---- */

static void
next(struct follower *f)
{
	char *keys, *sql = reading_statement(&f->reading, f->config, &keys);

	if (f->reading.step <= READING_BEGIN)
		line_ask(f->line, sql, keys, on_answer, f);
	else
		line_read(f->line, sql, keys, on_answer, f);
	free(sql);
	free(keys);
}

static void
begin_job(struct follower *f)
{
	const struct follower *knows = f->beside != NULL ? f->beside : f;

	f->began = clock_s();
	f->out = true;
	if (f->full)
		reading_look(&f->reading);
	else
		reading_begin(&f->reading, knows->reading.ours);
	f->full = false;
	next(f);
}

static void
end_job(struct follower *f)
{
	reading_clear(&f->reading);
	f->jobs++;
	f->out = false;
}

/* It was in vain: what it was for is to be read once more. */
static void
give_back(struct follower *f)
{
	rounds_give_back(&f->reading.rounds, &f->wants);
	end_job(f);
}

/* What there was to do is of no use any more. */
static void
forget(struct follower *f)
{
	end_job(f);
	wants_clear(&f->wants);
}

/*
 * Where there are tables to answer from, nobody waits long for one that is
 * locked; what it holds is in force as it was.  Else all of them are needed.
 */
static bool
set_limits(struct follower *f)
{
	return line_limit(f->line, f->read_timeout_s,
	    follower_answers(f) ? LOCK_TIMEOUT_S : 0);
}

/* Begin what there is to do, where nothing is under way. */
static void
work(struct follower *f)
{
	if (f->out || !line_is_free(f->line))
		return;
	if (!ev_is_active(&f->pause))
		wants_release(&f->wants);
	if (f->on.may_begin != NULL && !f->on.may_begin(f->on.arg)) {
		wants_clear(&f->wants);
		return;
	}
	if (wants_any(&f->wants) && !set_limits(f))
		begin_job(f);
}

/* ---- a round is over ---- */

/*
 * A table was written anew between the snapshot and the lock: nothing of it is
 * in the snapshot.  With the next one it is, but for who does it all the time.
 */
static void
read_again(struct follower *f)
{
	give_back(f);
	if (++f->in_vain < STALE_MAX)
		return;
	f->in_vain = 0;
	line_drop(f->line,
	    "tables are written anew faster than they can be read");
}

static void
put_in_force(struct follower *f)
{
	bool was_behind = follower_is_behind(f);
	struct follower_read read = {&f->reading, f->began, false};

	for (int s = 0; s < SOURCES; s++)
		if (rounds_whole(&f->reading.rounds, (enum source)s))
			f->unread[s] = false;
	read.complete = was_behind && !follower_is_behind(f);
	if (read.complete)
		f->read_timeout_s = READ_TIMEOUT_S;
	f->on.read(f->on.arg, &read);
	end_job(f);
}

static double
rounds_max_s(const struct follower *f)
{
	return f->on.can_wait != NULL && f->on.can_wait(f->on.arg) ?
	    ROUNDS_BESIDE_S :
	    ROUNDS_MAX_S;
}

/* Another one for what came meanwhile, or all in force. */
static void
end_round(struct follower *f)
{
	if (f->reading.stale) {
		read_again(f);
		return;
	}
	if (f->reading.rounds.count == 1)
		f->first_done = clock_s();
	if (wants_any(&f->wants) &&
	    clock_s() - f->first_done <= rounds_max_s(f)) {
		reading_again(&f->reading);
		next(f);
		return;
	}
	f->in_vain = 0;
	put_in_force(f);
}

/* ---- what fails ---- */

/* key: what the value is, or NULL. */
static void
say(struct follower *f, enum trouble trouble, int level, const char *what,
    const char *key, struct str value)
{
	struct log_entry e;
	uint64_t suppressed;

	if (!log_allowed(&f->said[trouble], ev_now(f->loop), &suppressed))
		return;
	log_begin(&e, level, what);
	if (key != NULL)
		log_str(&e, key, value);
	log_end(&e);
}

/*
 * Of all that takes memory, new tables can be done without the longest: better
 * old ones, and answers.
 */
static bool
lacks_memory(struct follower *f)
{
	if (mem_reserve())
		return false;
	say(f, TROUBLE_MEMORY, LOG_ERR,
	    "there is not enough memory for the tables: they stay as they are",
	    NULL, STR(""));
	line_drop(f->line, "there is not enough memory for the tables");
	return true;
}

/*
 * Tables that mean something else than this program thinks are worse than old
 * ones: go on with what there is, and try again later.
 */
static void
refuse_schema(struct follower *f, const char *why, const char *command)
{
	say(f, TROUBLE_SCHEMA, LOG_ERR, why, "run", str_of(command));
	line_drop(f->line, why);
}

static void
refuse_version(struct follower *f)
{
	char why[120];
	struct sbuf b = sbuf_over(why, sizeof(why));
	const char *command = schema_fault(f->reading.version, &b);

	refuse_schema(f, why, command);
}

/* Read the others without it, and try again in a moment. */
static void
on_locked(struct follower *f)
{
	f->wants.held[f->reading.at] = true;
	ev_timer_stop(f->loop, &f->pause);
	ev_timer_set(&f->pause, LOCK_PAUSE_S, 0);
	ev_timer_start(f->loop, &f->pause);
	say(f, TROUBLE_LOCK, LOG_WARNING,
	    "a table is locked, its changes have to wait", "table",
	    reading_table(&f->reading));
	reading_undo(&f->reading);
	next(f);
}

/*
 * Somebody listens and does not read, and no more notifications go in: ours did
 * not, nor does that of any change.  What was read is good.
 */
static void
on_queue_full(struct follower *f)
{
	say(f, TROUBLE_QUEUE, LOG_ERR,
	    "PostgreSQL's queue of notifications is full: changes of the "
	    "tables are refused",
	    NULL, STR(""));
	end_round(f);
}

static void
on_refused(struct follower *f, const PGresult *res)
{
	switch (reading_refusal(&f->reading,
	    PQresultErrorField(res, PG_DIAG_SQLSTATE),
	    line_is_impatient(f->line))) {
	case REFUSED_LOCKED:
		on_locked(f);
		return;
	case REFUSED_QUEUE_FULL:
		on_queue_full(f);
		return;
	case REFUSED_SLOW:
		if (f->read_timeout_s < READ_TIMEOUT_MOST_S)
			f->read_timeout_s *= 2;
		break;
	case REFUSED_ELSE:
		break;
	}
	line_refused(f->line, res, reading_table(&f->reading));
}

/* ---- answers ---- */

/* Takes the result. */
static void
go_on(struct follower *f, PGresult *res)
{
	if (lacks_memory(f)) {
		PQclear(res);
		return;
	}
	switch (reading_answer(&f->reading, f->config, &f->wants, res)) {
	case READING_TOO_MUCH:
		f->on.too_much(f->on.arg);
		next(f);
		break;
	case READING_GOES_ON:
		next(f);
		break;
	case READING_UNDONE:
		give_back(f);
		break;
	case READING_NO_SCHEMA:
		refuse_schema(f, "the database has no schema policyd",
		    "policyctl schema install");
		break;
	case READING_OTHER_SCHEMA:
		refuse_version(f);
		break;
	case READING_ROUND_OVER:
		end_round(f);
		break;
	}
}

static void
on_answer(void *arg, enum db_outcome outcome, PGresult *res)
{
	struct follower *f = arg;

	switch (outcome) {
	case DB_OK:
		go_on(f, res);
		work(f);
		break;
	case DB_REFUSED:
		on_refused(f, res);
		PQclear(res);
		work(f);
		break;
	case DB_LOST:
	case DB_TIMEOUT:
		break; /* on_down() follows */
	}
}

/* ---- the line ---- */

static void
on_listening(void *arg)
{
	struct follower *f = arg;

	if (f->on.listening != NULL)
		f->on.listening(f->on.arg);
}

static void
on_down(void *arg)
{
	struct follower *f = arg;

	forget(f); /* all is read on return */
	if (f->on.down != NULL)
		f->on.down(f->on.arg);
}

static void
on_heard(void *arg, const char *payload)
{
	struct follower *f = arg;

	wants_hear(&f->wants, f->config, payload);
	if (f->beside != NULL && is_any_whole(f->wants.of))
		f->on.too_much(f->on.arg);
	work(f);
}

static void
on_free(void *arg)
{
	work(arg);
}

static void
on_pause_over(struct ev_loop *loop, ev_timer *w, int events)
{
	(void)loop;
	(void)events;
	work(w->data);
}

/* ---- for its owner ---- */

void
follower_want_all(struct follower *f)
{
	wants_whole(&f->wants);
	for (int s = 0; s < SOURCES; s++)
		f->unread[s] = true;
	f->full = true;
	work(f);
}

bool
follower_answers(const struct follower *f)
{
	return source_answers(f->config, f->tables);
}

bool
follower_is_behind(const struct follower *f)
{
	for (int s = 0; s < SOURCES; s++)
		if (f->unread[s])
			return true;
	return false;
}

bool
follower_wants_whole(const struct follower *f)
{
	return is_any_whole(f->wants.of) ||
	    rounds_any_whole(&f->reading.rounds);
}

struct line *
follower_line(const struct follower *f)
{
	return f->line;
}

bool
follower_is_busy(const struct follower *f)
{
	return f->out || line_is_busy(f->line);
}

uint64_t
follower_jobs(const struct follower *f)
{
	return f->jobs;
}

/* ---- life ---- */

struct follower *
follower_new(struct ev_loop *loop, const struct config *config,
    struct tables *tables, const struct follower *beside,
    const struct follower_handlers *handlers)
{
	struct follower *f = mem_zalloc(sizeof(*f));
	struct line_handlers of_line = {on_listening, on_down, on_heard,
	    on_free, f};

	f->loop = loop;
	f->config = config;
	f->tables = tables;
	f->beside = beside;
	f->on = *handlers;
	f->read_timeout_s = READ_TIMEOUT_S;
	reading_init(&f->reading, tables, beside != NULL);
	ev_timer_init(&f->pause, on_pause_over, LOCK_PAUSE_S, 0);
	f->pause.data = f;
	f->line = line_new(loop, config, beside != NULL, &of_line);
	return f;
}

void
follower_free(struct follower *f)
{
	if (f == NULL)
		return;
	line_free(f->line);
	forget(f);
	ev_timer_stop(f->loop, &f->pause);
	free(f);
}

void
follower_reconfigure(struct follower *f, const struct config *config)
{
	bool anew = source_origin(f->config) != source_origin(config);

	f->config = config;
	if (!line_reconfigure(f->line, config, anew))
		return;
	forget(f);
	ev_timer_stop(f->loop, &f->pause);
}
