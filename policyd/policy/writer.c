#include "policy/writer.h"

#include "base/aside.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "config/config.h"
#include "db/pool.h"
#include "policy/merge.h"

#include <errno.h>
#include <ev.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Gather for so long; and where that failed, try again after so long. */
static const double GATHER_S = 0.1, RETRY_S = 1;
/* A statement that takes longer may never come back. */
static const double SLOW_S = 0.5;
/*
 * Who is killed loses no more than the last second: that is twice as long as
 * a change waits for the child, which takes a moment, too.
 */
static const double KEEP_LEAST_S = 0.2, KEEP_MOST_S = 0.5;
enum { ROWS_MAX = 1000 }; /* of a statement */

struct writer {
	struct ev_loop *loop;
	const struct config *config;
	struct db_pool *pool;
	struct journal *journal;
	writer_arrived_fn *arrived;
	void *arg;
	int64_t ahead;
	bool clock_known;
	ev_timer timer;
	struct db_call *call;
	double sent; /* when it was; clock_s() */
	size_t piece; /* rows at most; less after one that was refused */
	struct aside *aside;
	uint64_t kept; /* the version that is, or will be, on disk */
	bool on_disk;  /* there may be a file */
	char *before;  /* and one where state_dir was, or NULL */
	bool idle;     /* as was said last */
	struct log_limit limit;
};

/* ---- when ---- */

static void
say(struct writer *w, bool idle)
{
	if (idle == w->idle)
		return;
	w->idle = idle;
	log_line(LOG_DEBUG, idle ? "greylisting: all is written" :
				   "greylisting: something is to be written");
}

static void
write_after(struct writer *w, double s)
{
	if (!ev_is_active(&w->timer)) {
		ev_timer_set(&w->timer, s, 0);
		ev_timer_start(w->loop, &w->timer);
	}
}

/* ---- on disk ---- */

static char *
path_of(const struct writer *w)
{
	return mem_printf("%s/greylist.journal", w->config->policyd.state_dir);
}

static int
save(void *arg)
{
	const struct writer *w = arg;
	char *path = path_of(w);
	int rc = journal_save(w->journal, path, w->ahead), error = errno;

	free(path);
	errno = error;
	return rc;
}

static void
on_save_failed(void *arg, int error)
{
	const struct writer *w = arg;

	log_line(LOG_ERR, "state_dir %s: the journal of greylisting: %s",
	    w->config->policyd.state_dir, strerror(error));
}

/* PostgreSQL is away: what is in the journal should survive us. */
static void
keep(struct writer *w)
{
	if (journal_version(w->journal) == w->kept)
		return;
	w->kept = journal_version(w->journal);
	w->on_disk = true;
	aside_soon(w->aside);
}

void
writer_soon(struct writer *w)
{
	say(w, false);
	if (w->on_disk)
		keep(w); /* PostgreSQL is away: not only when it is tried */
	write_after(w, GATHER_S);
}

static void
remove_before(struct writer *w)
{
	if (w->before != NULL)
		unlink(w->before);
	free(w->before);
	w->before = NULL;
}

static void
remove_file(struct writer *w)
{
	char *path = path_of(w);

	unlink(path);
	free(path);
	remove_before(w);
	w->on_disk = false;
}

/* All is in PostgreSQL: what is on disk is of no use. */
static void
forget(struct writer *w)
{
	say(w, true);
	aside_forget(w->aside);
	if (!w->on_disk)
		return;
	if (aside_is_busy(w->aside))
		write_after(w, RETRY_S);
	else
		remove_file(w);
}

static void
load(struct writer *w)
{
	char *path = path_of(w);
	const char *why;

	if (journal_load(w->journal, path, w->ahead, &why) == 0) {
		log_line(LOG_NOTICE, "%s: %zu attempts are to be written", path,
		    journal_count(w->journal));
		w->on_disk = true;
		write_after(w, RETRY_S);
	} else if (errno != ENOENT) {
		log_line(LOG_ERR, "%s is left out: %s", path, why);
	}
	w->kept = journal_version(w->journal);
	free(path);
}

/* ---- to PostgreSQL ---- */

static void write_next(struct writer *w);

static void
log_failed(struct writer *w, enum db_outcome outcome,
    const PGresult *res)
{
	struct log_entry e;
	uint64_t suppressed;

	if (!log_allowed(&w->limit, ev_now(w->loop), &suppressed))
		return;
	log_begin(&e, LOG_WARNING, "greylisting is not written yet");
	log_int(&e, "unsaved", (int64_t)journal_count(w->journal));
	log_str(&e, "error", outcome == DB_REFUSED ?
	    str_of(PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY)) :
	    STR("PostgreSQL is away"));
	if (suppressed > 0)
		log_int(&e, "suppressed", (int64_t)suppressed);
	log_end(&e);
}

/*
 * A row that PostgreSQL will never take must not keep the others back: it is
 * looked for by halves, and left out.  54, a limit, is not about a row: keys are
 * short, and the queue of notifications may be full.
 */
static bool
is_about_a_row(const PGresult *res)
{
	const char *sqlstate = PQresultErrorField(res, PG_DIAG_SQLSTATE);

	return sqlstate != NULL && (strncmp(sqlstate, "22", 2) == 0 ||
		strncmp(sqlstate, "23", 2) == 0);
}

static void
refused(struct writer *w, const PGresult *res)
{
	if (w->piece == 1) {
		log_line(LOG_ERR, "greylisting: a row is left out: %s",
		    PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY));
		journal_sent(w->journal, NULL, NULL);
		return;
	}
	w->piece /= 2;
	journal_unsent(w->journal);
}

