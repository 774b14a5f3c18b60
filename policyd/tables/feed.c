#include "tables/feed.h"

#include "base/aside.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/number.h"
#include "config/config.h"
#include "db/array.h"
#include "db/session.h"
#include "mail/address.h"
#include "schema_version.h"
#include "tables/copy.h"
#include "tables/directory.h"
#include "tables/list.h"
#include "tables/rule.h"
#include "tables/source.h"
#include "tables/tables.h"
#include "tables/want.h"

#include <errno.h>
#include <ev.h>
#include <stdlib.h>

enum {
	KEYED_ROWS_MAX = 20000, /* rows of changed keys; more: read it whole */
	FETCH_ROWS = 2000, /* a slice of a full read: about 1 ms of the loop */
	STALE_MAX = 10, /* reads in vain, one behind the other */
};

static const char SCHEMA_VERSION[] =
    "(SELECT max(version) FROM policyd.schema_version)";

static const double CONNECT_TIMEOUT_S = 5;
/* Changes that never end must not keep earlier ones from being in force. */
static const double ROUNDS_MAX_S = 0.05;
/* Where they are in force already, a side having read them, they can wait. */
static const double ROUNDS_BESIDE_S = 1;
/*
 * Sorting a large table comes before its first row.  Where the server ends it,
 * it gets twice as long the next time.
 */
static const double READ_TIMEOUT_S = 60, READ_TIMEOUT_MOST_S = 960;
/* The server gives up before we do. */
static const double GRACE_S = 5;
/* How long the others wait for a table that is locked, and when to try again. */
static const double LOCK_TIMEOUT_S = 0.05, LOCK_PAUSE_S = 0.5;
/* An idle connection that died says nothing: ask it. */
static const double PING_S = 10;
/* How soon the copy has a change: a large one takes a while. */
static const double COPY_LEAST_S = 1, COPY_MOST_S = 3600;
/* No start waits longer than this where there is a copy to serve from. */
static const double START_MAX_S = 15;

/*
 * What one transaction read.  A change that is committed while it reads may be
 * seen in one table and not in the other: its notification says so, and
 * another round reads what it names.  Nothing is put in force before a round
 * ends with no news, so that requests see all of a transaction or nothing.
 */
struct round {
	struct want want[SOURCES];
	bool declared[SOURCES];  /* there is a cursor for all of it */
	PGresult *rows[SOURCES]; /* of its keys */
};

/*
 * The statement that is out.  They follow one another in this order; those
 * between BEGIN and COMMIT see one snapshot.
 */
enum phase {
	PHASE_NONE,
	PHASE_SETUP,
	PHASE_LISTEN,
	PHASE_LIMITS,
	PHASE_SCHEMA,
	PHASE_VERSION,
	PHASE_BEGIN,
	PHASE_DECLARE,
	PHASE_KEYS,
	PHASE_FETCH,
	PHASE_CLOSE,
	PHASE_BARRIER,
	PHASE_COMMIT,
	PHASE_ROLLBACK,
	PHASE_PING,
};

/* How long the server lets a statement take, and wait for a lock; 0: for ever. */
struct limits {
	double statement_s, lock_s;
};

struct feed {
	struct ev_loop *loop;
	const struct config *config;
	struct tables *tables;
	struct db_session *db;
	struct feed *side; /* follows changes while this one reads all; or NULL */
	struct feed *of;   /* this is the side of that one; or NULL */
	void (*settled)(void *arg); /* NULL once it was called */
	void *arg;

	enum phase phase;
	struct want wanted[SOURCES]; /* gathers while a job is out */
	struct round *rounds;    /* of the job that is out */
	int count;
	int at;    /* the source that is being read */
	bool ours; /* the database has our schema */
	bool full; /* everything is to be read: look at the schema first */
	bool unread[SOURCES]; /* not yet, since that was so */
	bool held[SOURCES];   /* locked by somebody else: not for now */
	struct limits limits; /* of the session */
	double read_timeout_s;
	double started;
	double first_done; /* when its first round was over */
	uint64_t jobs; /* so many are over */
	uint64_t beside; /* of a side: the job of the other that it began with */
	bool blind; /* of a side: it cannot follow until that job is over */
	bool stale; /* the round saw less than there is: source_is_stale() */
	int in_vain; /* so many reads were */
	int left_out;

	ev_timer refresh;
	ev_timer pause; /* runs while something is held */
	ev_timer ping;
	ev_timer start;
	struct aside *copy; /* writes it */
	uint64_t origin; /* what the tables were read with */
	struct log_limit memory_limit;
	struct log_limit down_limit;
	struct log_limit schema_limit;
	struct log_limit lock_limit;
	struct log_limit full_limit;
	struct feed_status status;
};

