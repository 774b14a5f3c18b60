#include "db/batch.h"

#include "base/clock.h"
#include "base/mem.h"
#include "db/array.h"
#include "db/pool.h"

#include <ev.h>
#include <stdlib.h>

enum { BUCKETS = 4096 }; /* chains of two when as many wait as may */

struct batch {
	struct ev_loop *loop;
	struct db_pool *pool;
	double timeout_s, patience_s;
	struct batch_options o;
	struct batch_item **bucket; /* those that gather, by key */
	struct batch_item **gather; /* the same, in the order they came */
	size_t gathered;
	struct batch_item **out; /* the statement's; sorted */
	size_t out_count;
	struct db_call *call; /* the statement that is out */
	bool overdue;
	ev_timer patience;
	ev_timer kick; /* sends in the next turn of the loop */
};

static void pump(struct batch *b);

/* ---- items ---- */

static struct batch_item *
item_new(struct batch *b, uint64_t key, const struct str *columns)
{
	size_t n = 0;
	struct batch_item *item;
	char *p;

	for (int i = 0; i < b->o.columns; i++)
		n += columns[i].n + 1;
	item = mem_alloc(sizeof(*item) + n);
	*item = (struct batch_item){.key = key, .row = -1,
	    .since = clock_s()};
	p = (char *)(item + 1);
	for (int i = 0; i < b->o.columns; i++) {
		item->column[i] = p;
		memcpy(p, columns[i].p, columns[i].n);
		p += columns[i].n;
		*p++ = '\0';
	}
	return item;
}

static void
item_link(struct batch_item *item, struct batch_waiter *w)
{
	w->item = item;
	w->prev = NULL;
	w->next = item->first;
	if (w->next != NULL)
		w->next->prev = w;
	item->first = w;
}

static void
item_unlink(struct batch_item *item, struct batch_waiter *w)
{
	if (w->next != NULL)
		w->next->prev = w->prev;
	*(w->prev != NULL ? &w->prev->next : &item->first) = w->next;
	w->item = NULL;
}

/* Whoever waits for it hears.  They may ask again, or cancel one another. */
static void
item_tell(struct batch_item *item, const PGresult *res)
{
	while (item->first != NULL) {
		struct batch_waiter *w = item->first;

		item_unlink(item, w);
		w->done(w->arg, item->row == -1 ? NULL : res, item->row);
	}
}

int
batch_compare(const struct batch_item *item, const char *const *texts, int n)
{
	int rc = 0;

	for (int i = 0; i < n && rc == 0; i++)
		rc = strcmp(item->column[i], texts[i]);
	return rc;
}

static int
compare(const void *left, const void *right, void *arg)
{
	const struct batch_item *l = *(struct batch_item *const *)left;
	const struct batch_item *r = *(struct batch_item *const *)right;
	const struct batch *b = arg;

	return batch_compare(l, (const char *const *)r->column,
	    b->o.key_columns);
}

/* ---- one statement ---- */

/* The statement is over, or never was one: its items are told and go. */
static void
finish(struct batch *b, const PGresult *res)
{
	struct batch_item **items = b->out;
	size_t n = b->out_count;

	b->out = NULL;
	b->out_count = 0;
	b->overdue = false;
	ev_timer_stop(b->loop, &b->patience);
	if (res != NULL)
		b->o.match(b->o.arg, items, n, res);
	for (size_t i = 0; i < n; i++)
		item_tell(items[i], res);
	for (size_t i = 0; i < n; i++)
		free(items[i]);
	free(items);
}

static const char *
why_failed(enum db_outcome outcome, const PGresult *res)
{
	switch (outcome) {
	case DB_REFUSED:
		return PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
	case DB_TIMEOUT:
		return "no answer within the time";
	case DB_OK:
	case DB_LOST:
		break;
	}
	return "connection lost";
}

