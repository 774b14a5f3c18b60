#include "policy/greylist.h"

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "config/config.h"
#include "db/pool.h"
#include "policy/attempt.h"
#include "policy/journal.h"
#include "policy/keep.h"
#include "policy/known.h"
#include "policy/news.h"
#include "policy/purge.h"
#include "policy/see.h"
#include "policy/tally.h"
#include "policy/unsynced.h"
#include "policy/writer.h"

#include <ev.h>
#include <math.h>
#include <stdlib.h>

/*
 * Nobody waits longer for PostgreSQL than this: memory can judge.  Much more
 * than a statement takes, much less than anybody notices.  Where statements
 * may take long, by query_timeout, a tenth of that.
 */
static const double PATIENCE_S = 0.5;

static const double CONNECT_TIMEOUT_S = 5;

enum { CLOCK_ROUND_MS = 100, EAR_TIMEOUT_MS = 5000 };

/* PostgreSQL's clock and ours differ by less than one in so many; or it is set. */
enum { CLOCK_DRIFT = 1000, CLOCK_SET_MS = 5000 };

/*
 * The last use of a key is written when it is a second old; the more there is
 * to write, the older, up to an hour.
 */
enum { TOUCH_MS = 1000, TOUCH_MAX_MS = 3600 * 1000, TOUCHES = 10000 };

/*
 * Keys that a client may begin within an hour, 150 MB of rows: nobody has so
 * much honest mail before the first of it passes, and all of it with that.
 * Without auto_allow_after there is no such end, and no bound.
 */
enum { BEGUN_MAX = 1000000 };

struct greylist {
	struct ev_loop *loop;
	const struct config *config;
	struct db_pool *pool;
	struct batch *batch;
	struct known *known;
	struct keep *keep; /* of what is known */
	struct writer *writer;
	struct journal *journal; /* the writer's */
	struct purge *purge;
	struct tally *begun; /* by client */

	struct news *news;
	struct unsynced *unsynced;

	/* PostgreSQL's clock less ours, in ms; a guess until it has said. */
	int64_t ahead;
	int64_t clock_at; /* when it said; 0: not yet */

	/*
	 * Of the statement that is out: when it was sent.  Its rows may be older
	 * than what was announced since.
	 */
	uint32_t sent_epoch;
	int64_t sent_at;
	char parameter[4][32];

	struct log_limit slow_limit, full_limit, begun_limit;
};

/* ---- time ---- */

/* PostgreSQL's time, in seconds, as ours. */
static int64_t
ours(const struct greylist *g, double seconds)
{
	double ms = seconds * 1000;

	if (!(ms < (double)KNOWN_FOREVER / 2))
		return KNOWN_FOREVER;
	if (ms < -(double)KNOWN_FOREVER / 2)
		return -KNOWN_FOREVER / 2;
	return (int64_t)floor(ms) - g->ahead;
}

static void
set_clock(struct greylist *g, double seconds)
{
	int64_t now = clock_ms();
	int64_t ahead = (int64_t)floor(seconds * 1000) - now;
	int64_t least = g->ahead - (now - g->clock_at) / CLOCK_DRIFT;

	/*
	 * An answer was on its way for a while, so that all of them say too
	 * little: the one that says most is the nearest.  Less is believed
	 * slowly; much less, at once.
	 */
	if (g->clock_at != 0 && ahead < least && ahead > least - CLOCK_SET_MS)
		ahead = least;
	g->ahead = ahead;
	g->clock_at = now;
	writer_set_ahead(g->writer, g->ahead);
}

static struct attempt_limits
limits(const struct greylist *g)
{
	return (struct attempt_limits){
	    .delay = (int64_t)(g->config->greylist.delay_s * 1000),
	    .retry_window =
		(int64_t)(g->config->greylist.retry_window_s * 1000),
	    .max_age = (int64_t)(g->config->greylist.max_age_s * 1000),
	};
}

/* ---- what is to be written ---- */

/* Is it time to write the last use of something once more? */
static bool
is_stale(const struct greylist *g, int64_t last, int64_t now)
{
	int64_t waiting = (int64_t)(
	    journal_count_of(g->journal, JOURNAL_KNOWN_KEY) +
	    journal_count_of(g->journal, JOURNAL_CLIENT));

	if (waiting > TOUCHES)
		waiting = TOUCHES;
	return now - last >=
	    TOUCH_MS + waiting * (TOUCH_MAX_MS / TOUCHES);
}

