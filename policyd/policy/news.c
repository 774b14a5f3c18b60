#include "policy/news.h"

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/set.h"
#include "config/config.h"
#include "db/ear.h"
#include "policy/journal.h"

#include <stdlib.h>

static const double CONNECT_TIMEOUT_S = 5;

enum { WATCHED_MAX = 10000 };

struct news {
	struct ev_loop *loop;
	struct news_handlers on;
	struct ear *ear;
	bool listening;
	struct set watched; /* since news_watch() */
	bool more;          /* than that holds: anything may be */
};

/* ---- one announcement ---- */

static void
remember(struct news *n, uint64_t h)
{
	if (n->watched.count < WATCHED_MAX)
		set_add(&n->watched, h);
	else
		n->more = true;
}

/* "CLIENT SENDER RECIPIENT": no client has a blank. */
static void
hear_key(struct news *n, struct str key, bool merged)
{
	const char *blank = memchr(key.p, ' ', key.n);
	struct str client, pair;
	uint64_t h;

	if (blank == NULL)
		return;
	client = (struct str){key.p, (size_t)(blank - key.p)};
	pair = str_from(key, client.n + 1);
	h = journal_key(hash_str(client), hash_str(pair));
	remember(n, h);
	n->on.key(n->on.arg, h, merged);
}

static void
hear_client(struct news *n, struct str client)
{
	uint64_t h = hash_str(client);

	remember(n, h);
	n->on.client(n->on.arg, h);
}

static bool
take(struct str *s, struct str with)
{
	if (s->n < with.n || memcmp(s->p, with.p, with.n) != 0)
		return false;
	*s = str_from(*s, with.n);
	return true;
}

void
news_hear(struct news *n, const char *payload)
{
	struct str what = str_of(payload);
	struct log_entry e;

	log_begin(&e, LOG_DEBUG, "announced");
	log_str(&e, "what", what);
	log_end(&e);
	if (take(&what, STR("greylist:")))
		hear_key(n, what, false);
	else if (take(&what, STR("greylist_merged:")))
		hear_key(n, what, true);
	else if (take(&what, STR("client:")))
		hear_client(n, what);
	else if (str_eq(what, STR("greylist")) || str_eq(what, STR("client")))
		n->on.many(n->on.arg);
}

bool
news_had(const struct news *n, uint64_t hash)
{
	return n->more || set_has(&n->watched, hash);
}

void
news_watch(struct news *n)
{
	set_clear(&n->watched);
	n->more = false;
}

/* ---- the connection ---- */

static void
on_begun(void *arg)
{
	struct news *n = arg;

	n->listening = true;
	n->on.begun(n->on.arg);
}

static void
on_ended(void *arg)
{
	struct news *n = arg;

	n->listening = false;
	n->on.ended(n->on.arg);
}

static void
on_heard(void *arg, const char *payload)
{
	news_hear(arg, payload);
}

static void
on_clock(void *arg, const char *seconds)
{
	struct news *n = arg;

	n->on.clock(n->on.arg, strtod(seconds, NULL));
}

bool
news_is_heard(const struct news *n)
{
	return n->listening;
}

void
news_count(const struct news *n, struct db_count *count)
{
	ear_count(n->ear, count);
}

void
news_reconfigure(struct news *n, const struct config *config)
{
	struct db_options options = {
	    .conninfo = config->database.listen_conninfo,
	    .connect_timeout_s = CONNECT_TIMEOUT_S,
	    .reconnect_max_s = config->database.reconnect_max_s,
	};
	struct ear_handlers handlers = {on_begun, on_ended, on_heard, on_clock,
	    n};

	ear_free(n->ear);
	n->listening = false;
	n->ear = ear_new(n->loop, &options, "policyd", &handlers);
}

struct news *
news_new(struct ev_loop *loop, const struct config *config,
    const struct news_handlers *handlers)
{
	struct news *n = mem_zalloc(sizeof(*n));

	n->loop = loop;
	n->on = *handlers;
	news_reconfigure(n, config);
	return n;
}

void
news_free(struct news *n)
{
	if (n == NULL)
		return;
	ear_free(n->ear);
	set_free(&n->watched);
	free(n);
}