static void
on_written(void *arg, enum db_outcome outcome, PGresult *res)
{
	struct writer *w = arg;

	w->call = NULL;
	if (outcome == DB_OK) {
		journal_sent(w->journal, w->arrived, w->arg);
		if (w->piece < ROWS_MAX)
			w->piece *= 2;
		write_next(w);
	} else if (outcome == DB_REFUSED && is_about_a_row(res)) {
		refused(w, res);
		write_next(w);
	} else {
		log_failed(w, outcome, res);
		journal_unsent(w->journal);
		keep(w);
		write_after(w, RETRY_S);
	}
	PQclear(res);
}

static void
write_piece(struct writer *w, enum journal_kind kind)
{
	size_t n;
	struct journal_entry *const *entries =
	    journal_take(w->journal, kind, w->piece, &n);
	struct merge m = merge_new(kind, entries, n, w->ahead,
	    w->config->greylist.retry_window_s, w->config->greylist.max_age_s);

	w->sent = clock_s();
	w->call = db_pool_query(w->pool, m.sql, m.n,
	    (const char *const *)m.param, w->config->database.query_timeout_s,
	    on_written, w);
	merge_free(&m);
	if (w->call == NULL) {
		journal_unsent(w->journal);
		write_after(w, RETRY_S);
	}
}

static void
write_next(struct writer *w)
{
	static const enum journal_kind order[] = {JOURNAL_NEW_KEY,
	    JOURNAL_PASSED_KEY, JOURNAL_KNOWN_KEY, JOURNAL_CLIENT};

	if (w->call != NULL) {
		/* PostgreSQL may hang. */
		if (clock_s() - w->sent > SLOW_S)
			keep(w);
		write_after(w, SLOW_S);
		return;
	}
	if (journal_count(w->journal) == 0) {
		forget(w);
		return;
	}
	if (!w->clock_known || !db_pool_hopeful(w->pool)) {
		keep(w);
		write_after(w, RETRY_S);
		return;
	}
	for (int i = 0; i < JOURNAL_KINDS; i++)
		if (journal_count_of(w->journal, order[i]) > 0) {
			write_piece(w, order[i]);
			return;
		}
}

static void
on_timer(struct ev_loop *loop, ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	write_next(timer->data);
}

/* ---- life ---- */

struct writer *
writer_new(struct ev_loop *loop, const struct config *config,
    struct db_pool *pool, int64_t ahead, writer_arrived_fn *arrived, void *arg)
{
	struct writer *w = mem_zalloc(sizeof(*w));

	w->arrived = arrived;
	w->arg = arg;
	w->loop = loop;
	w->config = config;
	w->pool = pool;
	w->journal = journal_new();
	w->piece = ROWS_MAX;
	ev_timer_init(&w->timer, on_timer, 0, 0);
	w->timer.data = w;
	w->aside = aside_new(loop,
	    &(struct aside_job){save, on_save_failed, w, KEEP_LEAST_S,
		KEEP_MOST_S, .patient = false});
	w->ahead = ahead;
	load(w);
	w->idle = journal_count(w->journal) > 0;
	say(w, !w->idle);
	return w;
}

void
writer_free(struct writer *w)
{
	if (w == NULL)
		return;
	if (w->call != NULL)
		db_call_cancel(w->call);
	ev_timer_stop(w->loop, &w->timer);
	if (journal_count(w->journal) > 0)
		keep(w);
	else
		aside_forget(w->aside);
	aside_end(w->aside);
	if (journal_count(w->journal) == 0 && w->on_disk)
		remove_file(w);
	free(w->before);
	journal_free(w->journal);
	free(w);
}

void
writer_reconfigure(struct writer *w, const struct config *config,
    struct db_pool *pool)
{
	bool moves = strcmp(w->config->policyd.state_dir,
			 config->policyd.state_dir) != 0;

	if (moves && w->on_disk) {
		/* Until all is written: the new one is not there yet. */
		remove_before(w);
		w->before = path_of(w);
		w->kept = journal_version(w->journal) - 1;
		writer_soon(w);
	}
	w->config = config;
	if (w->pool == pool)
		return;
	if (w->call != NULL) {
		db_call_cancel(w->call);
		w->call = NULL;
		journal_unsent(w->journal);
		write_after(w, RETRY_S);
	}
	w->pool = pool;
}

int
writer_statements(const char **out, int max)
{
	int n = 0;

	for (; n < JOURNAL_KINDS && n < max; n++)
		out[n] = merge_sql((enum journal_kind)n);
	return n;
}

bool
writer_is_on_disk(const struct writer *w)
{
	return w->on_disk;
}

struct journal *
writer_journal(struct writer *w)
{
	return w->journal;
}

void
writer_set_ahead(struct writer *w, int64_t ahead)
{
	w->ahead = ahead;
	w->clock_known = true;
}

static void
on_drain_end(struct ev_loop *loop, ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	*(bool *)timer->data = true;
}

void
writer_drain(struct writer *w, double max_s)
{
	bool over = false;
	ev_timer end;

	ev_timer_init(&end, on_drain_end, max_s, 0);
	end.data = &over;
	ev_now_update(w->loop);
	ev_timer_start(w->loop, &end);
	while (journal_count(w->journal) > 0 && !over &&
	    db_pool_hopeful(w->pool)) {
		write_next(w);
		ev_run(w->loop, EVRUN_ONCE);
	}
	ev_timer_stop(w->loop, &end);
	if (journal_count(w->journal) > 0)
		log_line(LOG_NOTICE, "greylisting: %zu attempts stay on disk",
		    journal_count(w->journal));
}