/* Last uses take no more than half of it: the rest is for what is new. */
static bool
has_room(const struct greylist *g)
{
	return journal_count(g->journal) < JOURNAL_MAX / 2;
}

static struct journal_entry *
note_client(struct greylist *g, struct sighting *s, uint64_t client,
    int64_t now)
{
	struct journal_entry *e = journal_find(g->journal, client);

	if (e == NULL) {
		s->spell(s);
		e = journal_add(g->journal, JOURNAL_CLIENT, client,
		    client == s->client ? &s->client_text : &s->network_text);
		writer_soon(g->writer);
	}
	if (e != NULL) {
		e->row.last_seen = now;
		journal_touch(g->journal, e, JOURNAL_CLIENT);
	}
	return e;
}

static struct journal_entry *
note_key(struct greylist *g, struct sighting *s, enum journal_kind kind)
{
	uint64_t key = journal_key(s->client, s->pair);
	struct str texts[3];
	struct journal_entry *e;

	s->spell(s);
	texts[0] = s->client_text;
	texts[1] = s->sender;
	texts[2] = s->recipient;
	e = journal_add(g->journal, kind, key, texts);
	writer_soon(g->writer);
	return e;
}

/* ---- judging in memory ---- */

static struct attempt_row
row_of(struct known_entry k)
{
	switch (k.kind) {
	case KNOWN_WAITING:
		return (struct attempt_row){k.time, k.time, ATTEMPT_WAITS, 1};
	case KNOWN_PASSED:
		return (struct attempt_row){k.time, k.time, k.time, 1};
	case KNOWN_NOTHING:
	case KNOWN_CLIENT:
	case KNOWN_CHANGED:
		break;
	}
	return (struct attempt_row){0};
}

/* The row of a key as far as it is known here; NULL is allowed for mine. */
static struct attempt_row
find_row(const struct greylist *g, uint64_t key, struct journal_entry **mine)
{
	struct journal_entry *e = journal_find(g->journal, key);

	if (mine != NULL)
		*mine = e;
	return e != NULL ? e->row : row_of(known_find(g->known, key));
}

/* A key of this client has passed: it may be the last that had to wait. */
static void
client_passed(struct greylist *g, struct sighting *s, int64_t now)
{
	struct journal_entry *e = note_client(g, s, s->client, now);
	int64_t enough = g->config->greylist.auto_allow_after;

	if (e == NULL)
		return;
	e->add++;
	/* Not sure: PostgreSQL decides, when it is there. */
	if (enough > 0 && e->add >= enough)
		known_put(g->known, s->client, KNOWN_CLIENT, now,
		    known_epoch(g->known) - 1);
}

static struct greylist_answer
answer_of(const struct attempt_limits *l, enum attempt_verdict verdict,
    const struct attempt_row *row, int64_t now)
{
	struct greylist_answer a = {GREYLIST_KNOWN, 0};

	if (verdict == ATTEMPT_NEW || verdict == ATTEMPT_EARLY) {
		a.word = GREYLIST_WAIT;
		a.seconds = attempt_seconds_left(l, row->first_seen, now);
	} else if (verdict == ATTEMPT_PASS) {
		a.word = GREYLIST_PASS;
		a.seconds = (now - row->first_seen) / 1000;
	}
	return a;
}

static void
log_full(struct greylist *g)
{
	struct log_entry e;
	uint64_t suppressed;

	if (!log_allowed(&g->full_limit, ev_now(g->loop), &suppressed))
		return;
	log_begin(&e, LOG_WARNING, "PostgreSQL is away and memory is full: "
				   "new keys pass");
	log_int(&e, "unsaved", JOURNAL_MAX);
	if (suppressed > 0)
		log_int(&e, "suppressed", (int64_t)suppressed);
	log_end(&e);
}