static void lock_next(struct feed *f);
static void fetch_next(struct feed *f);

/* ---- wants ---- */

static void
want_none(struct feed *f)
{
	for (int s = 0; s < SOURCES; s++)
		want_clear(&f->wanted[s]);
}

static void
want_all(struct feed *f)
{
	for (int s = 0; s < SOURCES; s++) {
		want_whole(&f->wanted[s]);
		f->unread[s] = true;
	}
	f->full = true;
}

static bool
is_any_whole(const struct want *of_each)
{
	for (int s = 0; s < SOURCES; s++)
		if (of_each[s].whole)
			return true;
	return false;
}

/* And can be had. */
static bool
anything_wanted(const struct feed *f)
{
	for (int s = 0; s < SOURCES; s++)
		if (is_wanted(&f->wanted[s]) && !f->held[s])
			return true;
	return false;
}

static bool
anything_unread(const struct feed *f)
{
	for (int s = 0; s < SOURCES; s++)
		if (f->unread[s])
			return true;
	return false;
}

/* ---- the copy on disk ---- */

static int
write_copy(void *arg)
{
	const struct feed *f = arg;
	char *path = copy_path(f->config->policyd.state_dir);
	int rc = copy_save(f->tables, path, f->origin);
	int error = errno;

	free(path);
	errno = error;
	return rc;
}

/* The disk may be full, or not ours. */
static void
copy_failed(void *arg, int error)
{
	const struct feed *f = arg;
	struct log_entry e;

	log_begin(&e, LOG_ERR, "the copy of the tables cannot be written");
	log_str(&e, "state_dir", str_of(f->config->policyd.state_dir));
	log_str(&e, "error", str_of(strerror(error)));
	log_end(&e);
}

static void
load_copy(struct feed *f)
{
	char *path = copy_path(f->config->policyd.state_dir);
	const char *why;
	struct log_entry e;

	if (copy_load(f->tables, path, source_origin(f->config), &why) == 0) {
		f->status.from_copy = true;
		f->origin = source_origin(f->config);
		log_begin(&e, LOG_NOTICE, "serving from the copy of the tables");
	} else {
		log_begin(&e, LOG_WARNING,
		    "no copy of the tables to serve from");
		log_str(&e, "error", str_of(why));
	}
	log_str(&e, "file", str_of(path));
	log_end(&e);
	free(path);
}

/* ---- being ready ---- */

static void
settle(struct feed *f)
{
	void (*settled)(void *arg) = f->settled;

	f->settled = NULL;
	ev_timer_stop(f->loop, &f->start);
	if (settled != NULL)
		settled(f->arg);
}

/* PostgreSQL is not to be had: begin with the copy, if that is the first. */
static void
settle_without(struct feed *f)
{
	if (f->settled == NULL)
		return;
	if (!directory_ready(f->tables->directory))
		load_copy(f);
	settle(f);
}

/* ---- one job: everything that is wanted, in one snapshot ---- */

static void
job_clear(struct feed *f)
{
	for (int i = 0; i < f->count; i++)
		for (int s = 0; s < SOURCES; s++) {
			want_clear(&f->rounds[i].want[s]);
			PQclear(f->rounds[i].rows[s]);
		}
	free(f->rounds);
	f->rounds = NULL;
	f->count = 0;
	if (f->of == NULL)
		tables_abandon(f->tables);
	f->jobs++;
	f->phase = PHASE_NONE;
	f->left_out = 0;
	f->stale = false;
}

/* The job was in vain: what it was for is to be read once more. */
static void
give_back(struct feed *f)
{
	for (int i = 0; i < f->count; i++)
		for (int s = 0; s < SOURCES; s++)
			want_also(&f->wanted[s], &f->rounds[i].want[s]);
	job_clear(f);
}

static struct round *
last_round(const struct feed *f)
{
	return &f->rounds[f->count - 1];
}

static void on_result(void *arg, enum db_outcome outcome, PGresult *res);

static void
run(struct feed *f, enum phase phase, const char *sql, int n,
    const char *const *params)
{
	double timeout = f->config->database.query_timeout_s;

	if (phase > PHASE_BEGIN && phase < PHASE_PING)
		timeout = f->limits.statement_s + GRACE_S;
	f->phase = phase;
	db_query(f->db, sql, n, params, timeout, on_result, f);
}

static void
start_round(struct feed *f)
{
	run(f, PHASE_BEGIN, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
	    0, NULL);
}