static void
on_done(void *arg, enum db_outcome outcome, PGresult *res)
{
	struct batch *b = arg;

	b->call = NULL;
	if (outcome != DB_OK)
		b->o.failed(b->o.arg, why_failed(outcome, res));
	finish(b, outcome == DB_OK ? res : NULL);
	PQclear(res);
	pump(b);
}

static void
gather(struct batch *b, struct batch_item *item)
{
	item->chain = b->bucket[item->key % BUCKETS];
	b->bucket[item->key % BUCKETS] = item;
	b->gather[b->gathered++] = item;
}

/* A key goes once in a statement; with other columns besides, in the next. */
static void
leave_doubles(struct batch *b)
{
	size_t n = 0;

	for (size_t i = 0; i < b->out_count; i++)
		if (n > 0 && compare(&b->out[n - 1], &b->out[i], b) == 0)
			gather(b, b->out[i]);
		else
			b->out[n++] = b->out[i];
	b->out_count = n;
}

/* The oldest that gathered, sorted. */
static void
take(struct batch *b)
{
	size_t n = b->gathered < BATCH_ROWS_MAX ? b->gathered : BATCH_ROWS_MAX;

	b->out = mem_alloc(n * sizeof(b->out[0]));
	b->out_count = n;
	memcpy(b->out, b->gather, n * sizeof(b->out[0]));
	b->gathered -= n;
	memmove(b->gather, b->gather + n, b->gathered * sizeof(b->gather[0]));
	for (size_t i = 0; i < n; i++) {
		struct batch_item **at =
		    &b->bucket[b->out[i]->key % BUCKETS];

		while (*at != b->out[i])
			at = &(*at)->chain;
		*at = b->out[i]->chain;
	}
	qsort_r(b->out, n, sizeof(b->out[0]), compare, b);
	leave_doubles(b);
}

static char *
column(const struct batch *b, int which)
{
	char **texts = mem_alloc(b->out_count * sizeof(texts[0])), *array;

	for (size_t i = 0; i < b->out_count; i++)
		texts[i] = b->out[i]->column[which];
	array = db_array(texts, b->out_count, false);
	free(texts);
	return array;
}

static char *
counts(const struct batch *b)
{
	size_t size = b->out_count * sizeof("-2147483648,") + sizeof("{}");
	char *text = mem_alloc(size);
	struct sbuf s = sbuf_over(text, size);

	sbuf_addc(&s, '{');
	for (size_t i = 0; i < b->out_count; i++)
		sbuf_addf(&s, i == 0 ? "%d" : ",%d", b->out[i]->count);
	sbuf_addc(&s, '}');
	return text;
}

static bool
send(struct batch *b)
{
	enum { MORE = 8 };
	const char *params[BATCH_COLUMNS_MAX + 1 + MORE];
	char *own[BATCH_COLUMNS_MAX + 1];
	int n = 0;

	for (; n < b->o.columns; n++)
		params[n] = own[n] = column(b, n);
	params[n] = own[n] = counts(b);
	n++;
	b->call = db_pool_query(b->pool, b->o.sql,
	    n + b->o.parameters(b->o.arg, params + n, MORE), params,
	    b->timeout_s, on_done, b);
	for (int i = 0; i < n; i++)
		free(own[i]);
	return b->call != NULL;
}

/* By the one that has waited for longest, while it gathered. */
static void
start_patience(struct batch *b)
{
	double since = b->out[0]->since, left_s;

	for (size_t i = 1; i < b->out_count; i++)
		if (b->out[i]->since < since)
			since = b->out[i]->since;
	left_s = since + b->patience_s - clock_s();
	ev_now_update(b->loop);
	ev_timer_set(&b->patience, left_s > 0 ? left_s : 0, 0);
	ev_timer_start(b->loop, &b->patience);
}

static void
pump(struct batch *b)
{
	while (b->call == NULL && b->gathered > 0) {
		take(b);
		b->o.sent(b->o.arg);
		if (!send(b)) {
			finish(b, NULL);
			continue;
		}
		start_patience(b);
	}
}