static struct greylist_answer
judge_key(struct greylist *g, struct sighting *s)
{
	struct attempt_limits l = limits(g);
	int64_t now = clock_ms();
	struct journal_entry *e;
	struct attempt_row row =
	    find_row(g, journal_key(s->client, s->pair), &e);
	bool had = row.attempts > 0;
	enum attempt_verdict verdict;
	enum journal_kind kind;

	/* Its name could not be verified the first time? */
	if (attempt_is_old(&l, &row, now) && s->network != s->client)
		row = find_row(g, journal_key(s->network, s->pair), NULL);
	verdict = attempt_judge(&l, now, s->counted, &row);
	if (verdict == ATTEMPT_NEW || !had)
		kind = JOURNAL_NEW_KEY;
	else
		kind = e != NULL ? e->kind : JOURNAL_KNOWN_KEY;
	if (verdict == ATTEMPT_PASS && kind == JOURNAL_KNOWN_KEY)
		kind = JOURNAL_PASSED_KEY;
	if (e == NULL) {
		e = note_key(g, s, kind);
		if (e == NULL && verdict == ATTEMPT_NEW) {
			log_full(g);
			return (struct greylist_answer){GREYLIST_FULL, 0};
		}
	}
	if (e != NULL) {
		e->row = row;
		if (verdict == ATTEMPT_NEW) {
			e->add = 1;
			e->adding = JOURNAL_ANEW;
		} else if (verdict != ATTEMPT_KNOWN) {
			e->add += s->counted;
		}
		journal_touch(g->journal, e, kind);
	}
	if (verdict == ATTEMPT_PASS)
		client_passed(g, s, now);
	else if (verdict == ATTEMPT_NEW)
		tally_add(g->begun, s->client, now);
	return answer_of(&l, verdict, &row, now);
}

/* ---- what is known ---- */

/* A key or client was used: kept in the cache at once, written in time. */
static void
use(struct greylist *g, uint64_t key, struct known_entry k, int64_t now)
{
	known_put(g->known, key, k.kind, now,
	    known_epoch(g->known) - (k.sure ? 0 : 1));
}

static bool
may_trust(const struct greylist *g, struct known_entry k, bool away)
{
	return away || (k.sure && news_is_heard(g->news));
}

static bool
client_is_known(struct greylist *g, struct sighting *s, uint64_t client,
    bool away, int64_t now, bool *changed)
{
	struct known_entry k = known_find(g->known, client);

	*changed |= k.kind == KNOWN_CHANGED;
	if (k.kind != KNOWN_CLIENT || !may_trust(g, k, away))
		return false;
	if (k.time == KNOWN_FOREVER)
		return true;
	if (k.time < now - limits(g).max_age)
		return false;
	if (is_stale(g, k.time, now) && has_room(g) &&
	    note_client(g, s, client, now) != NULL)
		use(g, client, k, now);
	return true;
}

static bool
is_exempt(struct greylist *g, struct sighting *s, bool away, int64_t now,
    bool *changed)
{
	return client_is_known(g, s, s->client, away, now, changed) ||
	    (s->network != s->client &&
		client_is_known(g, s, s->network, away, now, changed));
}

/* PostgreSQL does not answer: all that is known counts. */
static struct greylist_answer
judge_in_memory(struct greylist *g, struct sighting *s)
{
	bool changed = false;

	if (is_exempt(g, s, true, clock_ms(), &changed))
		return (struct greylist_answer){GREYLIST_CLIENT, 0};
	return judge_key(g, s);
}

/* An early attempt leaves its mark, where there is room for it. */
static void
note_early(struct greylist *g, struct sighting *s, struct attempt_row row,
    int64_t now)
{
	struct journal_entry *e =
	    journal_find(g->journal, journal_key(s->client, s->pair));

	if (!s->counted)
		return;
	if (e == NULL &&
	    journal_count_of(g->journal, JOURNAL_KNOWN_KEY) < TOUCHES)
		e = note_key(g, s, JOURNAL_KNOWN_KEY);
	if (e == NULL)
		return;
	row.last_seen = now;
	e->row = row;
	e->add++;
	journal_touch(g->journal, e, e->kind);
}

/* The last use of a key that has passed. */
static void
note_use(struct greylist *g, struct sighting *s, struct known_entry k,
    int64_t now)
{
	uint64_t key = journal_key(s->client, s->pair);
	struct journal_entry *e;

	if (!is_stale(g, k.time, now))
		return;
	e = journal_find(g->journal, key);
	if (e == NULL && has_room(g))
		e = note_key(g, s, JOURNAL_KNOWN_KEY);
	if (e == NULL)
		return;
	e->row = row_of(k);
	e->row.last_seen = now;
	journal_touch(g->journal, e, e->kind);
	use(g, key, k, now);
}