/*
 * A side has something to do while the other reads a table whole, and hears of
 * nothing.  That one will read it once more itself, into what it puts in force
 * at its end: whatever is begun here and not over by then is of no use.
 */
static bool
has_use(const struct feed *side)
{
	const struct feed *f = side->of;
	bool whole = is_any_whole(f->wanted);

	for (int i = 0; i < f->count; i++)
		whole = whole || is_any_whole(f->rounds[i].want);
	return whole && f->phase != PHASE_NONE &&
	    directory_ready(f->tables->directory) &&
	    f->origin == source_origin(f->config);
}

/* May what a side has read be put in force? */
static bool
is_in_time(const struct feed *side)
{
	return has_use(side) && !side->blind && side->beside == side->of->jobs;
}

static void
start_job(struct feed *f)
{
	f->started = clock_s();
	if (f->of != NULL)
		f->ours = f->of->ours;
	f->full = false;
	start_round(f);
}

/*
 * A transaction's notifications all came before the answer to BEGIN, or none
 * of them did: take what is wanted now.
 */
static void
take_wanted(struct feed *f)
{
	struct round *r;

	f->rounds = mem_realloc(f->rounds,
	    (size_t)(f->count + 1) * sizeof(f->rounds[0]));
	f->count++;
	r = last_round(f);
	*r = (struct round){0};
	for (int s = 0; s < SOURCES; s++)
		if (!f->held[s]) {
			r->want[s] = f->wanted[s];
			f->wanted[s] = (struct want){0};
		}
	f->at = -1;
}

/* What earlier rounds read of it is older than what is read now. */
static void
drop_keys(struct feed *f, enum source s)
{
	for (int i = 0; i < f->count - 1; i++) {
		PQclear(f->rounds[i].rows[s]);
		f->rounds[i].rows[s] = NULL;
		want_clear(&f->rounds[i].want[s]);
	}
}

/*
 * All cursors come before the first row is fetched: what they lock is locked
 * within a moment of the snapshot, and what another transaction does to the
 * tables from then on has to wait for us.
 */
static void
declare(struct feed *f, enum source s)
{
	char *query = source_query(f->config, s), *sql;

	if (query == NULL) {
		lock_next(f);
		return;
	}
	sql = mem_printf("DECLARE policyd_feed_%u NO SCROLL CURSOR FOR %s",
	    (unsigned)s, query);
	last_round(f)->declared[s] = true;
	run(f, PHASE_DECLARE, sql, 0, NULL);
	free(sql);
	free(query);
}

static void
read_keys(struct feed *f, enum source s)
{
	const struct want *w = &last_round(f)->want[s];
	char *array = db_array(w->keys, w->count, true);
	const char *params[] = {array};

	run(f, PHASE_KEYS, source_keyed_query(f->config, s), 1, params);
	free(array);
}

/* The next source that is wanted: its keys, or a cursor for all of it. */
static void
lock_next(struct feed *f)
{
	const struct want *want = last_round(f)->want;

	for (f->at++; f->at < SOURCES; f->at++)
		if (is_wanted(&want[f->at]) &&
		    (f->ours || f->at <= SOURCE_ALIAS))
			break;
	if (f->at == SOURCES) {
		f->at = -1;
		fetch_next(f);
	} else if (want[f->at].whole) {
		declare(f, (enum source)f->at);
	} else {
		read_keys(f, (enum source)f->at);
	}
}

static void
fetch(struct feed *f)
{
	char sql[80];

	snprintf(sql, sizeof(sql), "FETCH FORWARD %d FROM policyd_feed_%d",
	    FETCH_ROWS, f->at);
	run(f, PHASE_FETCH, sql, 0, NULL);
}

static void
close_cursor(struct feed *f)
{
	char sql[80];

	snprintf(sql, sizeof(sql), "CLOSE policyd_feed_%d", f->at);
	run(f, PHASE_CLOSE, sql, 0, NULL);
}

/*
 * Before the end.  With a notification of our own in the transaction, the
 * server sends those of all that were committed before our snapshot ahead of
 * the answer to our COMMIT.  The schema may have been upgraded meanwhile.
 */
static void
ask_barrier(struct feed *f)
{
	char *sql = mem_printf("SELECT pg_notify('policyd_barrier', ''), %s, %s",
	    source_is_stale(), f->ours ? SCHEMA_VERSION : "NULL");

	run(f, PHASE_BARRIER, sql, 0, NULL);
	free(sql);
}

