#include "policy/purge.h"

#include "base/mem.h"
#include "config/config.h"
#include "db/pool.h"

#include <ev.h>
#include <stdio.h>
#include <stdlib.h>

static const double FIRST_S = 60, ROUND_S = 600;
/* The database is purging for less than half of the time. */
static const double PAUSE_S = 0.005;

enum {
	BLOCKS = 64,        /* of a step: half a megabyte, about 1 ms */
	BLOCKS_MAX = 16384, /* of a round and a table: 128 MB */
};

static const char *const tables[] = {"greylist", "client",
    "greylist_forgotten"};
enum { TABLES = sizeof(tables) / sizeof(tables[0]) };

struct purge {
	struct ev_loop *loop;
	const struct config *config;
	struct db_pool *pool;
	struct db_call *call;
	ev_timer timer;
	int table;
	int64_t block[TABLES]; /* where to go on */
	int64_t done;          /* blocks of the table in this round */
	double left_s;         /* until the next round begins */
};

static void
after(struct purge *p, double s)
{
	p->left_s -= s;
	ev_timer_set(&p->timer, s, 0);
	ev_timer_start(p->loop, &p->timer);
}

/* A round begins ten minutes after the one before began. */
static void
end_round(struct purge *p)
{
	p->table = 0;
	p->done = 0;
	after(p, p->left_s > 1 ? p->left_s : 1);
	p->left_s = ROUND_S;
}

static void
on_done(void *arg, enum db_outcome outcome, PGresult *res)
{
	struct purge *p = arg;
	int64_t *block = &p->block[p->table];

	p->call = NULL;
	/* Away, or another host is at it. */
	if (outcome != DB_OK || PQntuples(res) != 1 || PQgetisnull(res, 0, 0)) {
		PQclear(res);
		end_round(p);
		return;
	}
	*block = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
	PQclear(res);
	p->done += BLOCKS;
	if (*block == 0 || p->done >= BLOCKS_MAX) {
		p->done = 0;
		p->table++;
	}
	if (p->table == TABLES)
		end_round(p);
	else
		after(p, PAUSE_S);
}

static void
on_timer(struct ev_loop *loop, ev_timer *w, int events)
{
	struct purge *p = w->data;
	char block[32], blocks[32], window[32], age[32];
	const char *params[] = {tables[p->table], block, blocks, window, age};

	(void)loop;
	(void)events;
	snprintf(block, sizeof(block), "%lld", (long long)p->block[p->table]);
	snprintf(blocks, sizeof(blocks), "%d", BLOCKS);
	snprintf(window, sizeof(window), "%.17g",
	    p->config->greylist.retry_window_s);
	snprintf(age, sizeof(age), "%.17g", p->config->greylist.max_age_s);
	p->call = db_pool_query(p->pool,
	    "SELECT next_block FROM policyd.purge($1, $2, $3, $4, $5)", 5,
	    params, p->config->database.query_timeout_s, on_done, p);
	if (p->call == NULL)
		end_round(p);
}

struct purge *
purge_new(struct ev_loop *loop, const struct config *config,
    struct db_pool *pool)
{
	struct purge *p = mem_zalloc(sizeof(*p));

	p->loop = loop;
	p->config = config;
	p->pool = pool;
	ev_timer_init(&p->timer, on_timer, 0, 0);
	p->timer.data = p;
	after(p, FIRST_S);
	p->left_s = ROUND_S;
	return p;
}

void
purge_free(struct purge *p)
{
	if (p == NULL)
		return;
	if (p->call != NULL)
		db_call_cancel(p->call);
	ev_timer_stop(p->loop, &p->timer);
	free(p);
}

void
purge_reconfigure(struct purge *p, const struct config *config,
    struct db_pool *pool)
{
	p->config = config;
	if (p->pool == pool)
		return;
	if (p->call != NULL) {
		db_call_cancel(p->call);
		p->call = NULL;
		end_round(p);
	}
	p->pool = pool;
}