/* Is the key's answer in memory? */
static bool
key_is_known(struct greylist *g, struct sighting *s, bool away, bool changed,
    int64_t now, struct greylist_answer *out)
{
	struct attempt_limits l = limits(g);
	struct known_entry k =
	    known_find(g->known, journal_key(s->client, s->pair));
	struct attempt_row row = row_of(k);
	struct attempt_row after = row;
	enum attempt_verdict verdict;

	if (row.attempts == 0 || !may_trust(g, k, away))
		return false;
	verdict = attempt_judge(&l, now, s->counted, &after);
	if (verdict == ATTEMPT_KNOWN)
		note_use(g, s, k, now);
	else if (verdict == ATTEMPT_EARLY && !changed)
		note_early(g, s, row, now);
	else
		return false;
	*out = answer_of(&l, verdict, &after, now);
	return true;
}

static void
log_begun(struct greylist *g, struct sighting *s)
{
	struct log_entry e;
	uint64_t suppressed;

	if (!log_allowed(&g->begun_limit, ev_now(g->loop), &suppressed))
		return;
	s->spell(s);
	log_begin(&e, LOG_WARNING, "a client tries too many senders and "
				   "recipients: new ones are not remembered");
	log_str(&e, "client", s->client_text);
	if (suppressed > 0)
		log_int(&e, "suppressed", (int64_t)suppressed);
	log_end(&e);
}

/* Then a key that is not known waits, and nobody remembers it. */
static bool
has_begun_too_many(struct greylist *g, struct sighting *s, bool changed,
    int64_t now, struct greylist_answer *out)
{
	struct attempt_limits l = limits(g);
	uint64_t key = journal_key(s->client, s->pair);

	if (changed || g->config->greylist.auto_allow_after == 0 ||
	    tally_of(g->begun, s->client, now) < BEGUN_MAX ||
	    known_find(g->known, key).kind != KNOWN_NOTHING)
		return false;
	log_begun(g, s);
	*out = (struct greylist_answer){GREYLIST_WAIT,
	    attempt_seconds_left(&l, now, now)};
	return true;
}

/* ---- one statement for all that wait ---- */

static int
on_parameters(void *arg, const char **more, int max)
{
	struct greylist *g = arg;
	const double value[] = {g->config->greylist.delay_s,
	    g->config->greylist.retry_window_s, g->config->greylist.max_age_s,
	    (double)g->config->greylist.auto_allow_after};
	int n = sizeof(value) / sizeof(value[0]);

	for (int i = 0; i < n && i < max; i++) {
		snprintf(g->parameter[i], sizeof(g->parameter[i]), "%.17g",
		    value[i]);
		more[i] = g->parameter[i];
	}
	return n;
}

static void
on_sent(void *arg)
{
	struct greylist *g = arg;

	g->sent_epoch = known_epoch(g->known);
	g->sent_at = clock_ms();
	news_watch(g->news);
}

static void
learn(struct greylist *g, uint64_t key, enum known_kind kind, int64_t time)
{
	if (!news_had(g->news, key))
		known_put(g->known, key, kind, time, g->sent_epoch);
}

static void
on_client(void *arg, uint64_t client, const struct see_row *row)
{
	struct greylist *g = arg;

	learn(g, client, KNOWN_CLIENT, ours(g, row->last_seen));
}

/* It was asked about since it was changed, and is not exempt. */
static void
on_stranger(void *arg, uint64_t client)
{
	struct greylist *g = arg;

	if (known_find(g->known, client).kind == KNOWN_CHANGED &&
	    !news_had(g->news, client))
		known_drop(g->known, client);
}

/*
 * An answer may be late, and say less than what was judged meanwhile.  What is
 * too old to count says nothing.
 */
static int64_t
earlier(const struct greylist *g, uint64_t key, int64_t first_seen)
{
	const struct journal_entry *e = journal_find(g->journal, key);
	struct known_entry k = known_find(g->known, key);
	int64_t since = clock_ms() - limits(g).retry_window;

	if (k.kind == KNOWN_WAITING && k.time >= since && k.time < first_seen)
		first_seen = k.time;
	if (e != NULL && e->row.first_seen >= since &&
	    e->row.first_seen < first_seen)
		first_seen = e->row.first_seen;
	return first_seen;
}