/* The next cursor, or the end. */
static void
fetch_next(struct feed *f)
{
	for (f->at++; f->at < SOURCES; f->at++)
		if (last_round(f)->declared[f->at])
			break;
	if (f->at == SOURCES) {
		ask_barrier(f);
		return;
	}
	drop_keys(f, (enum source)f->at);
	source_begin(f->config, f->tables, (enum source)f->at);
	fetch(f);
}

static void
log_read(const struct feed *f)
{
	const struct directory *d = f->tables->directory;
	struct log_entry e;

	log_begin(&e, LOG_INFO, "tables read");
	log_int(&e, "domains", (int64_t)directory_count(d, DIRECTORY_DOMAIN));
	log_int(&e, "domain_aliases",
	    (int64_t)directory_count(d, DIRECTORY_DOMAIN_ALIAS));
	log_int(&e, "addresses",
	    (int64_t)directory_count(d, DIRECTORY_ADDRESS));
	log_int(&e, "aliases", (int64_t)directory_count(d, DIRECTORY_ALIAS));
	log_int(&e, "list_entries", (int64_t)lists_count(f->tables->lists));
	log_int(&e, "rules", (int64_t)rules_count(f->tables->rules));
	log_int(&e, "bytes",
	    (int64_t)(directory_bytes(d) + lists_bytes(f->tables->lists)));
	log_real(&e, "seconds", f->status.last_read_s);
	if (f->left_out > 0)
		log_int(&e, "left_out", f->left_out);
	log_end(&e);
}

/* Put the rounds in force, one upon the other; returns what was read whole. */
static bool
apply(struct feed *f)
{
	bool whole = false;

	for (int i = 0; i < f->count; i++)
		for (int s = 0; s < SOURCES; s++)
			whole = whole || f->rounds[i].want[s].whole;
	if (whole)
		tables_swap(f->tables);
	for (int i = 0; i < f->count; i++)
		for (int s = 0; s < SOURCES; s++) {
			const struct want *w = &f->rounds[i].want[s];
			const PGresult *rows = f->rounds[i].rows[s];

			f->status.changes += w->whole ? 1 : w->count;
			f->unread[s] = f->unread[s] && !w->whole;
			for (size_t k = 0; k < w->count; k++)
				source_forget(f->tables, (enum source)s,
				    str_of(w->keys[k]));
			if (rows == NULL)
				continue;
			f->left_out += source_put(f->tables, (enum source)s,
			    rows);
			source_ready(f->tables, (enum source)s);
		}
	return whole;
}

/*
 * A table was written anew between the snapshot and the lock: nothing of it is
 * in the snapshot.  With the next one it is, but for who does it all the time.
 */
static void
read_again(struct feed *f)
{
	give_back(f);
	if (++f->in_vain < STALE_MAX)
		return;
	f->in_vain = 0;
	db_session_drop(f->db,
	    "tables are written anew faster than they can be read");
}

static double
rounds_max_s(const struct feed *f)
{
	bool followed = f->side != NULL && f->side->status.connected &&
	    !f->side->blind;

	return followed ? ROUNDS_BESIDE_S : ROUNDS_MAX_S;
}

/* What a side has read. */
static void
finish_side(struct feed *f)
{
	if (is_in_time(f)) {
		tables_pause(f->tables);
		apply(f);
		tables_resume(f->tables);
	}
	job_clear(f);
}

/* A round is over: another one for what came meanwhile, or all in force. */
static void
finish_round(struct feed *f)
{
	bool was_full = anything_unread(f), whole;

	if (f->stale) {
		read_again(f);
		return;
	}
	if (f->count == 1)
		f->first_done = clock_s();
	if (anything_wanted(f) &&
	    clock_s() - f->first_done <= rounds_max_s(f)) {
		start_round(f);
		return;
	}
	f->in_vain = 0;
	if (f->of != NULL) {
		finish_side(f);
		return;
	}
	whole = apply(f);
	f->status.last_read_s = clock_s() - f->started;
	if (whole)
		log_read(f);
	if (was_full && !anything_unread(f)) {
		f->read_timeout_s = READ_TIMEOUT_S;
		f->status.reads++;
		f->status.read_at = ev_now(f->loop);
		f->status.from_copy = false;
		f->origin = source_origin(f->config);
	}
	job_clear(f);
	aside_soon(f->copy);
	if (!whole && !anything_unread(f) && tables_wasteful(f->tables))
		want_all(f);
	settle(f);
}

/*
 * Where there are tables to answer from, nobody waits long for one that is
 * locked; what it holds is in force as it was.  Else all of them are needed.
 */