/* Nobody waits for longer, neither for this one nor for the next. */
static void
on_patience(struct ev_loop *loop, ev_timer *w, int events)
{
	struct batch *b = w->data;

	(void)loop;
	(void)events;
	b->overdue = true;
	b->o.failed(b->o.arg, "PostgreSQL is slow");
	for (size_t i = 0; i < b->out_count; i++)
		item_tell(b->out[i], NULL);
	while (b->gathered > 0) {
		struct batch_item *item = b->gather[--b->gathered];
		struct batch_item **at = &b->bucket[item->key % BUCKETS];

		while (*at != item)
			at = &(*at)->chain;
		*at = item->chain;
		item_tell(item, NULL);
		free(item);
	}
}

static void
on_kick(struct ev_loop *loop, ev_timer *w, int events)
{
	(void)loop;
	(void)events;
	pump(w->data);
}

/* ---- asking ---- */

bool
batch_ready(const struct batch *b)
{
	return !b->overdue && b->gathered < BATCH_WAITING_MAX &&
	    db_pool_hopeful(b->pool);
}

static bool
has_the_same_besides(const struct batch *b, const struct batch_item *item,
    const struct str *columns)
{
	for (int i = b->o.key_columns; i < b->o.columns; i++)
		if (!str_eq(str_of(item->column[i]), columns[i]))
			return false;
	return true;
}

static struct batch_item *
find(const struct batch *b, uint64_t key, const struct str *columns)
{
	struct batch_item *item = b->bucket[key % BUCKETS];

	while (item != NULL && (item->key != key ||
		!has_the_same_besides(b, item, columns)))
		item = item->chain;
	return item;
}

bool
batch_ask(struct batch *b, uint64_t key, const struct str *columns,
    bool counted, struct batch_waiter *w, batch_done_fn *done, void *arg)
{
	struct batch_item *item = find(b, key, columns);

	if (!batch_ready(b))
		return false;
	if (item == NULL) {
		item = item_new(b, key, columns);
		gather(b, item);
	}
	item->count += counted;
	w->done = done;
	w->arg = arg;
	item_link(item, w);
	/* All that this turn of the loop reads goes at once. */
	if (b->call == NULL && !ev_is_active(&b->kick)) {
		ev_timer_set(&b->kick, 0, 0);
		ev_timer_start(b->loop, &b->kick);
	}
	return true;
}

void
batch_cancel(struct batch_waiter *w)
{
	if (w->item != NULL)
		item_unlink(w->item, w);
}

/* ---- life ---- */

struct batch *
batch_new(struct ev_loop *loop, const struct batch_options *options)
{
	struct batch *b = mem_zalloc(sizeof(*b));

	b->loop = loop;
	b->o = *options;
	b->bucket = mem_zalloc(BUCKETS * sizeof(b->bucket[0]));
	b->gather = mem_alloc(BATCH_WAITING_MAX * sizeof(b->gather[0]));
	ev_timer_init(&b->patience, on_patience, 0, 0);
	ev_timer_init(&b->kick, on_kick, 0, 0);
	b->patience.data = b->kick.data = b;
	return b;
}

void
batch_use(struct batch *b, struct db_pool *pool, double timeout_s,
    double patience_s)
{
	b->pool = pool;
	b->timeout_s = timeout_s;
	b->patience_s = patience_s;
}

void
batch_free(struct batch *b)
{
	if (b == NULL)
		return;
	if (b->call != NULL)
		db_call_cancel(b->call);
	for (size_t i = 0; i < b->out_count; i++)
		free(b->out[i]);
	for (size_t i = 0; i < b->gathered; i++)
		free(b->gather[i]);
	ev_timer_stop(b->loop, &b->patience);
	ev_timer_stop(b->loop, &b->kick);
	free(b->out);
	free(b->gather);
	free(b->bucket);
	free(b);
}