static void
on_key(void *arg, const struct batch_item *item, const struct see_row *row)
{
	struct greylist *g = arg;
	const struct attempt_row r = {ours(g, row->first_seen), clock_ms(),
	    row->has_passed ? ours(g, row->clock) : ATTEMPT_WAITS, 1};
	const struct str texts[] = {str_of(item->column[SEE_CLIENT]),
	    str_of(item->column[SEE_SENDER]),
	    str_of(item->column[SEE_RECIPIENT])};

	if (row->has_passed)
		learn(g, item->key, KNOWN_PASSED, ours(g, row->last_seen));
	else
		learn(g, item->key, KNOWN_WAITING,
		    earlier(g, item->key, r.first_seen));
	if (row->is_new)
		tally_add(g->begun, hash_text(row->client), clock_ms());
	if ((row->is_new || row->passes) && !news_had(g->news, item->key))
		unsynced_put(g->unsynced, item->key, texts, &r);
}

static void
on_match(void *arg, struct batch_item *const *items, size_t n,
    const PGresult *res)
{
	struct greylist *g = arg;
	const struct see_handlers handlers = {on_client, on_key, on_stranger,
	    g};

	/* One that was long under way says what time it was. */
	if (PQntuples(res) > 0 && clock_ms() - g->sent_at <= CLOCK_ROUND_MS)
		set_clock(g, see_row(res, 0).clock);
	see_match(items, n, res, &handlers);
	unsynced_answered(g->unsynced, g->sent_at);
}

static void
on_failed(void *arg, const char *why)
{
	struct greylist *g = arg;
	struct log_entry e;
	uint64_t suppressed;

	if (!log_allowed(&g->slow_limit, ev_now(g->loop), &suppressed))
		return;
	log_begin(&e, LOG_WARNING, "greylisting goes on in memory");
	log_str(&e, "error", str_of(why));
	if (suppressed > 0)
		log_int(&e, "suppressed", (int64_t)suppressed);
	log_end(&e);
}

/* The answer that is in a row, which is what it is after this attempt. */
static struct greylist_answer
read_answer(const struct greylist *g, const PGresult *res, int row)
{
	struct attempt_limits l = limits(g);
	struct see_row seen = see_row(res, row);
	struct attempt_row r = {.first_seen = ours(g, seen.first_seen)};
	enum attempt_verdict verdict = ATTEMPT_KNOWN;

	if (seen.is_client)
		return (struct greylist_answer){GREYLIST_CLIENT, 0};
	if (!seen.has_passed)
		verdict = ATTEMPT_EARLY;
	else if (seen.passes)
		verdict = ATTEMPT_PASS;
	return answer_of(&l, verdict, &r, ours(g, seen.clock));
}

static void
on_row(void *arg, const PGresult *res, int row)
{
	struct greylist_waiter *w = arg;
	struct greylist_answer a = res != NULL ?
	    read_answer(w->greylist, res, row) :
	    judge_in_memory(w->greylist, w->sighting);

	w->done(w->arg, &a);
}

/*
 * What PostgreSQL knows now serves while it is away once more; while it is
 * there, it is asked.
 */
static void
on_arrived(void *arg, const struct journal_entry *e)
{
	struct greylist *g = arg;
	struct known_entry k = known_find(g->known, e->key);
	bool waits = e->row.passed_at == ATTEMPT_WAITS;
	int64_t time = waits ? e->row.first_seen : e->row.last_seen;
	struct attempt_row row = e->row;

	if (e->kind >= JOURNAL_PASSED_KEY) {
		const struct str texts[] = {str_of(e->text[0]),
		    str_of(e->text[1]), str_of(e->text[2])};

		row.last_seen = clock_ms();
		unsynced_put(g->unsynced, e->key, texts, &row);
	}
	if (e->kind == JOURNAL_CLIENT || (waits && k.kind == KNOWN_PASSED))
		return;
	/* A late answer may be there already, of a later time. */
	if (waits && k.kind == KNOWN_WAITING && k.time < time)
		time = k.time;
	known_put(g->known, e->key, waits ? KNOWN_WAITING : KNOWN_PASSED, time,
	    known_epoch(g->known) - (k.sure ? 0 : 1));
}