static struct limits
limits_now(const struct feed *f)
{
	bool answers = f->of != NULL ||
	    (directory_ready(f->tables->directory) &&
		f->origin == source_origin(f->config));

	return (struct limits){f->read_timeout_s,
	    answers ? LOCK_TIMEOUT_S : 0};
}

static bool
set_limits(struct feed *f)
{
	struct limits now = limits_now(f);
	char statement[32], lock[32];
	const char *params[] = {statement, lock};

	if (now.statement_s == f->limits.statement_s &&
	    now.lock_s == f->limits.lock_s)
		return false;
	f->limits = now;
	snprintf(statement, sizeof(statement), "%.0f", now.statement_s * 1000);
	snprintf(lock, sizeof(lock), "%.0f", now.lock_s * 1000);
	run(f, PHASE_LIMITS,
	    "SELECT set_config('statement_timeout', $1, false), "
	    "set_config('lock_timeout', $2, false)",
	    2, params);
	return true;
}

/*
 * One transaction may have changed a table, which is too much for a side, and
 * a row of another: nothing is half in force, so all that follows has to wait.
 */
static bool
may_follow(struct feed *side)
{
	if (side->beside != side->of->jobs)
		side->blind = false;
	side->beside = side->of->jobs;
	side->blind = side->blind || is_any_whole(side->wanted);
	if (has_use(side) && !side->blind)
		return true;
	want_none(side);
	return false;
}

/* Begin what there is to do, where nothing is under way. */
static void
work(struct feed *f)
{
	if (f->phase != PHASE_NONE || db_session_state(f->db) != DB_IDLE)
		return;
	if (!ev_is_active(&f->pause))
		memset(f->held, 0, sizeof(f->held));
	if (f->of != NULL && !may_follow(f))
		return;
	if (!anything_wanted(f) || set_limits(f))
		return;
	if (f->full)
		run(f, PHASE_SCHEMA,
		    "SELECT to_regclass('policyd.schema_version') IS NOT NULL",
		    0, NULL);
	else
		start_job(f);
}

/* ---- the schema ---- */

static bool
is_ours(const struct config *c)
{
	return c->lookup.domains[0] == '\0' || c->lookup.addresses[0] == '\0';
}

/*
 * Tables that mean something else than this program thinks are worse than old
 * ones: go on with what there is, and try again later.
 */
static void
refuse_schema(struct feed *f, const char *why, const char *command)
{
	struct log_entry e;
	uint64_t suppressed;

	if (log_allowed(&f->schema_limit, ev_now(f->loop), &suppressed)) {
		log_begin(&e, LOG_ERR, why);
		log_str(&e, "run", str_of(command));
		log_end(&e);
	}
	db_session_drop(f->db, why);
}

static bool
check_version(struct feed *f, const char *text)
{
	char why[120];
	struct sbuf b = sbuf_over(why, sizeof(why));
	int64_t version = 0;

	number_parse(str_of(text), &version);
	if (version == POLICYD_SCHEMA_VERSION)
		return true;
	sbuf_addf(&b, "the schema is of version %lld, this program needs %d",
	    (long long)version, POLICYD_SCHEMA_VERSION);
	refuse_schema(f, why,
	    version < POLICYD_SCHEMA_VERSION ?
		"policyctl schema upgrade" :
		"a policyd of that version (policyctl schema status)");
	return false;
}

static void
ask_version(struct feed *f)
{
	char *sql = mem_printf("SELECT %s", SCHEMA_VERSION);

	run(f, PHASE_VERSION, sql, 0, NULL);
	free(sql);
}

static void
check_schema(struct feed *f, const PGresult *res)
{
	f->ours = PQgetvalue(res, 0, 0)[0] == 't';
	if (f->ours)
		ask_version(f);
	else if (is_ours(f->config))
		refuse_schema(f, "the database has no schema policyd",
		    "policyctl schema install");
	else
		start_job(f); /* [lookup] reads a schema that is not ours */
}

/*
 * Of all that takes memory, new tables can be done without the longest: better
 * old ones, and answers.
 */
static bool
lacks_memory(struct feed *f)
{
	static const char why[] = "there is not enough memory for the tables";
	uint64_t suppressed;

	if (mem_reserve())
		return false;
	if (log_allowed(&f->memory_limit, ev_now(f->loop), &suppressed))
		log_line(LOG_ERR, "%s: they stay as they are", why);
	db_session_drop(f->db, why);
	return true;
}

/* ---- results ---- */

/* Too much for one turn of the loop: read it whole. */
static void
too_many(struct feed *f)
{
	want_whole(&last_round(f)->want[f->at]);
	f->at--;
	f->blind = f->of != NULL;
	if (f->blind)
		run(f, PHASE_ROLLBACK, "ROLLBACK", 0, NULL);
	else
		lock_next(f);
}

/* The transaction has begun: what is wanted from now on is for the next. */
static void
begin_round(struct feed *f)
{
	take_wanted(f);
	if (f->blind)
		run(f, PHASE_ROLLBACK, "ROLLBACK", 0, NULL);
	else
		lock_next(f);
}

/* Takes the result: true if it is kept. */
static bool
take_keys(struct feed *f, PGresult *res)
{
	if (PQntuples(res) > KEYED_ROWS_MAX && f->at != SOURCE_RULE) {
		too_many(f);
		return false;
	}
	last_round(f)->rows[f->at] = res;
	lock_next(f);
	return true;
}

static void
take_rows(struct feed *f, const PGresult *res)
{
	f->left_out += source_put(f->tables, (enum source)f->at, res);
	if (PQntuples(res) < FETCH_ROWS)
		close_cursor(f);
	else
		fetch(f);
}

static void
on_good_result(struct feed *f, PGresult *res)
{
	if (f->phase >= PHASE_BEGIN && f->phase <= PHASE_COMMIT &&
	    lacks_memory(f)) {
		PQclear(res);
		return;
	}
	switch (f->phase) {
	case PHASE_SETUP:
		run(f, PHASE_LISTEN, "LISTEN policyd", 0, NULL);
		break;
	case PHASE_LISTEN:
		f->phase = PHASE_NONE;
		if (f->of == NULL)
			want_all(f);
		break;
	case PHASE_SCHEMA:
		check_schema(f, res);
		break;
	case PHASE_VERSION:
		if (check_version(f, PQgetvalue(res, 0, 0)))
			start_job(f);
		break;
	case PHASE_BEGIN:
		begin_round(f);
		break;
	case PHASE_DECLARE:
		lock_next(f);
		break;
	case PHASE_KEYS:
		if (take_keys(f, res))
			return;
		break;
	case PHASE_FETCH:
		take_rows(f, res);
		break;
	case PHASE_CLOSE:
		fetch_next(f);
		break;
	case PHASE_BARRIER:
		f->stale = PQgetvalue(res, 0, 1)[0] == 't';
		if (!f->ours || check_version(f, PQgetvalue(res, 0, 2)))
			run(f, PHASE_COMMIT, "COMMIT", 0, NULL);
		break;
	case PHASE_COMMIT:
		finish_round(f);
		break;
	case PHASE_ROLLBACK:
		give_back(f);
		break;
	case PHASE_LIMITS:
	case PHASE_PING:
		f->phase = PHASE_NONE;
		break;
	case PHASE_NONE:
		break;
	}
	PQclear(res);
}

static bool
is_at_source(const struct feed *f)
{
	return f->phase >= PHASE_DECLARE && f->phase <= PHASE_CLOSE;
}

/* As the administrator knows it: a table, or a query of [lookup]. */
static struct str
source_at(const struct feed *f)
{
	static const struct str keys[SOURCES] = {STR_INIT("domains"),
	    STR_INIT("domains"), STR_INIT("addresses"), STR_INIT("addresses"),
	    STR_INIT("list_entry"), STR_INIT("rule")};

	return keys[f->at];
}

static void
log_refused(const struct feed *f, const PGresult *res)
{
	struct log_entry e;

	log_begin(&e, LOG_ERR, "the database refused to be read");
	if (is_at_source(f))
		log_str(&e, "table", source_at(f));
	log_str(&e, "sqlstate",
	    str_of(PQresultErrorField(res, PG_DIAG_SQLSTATE)));
	log_str(&e, "error",
	    str_of(PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY)));
	log_end(&e);
}

/* Read the others without it, and try again in a moment. */
static void
on_locked(struct feed *f)
{
	struct log_entry e;
	uint64_t suppressed;

	f->held[f->at] = true;
	ev_timer_stop(f->loop, &f->pause);
	ev_timer_set(&f->pause, LOCK_PAUSE_S, 0);
	ev_timer_start(f->loop, &f->pause);
	if (log_allowed(&f->lock_limit, ev_now(f->loop), &suppressed)) {
		log_begin(&e, LOG_WARNING,
		    "a table is locked, its changes have to wait");
		log_str(&e, "table", source_at(f));
		log_end(&e);
	}
	run(f, PHASE_ROLLBACK, "ROLLBACK", 0, NULL);
}

/*
 * Somebody listens and does not read, and no more notifications go in: ours did
 * not, nor does that of any change.  What was read is good.
 */