bool
greylist_ask(struct greylist *g, struct sighting *s,
    struct greylist_answer *out, struct greylist_waiter *w,
    greylist_done_fn *done, void *arg)
{
	bool away = !batch_ready(g->batch), changed = false;
	uint64_t key = journal_key(s->client, s->pair);
	const struct journal_entry *e;
	struct str columns[SEE_COLUMNS];
	int64_t now = clock_ms();

	*out = (struct greylist_answer){GREYLIST_CLIENT, 0};
	if (is_exempt(g, s, away, now, &changed))
		return true;
	/* What PostgreSQL has not heard of, it would take for new, or pass. */
	e = journal_find(g->journal, key);
	if (e != NULL && e->kind >= JOURNAL_PASSED_KEY) {
		*out = judge_key(g, s);
		return true;
	}
	if (key_is_known(g, s, away, changed, now, out) ||
	    has_begun_too_many(g, s, changed, now, out))
		return true;
	if (!away) {
		s->spell(s);
		columns[SEE_CLIENT] = s->client_text;
		columns[SEE_NETWORK] = s->network_text;
		columns[SEE_SENDER] = s->sender;
		columns[SEE_RECIPIENT] = s->recipient;
		w->greylist = g;
		w->sighting = s;
		w->done = done;
		w->arg = arg;
		if (batch_ask(g->batch, key, columns, s->counted, &w->waiter,
			on_row, w))
			return false;
	}
	*out = judge_in_memory(g, s);
	return true;
}

void
greylist_cancel(struct greylist_waiter *w)
{
	batch_cancel(&w->waiter);
}

/* ---- what is announced ---- */

/*
 * If somebody has changed or deleted it, what waits to be written of it goes,
 * too: it was judged by what the row said before.  What is under way just then
 * is written, as if it had come first: a use is a use.  What a host has merged
 * takes nothing away: what is remembered may be less than that, and serves while
 * PostgreSQL is away.
 */
static void
on_changed_key(void *arg, uint64_t key, bool merged)
{
	struct greylist *g = arg;
	struct known_entry k = known_find(g->known, key);
	struct journal_entry *e = journal_find(g->journal, key);

	if (merged) {
		if (k.kind != KNOWN_NOTHING)
			known_put(g->known, key, k.kind, k.time,
			    known_epoch(g->known) - 1);
		return;
	}
	known_drop(g->known, key);
	unsynced_drop(g->unsynced, key);
	if (e != NULL)
		journal_drop(g->journal, e);
}

static void
on_changed_client(void *arg, uint64_t client)
{
	struct greylist *g = arg;

	known_put(g->known, client, KNOWN_CHANGED, clock_ms(),
	    known_epoch(g->known));
	tally_forget(g->begun, client);
}

static void
on_changed_many(void *arg)
{
	struct greylist *g = arg;

	known_doubt(g->known);
}

/* PostgreSQL may have crashed, and lost what it has not written to disk. */
static void
send_again(struct greylist *g)
{
	unsynced_lost(g->unsynced, g->journal);
	if (journal_count(g->journal) > 0)
		writer_soon(g->writer);
}

/*
 * One of our connections has failed.  What the next one answers says nothing of
 * what this server had yet to write, or to send: it may be another one.
 */
static void
on_pool_down(void *arg)
{
	send_again(arg);
}

/* PostgreSQL, or the way to it, has failed. */
static void
on_silence(void *arg)
{
	struct greylist *g = arg;

	send_again(g);
	keep_soon(g->keep);
}

static void
on_listening(void *arg)
{
	struct greylist *g = arg;

	/* What was announced before may have been missed. */
	known_doubt(g->known);
	send_again(g);
}

static void
on_clock(void *arg, double seconds)
{
	struct greylist *g = arg;

	set_clock(g, seconds);
	unsynced_answered(g->unsynced, clock_ms() - EAR_TIMEOUT_MS);
}

/* ---- life ---- */

static void
connect_pool(struct greylist *g)
{
	struct db_options options = {
	    .conninfo = g->config->database.conninfo,
	    .connect_timeout_s = CONNECT_TIMEOUT_S,
	    .reconnect_max_s = g->config->database.reconnect_max_s,
	};

	const char *prepare[DB_PREPARED_MAX + 1] = {SEE_SQL};
	char timeout[32];
	struct db_pool_setup setup = {.writes = true, .down = on_pool_down,
	    .arg = g};

	writer_statements(prepare + 1, DB_PREPARED_MAX - 1);
	snprintf(timeout, sizeof(timeout), "%.0f",
	    g->config->database.query_timeout_s * 1000);
	/* Through a pooler, a setting would stay with others. */
	if (g->config->database.prepared) {
		setup.prepare = prepare;
		setup.sql = DB_SET_TIMEOUT;
		setup.parameter = timeout;
	}
	g->pool = db_pool_new(g->loop, &options,
	    (int)g->config->database.connections, &setup);
}