static void
on_queue_full(struct feed *f)
{
	uint64_t suppressed;

	if (log_allowed(&f->full_limit, ev_now(f->loop), &suppressed))
		log_line(LOG_ERR, "PostgreSQL's queue of notifications is full: "
				  "changes of the tables are refused");
	finish_round(f);
}

static void
on_refused(struct feed *f, const PGresult *res)
{
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
	struct str s = str_of(state != NULL ? state : "");

	if (str_eq(s, STR("55P03")) && is_at_source(f) && f->limits.lock_s > 0) {
		on_locked(f);
		return;
	}
	if (str_eq(s, STR("54000")) && f->phase == PHASE_COMMIT) {
		on_queue_full(f);
		return;
	}
	if (str_eq(s, STR("57014")) && is_at_source(f) &&
	    f->read_timeout_s < READ_TIMEOUT_MOST_S)
		f->read_timeout_s *= 2;
	log_refused(f, res);
	db_session_drop(f->db, "the database refused to be read");
}

static void
on_result(void *arg, enum db_outcome outcome, PGresult *res)
{
	struct feed *f = arg;

	switch (outcome) {
	case DB_OK:
		on_good_result(f, res);
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

/* ---- the connection ---- */

static void
on_up(void *arg)
{
	struct feed *f = arg;

	f->status.connected = true;
	if (f->of == NULL)
		log_line(LOG_INFO, "database connection up");
	ev_timer_again(f->loop, &f->ping);
	f->limits = (struct limits){0};
	/* Times come in one form. */
	run(f, PHASE_SETUP,
	    "SELECT set_config('DateStyle', 'ISO', false), "
	    "set_config('TimeZone', 'UTC', false), "
	    "set_config('cursor_tuple_fraction', '1', false)",
	    0, NULL);
}

static void
on_down(void *arg, const char *why)
{
	struct feed *f = arg;
	uint64_t suppressed;

	f->status.connected = false;
	ev_timer_stop(f->loop, &f->ping);
	job_clear(f);
	want_none(f); /* all is read on return */
	if (f->of != NULL)
		return;
	if (log_allowed(&f->down_limit, ev_now(f->loop), &suppressed)) {
		struct log_entry e;

		log_begin(&e, LOG_WARNING, "database connection down");
		log_str(&e, "error", str_of(why));
		if (suppressed > 0)
			log_int(&e, "suppressed", (int64_t)suppressed);
		log_end(&e);
	}
	settle_without(f);
}

/*
 * A row may stand there with its domain in the other spelling, too: of the two
 * that are one to us, one may be gone and the other not.
 */
static void
want_spellings(struct want *w, struct str key)
{
	char buf[LOCAL_MAX_BYTES + DOMAIN_MAX_BYTES + 2];
	struct str other;

	want_key(w, key);
	if (key.n > 0 && address_respell(key, buf, sizeof(buf), &other))
		want_key(w, other);
}

static void
on_notified(void *arg, const char *channel, const char *payload)
{
	struct feed *f = arg;
	struct str table = str_of(payload), key = STR("");
	const char *colon = strchr(payload, ':');
	enum source s;

	if (strcmp(channel, "policyd") != 0)
		return;
	if (colon != NULL) {
		table.n = (size_t)(colon - payload);
		key = str_of(colon + 1);
	}
	if (table.n == 0) {
		for (int i = 0; i < SOURCES; i++)
			want_whole(&f->wanted[i]);
		memset(f->held, 0, sizeof(f->held));
	} else if ((s = source_named(f->config, table)) != SOURCES &&
	    source_has_key(s, key)) {
		/* Who locked it may have been the one who changed it. */
		f->held[s] = false;
		if (source_keyed_query(f->config, s) == NULL)
			key = STR("");
		want_spellings(&f->wanted[s], key);
	}
	f->blind = f->blind || (f->of != NULL && is_any_whole(f->wanted));
	work(f);
}

static void
connect_db(struct feed *f)
{
	struct db_options options = {
	    .conninfo = f->config->database.listen_conninfo,
	    .connect_timeout_s = CONNECT_TIMEOUT_S,
	    .reconnect_max_s = f->config->database.reconnect_max_s,
	};
	struct db_handlers handlers = {on_up, on_down, on_notified, f};

	f->db = db_session_new(f->loop, &options, &handlers);
}

/* ---- timers ---- */

static void
on_refresh(struct ev_loop *loop, ev_timer *w, int events)
{
	struct feed *f = w->data;

	(void)loop;
	(void)events;
	if (!f->status.connected || f->phase == PHASE_SETUP ||
	    f->phase == PHASE_LISTEN)
		return; /* all is read anyway once it is up */
	if (f->phase != PHASE_NONE && anything_unread(f))
		return; /* it is being read */
	want_all(f);
	work(f);
}

static void
on_pause_over(struct ev_loop *loop, ev_timer *w, int events)
{
	(void)loop;
	(void)events;
	work(w->data);
}

static void
on_ping(struct ev_loop *loop, ev_timer *w, int events)
{
	struct feed *f = w->data;

	(void)loop;
	(void)events;
	if (f->phase == PHASE_NONE && db_session_state(f->db) == DB_IDLE)
		run(f, PHASE_PING, "SELECT 1", 0, NULL);
}

static void
on_start_deadline(struct ev_loop *loop, ev_timer *w, int events)
{
	struct feed *f = w->data;
	char *path = copy_path(f->config->policyd.state_dir);

	(void)loop;
	(void)events;
	/* Without a copy there is nothing better to do than to read on. */
	if (access(path, R_OK) != 0)
		settle(f);
	else if (db_session_state(f->db) == DB_DOWN)
		settle_without(f);
	else
		db_session_drop(f->db, "the first read takes too long");
	free(path);
}

static void
start_refresh(struct feed *f)
{
	ev_timer_stop(f->loop, &f->refresh);
	ev_timer_set(&f->refresh, f->config->lookup.refresh_s,
	    f->config->lookup.refresh_s);
	ev_timer_start(f->loop, &f->refresh);
}

/* ---- life ---- */

/* A connection of a feed's own: what both sides of it have. */
static struct feed *
line_new(struct ev_loop *loop, const struct config *config,
    struct tables *tables)
{
	struct feed *f = mem_zalloc(sizeof(*f));

	f->loop = loop;
	f->config = config;
	f->tables = tables;
	f->read_timeout_s = READ_TIMEOUT_S;
	ev_timer_init(&f->pause, on_pause_over, LOCK_PAUSE_S, 0);
	ev_timer_init(&f->ping, on_ping, PING_S, PING_S);
	f->pause.data = f->ping.data = f;
	connect_db(f);
	return f;
}

static void
disconnect(struct feed *f)
{
	db_session_free(f->db);
	job_clear(f);
	want_none(f);
	f->status.connected = false;
	ev_timer_stop(f->loop, &f->pause);
	ev_timer_stop(f->loop, &f->ping);
}

struct feed *
feed_new(struct ev_loop *loop, const struct config *config,
    struct tables *tables, void (*settled)(void *arg), void *arg)
{
	struct feed *f = line_new(loop, config, tables);

	f->side = line_new(loop, config, tables);
	f->side->of = f;
	f->settled = settled;
	f->arg = arg;
	ev_timer_init(&f->refresh, on_refresh, 0, 0);
	ev_timer_init(&f->start, on_start_deadline, START_MAX_S, 0);
	f->copy = aside_new(loop,
	    &(struct aside_job){write_copy, copy_failed, f, COPY_LEAST_S,
		COPY_MOST_S, .patient = true});
	f->refresh.data = f->start.data = f;
	start_refresh(f);
	ev_timer_start(loop, &f->start);
	return f;
}

void
feed_free(struct feed *f)
{
	if (f == NULL)
		return;
	disconnect(f->side);
	disconnect(f);
	aside_end(f->copy);
	ev_timer_stop(f->loop, &f->refresh);
	ev_timer_stop(f->loop, &f->start);
	free(f->side);
	free(f);
}

void
feed_reconfigure(struct feed *f, const struct config *config)
{
	const struct config *old = f->config;
	const char *old_dir = old->policyd.state_dir;
	bool same = strcmp(old->database.listen_conninfo,
			config->database.listen_conninfo) == 0 &&
	    old->database.reconnect_max_s == config->database.reconnect_max_s &&
	    source_origin(old) == source_origin(config);

	f->config = f->side->config = config;
	if (strcmp(old_dir, config->policyd.state_dir) != 0 &&
	    directory_ready(f->tables->directory))
		aside_soon(f->copy);
	directory_set_fold(f->tables->directory, config->rcpt.fold_local_part);
	start_refresh(f);
	if (same)
		return;
	disconnect(f);
	disconnect(f->side);
	connect_db(f);
	connect_db(f->side);
}

struct feed_status
feed_status(const struct feed *f)
{
	struct feed_status status = f->status;

	db_session_count(f->db, &status.db);
	db_session_count(f->side->db, &status.db);
	return status;
}