static void
connect_news(struct greylist *g)
{
	struct news_handlers handlers = {on_changed_key, on_changed_client,
	    on_changed_many, on_listening, on_silence, on_clock, g};

	g->news = news_new(g->loop, g->config, &handlers);
}

static void
connect_batch(struct greylist *g)
{
	double timeout_s = g->config->database.query_timeout_s;

	batch_use(g->batch, g->pool, timeout_s,
	    fmax(PATIENCE_S, timeout_s / 10));
}

struct greylist *
greylist_new(struct ev_loop *loop, const struct config *config)
{
	struct greylist *g = mem_zalloc(sizeof(*g));
	struct batch_options options = {
	    .sql = SEE_SQL,
	    .columns = SEE_COLUMNS,
	    .key_columns = SEE_KEY_COLUMNS,
	    .parameters = on_parameters,
	    .sent = on_sent,
	    .match = on_match,
	    .failed = on_failed,
	    .arg = g,
	};

	g->loop = loop;
	g->config = config;
	g->ahead = clock_since_1970() - clock_ms();
	g->unsynced = unsynced_new();
	g->known = known_new((size_t)config->greylist.cache_entries, 0);
	g->keep = keep_new(loop, config, g->known, &g->ahead);
	connect_pool(g);
	connect_news(g);
	g->batch = batch_new(loop, &options);
	connect_batch(g);
	g->writer = writer_new(loop, config, g->pool, g->ahead, on_arrived,
	    g);
	g->journal = writer_journal(g->writer);
	g->purge = purge_new(loop, config, g->pool);
	g->begun = tally_new();
	return g;
}

void
greylist_free(struct greylist *g)
{
	if (g == NULL)
		return;
	tally_free(g->begun);
	purge_free(g->purge);
	writer_free(g->writer);
	batch_free(g->batch);
	news_free(g->news);
	db_pool_free(g->pool);
	unsynced_free(g->unsynced);
	keep_free(g->keep);
	known_free(g->known);
	free(g);
}

void
greylist_reconfigure(struct greylist *g, const struct config *config)
{
	const struct config *old = g->config;
	struct db_pool *before = g->pool;
	bool same_end = old->database.reconnect_max_s ==
	    config->database.reconnect_max_s;
	bool hears_anew = !same_end ||
	    strcmp(old->database.listen_conninfo,
		config->database.listen_conninfo) != 0;
	bool asks_anew = !same_end ||
	    strcmp(old->database.conninfo, config->database.conninfo) != 0 ||
	    old->database.query_timeout_s !=
		config->database.query_timeout_s ||
	    old->database.connections != config->database.connections ||
	    old->database.prepared != config->database.prepared;

	g->config = config;
	if (old->greylist.cache_entries != config->greylist.cache_entries) {
		struct known *anew =
		    known_new((size_t)config->greylist.cache_entries,
			known_epoch(g->known));

		keep_reconfigure(g->keep, config, anew);
		known_free(g->known);
		g->known = anew;
	}
	keep_reconfigure(g->keep, config, g->known);
	/* Who is exempt depends on auto_allow_after. */
	known_doubt(g->known);
	/* It may be another server. */
	if (hears_anew || asks_anew)
		send_again(g);
	if (hears_anew)
		news_reconfigure(g->news, config);
	if (asks_anew)
		connect_pool(g);
	connect_batch(g);
	writer_reconfigure(g->writer, config, g->pool);
	purge_reconfigure(g->purge, config, g->pool);
	/* Those who wait for the old one go on in memory. */
	if (g->pool != before)
		db_pool_free(before);
}

void
greylist_drain(struct greylist *g, double max_s)
{
	writer_drain(g->writer, max_s);
}

struct greylist_status
greylist_status(const struct greylist *g)
{
	struct greylist_status status = {
	    .listening = news_is_heard(g->news),
	    .known = known_count(g->known),
	    .unsaved = journal_count(g->journal),
	    .on_disk = writer_is_on_disk(g->writer),
	};

	db_pool_count(g->pool, &status.db);
	news_count(g->news, &status.db);
	return status;
}
