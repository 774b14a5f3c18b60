#include "policy/keep.h"

#include "base/aside.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sealed.h"
#include "config/config.h"
#include "policy/known.h"

#include <errno.h>
#include <ev.h>
#include <stdlib.h>
#include <unistd.h>

static const double PERIOD_S = 300;
/* Gather for so long; and never for longer, however long the last one took. */
static const double LEAST_S = 1, MOST_S = 60;

static const struct seal seal = {"greyknw", 1, 0,
    "it is no copy of what greylisting knows"};

/* After the secret: each entry. */
struct record {
	uint64_t key;
	int64_t time; /* since 1970, in ms; or KNOWN_FOREVER */
	uint64_t kind;
};

struct keep {
	struct ev_loop *loop;
	const struct config *config;
	struct known *known;
	const int64_t *ahead;
	uint64_t kept; /* the version that is, or will be, on disk */
	struct aside *aside;
	ev_timer timer;
};

static char *
path_of(const struct config *config)
{
	return mem_printf("%s/greylist.known", config->policyd.state_dir);
}

/* ---- writing ---- */

static void
put_all(struct sealed *s, const void *arg)
{
	const struct keep *k = arg;
	struct known_entry e;
	struct record r;
	size_t cursor = 0;

	sealed_put(s, hash_secret(), HASH_SECRET_BYTES);
	while (known_next(k->known, &cursor, &r.key, &e)) {
		if (e.kind == KNOWN_CHANGED)
			continue;
		r.kind = (uint64_t)e.kind;
		r.time = e.time == KNOWN_FOREVER ? e.time : e.time + *k->ahead;
		sealed_put(s, &r, sizeof(r));
	}
}

static int
save(void *arg)
{
	const struct keep *k = arg;
	char *path = path_of(k->config);
	int rc = sealed_save(path, &seal, put_all, k), error = errno;

	free(path);
	errno = error;
	return rc;
}

static void
on_failed(void *arg, int error)
{
	const struct keep *k = arg;

	log_line(LOG_ERR, "state_dir %s: what greylisting knows: %s",
	    k->config->policyd.state_dir, strerror(error));
}

void
keep_soon(struct keep *k)
{
	if (known_version(k->known) == k->kept)
		return;
	k->kept = known_version(k->known);
	aside_soon(k->aside);
}

static void
on_timer(struct ev_loop *loop, ev_timer *w, int events)
{
	(void)loop;
	(void)events;
	keep_soon(w->data);
}

/* ---- reading ---- */

static const char *
take_secret(void *arg, struct str body)
{
	unsigned char secret[HASH_SECRET_BYTES];

	(void)arg;
	if (!sealed_take(&body, secret, sizeof(secret)) ||
	    body.n % sizeof(struct record) != 0)
		return seal.what;
	hash_use_secret(secret);
	return NULL;
}

static bool
is_time(int64_t t)
{
	return t >= -KNOWN_FOREVER && t <= KNOWN_FOREVER;
}

/* Of one on disk; false where what comes out is none. */
static bool
time_here(int64_t *t, int64_t ahead)
{
	if (*t == KNOWN_FOREVER)
		return true;
	if (!is_time(*t))
		return false;
	*t -= ahead;
	return is_time(*t);
}

static const char *
take_all(void *arg, struct str body)
{
	const struct keep *k = arg;
	unsigned char secret[HASH_SECRET_BYTES];
	struct record r;

	if (!sealed_take(&body, secret, sizeof(secret)) ||
	    memcmp(secret, hash_secret(), sizeof(secret)) != 0)
		return "its secret is another one";
	while (sealed_take(&body, &r, sizeof(r))) {
		if ((r.kind != KNOWN_WAITING && r.kind != KNOWN_PASSED &&
			r.kind != KNOWN_CLIENT) ||
		    !time_here(&r.time, *k->ahead))
			continue;
		known_put(k->known, r.key, (enum known_kind)r.kind, r.time,
		    known_epoch(k->known) - 1);
	}
	return NULL;
}

void
keep_take_secret(const struct config *config)
{
	char *path = path_of(config);
	const char *why;

	if (sealed_load(path, &seal, take_secret, NULL, &why) == -1 &&
	    errno != ENOENT)
		log_line(LOG_ERR, "%s is left out: %s", path, why);
	free(path);
}

/* What is wrong with the file has been said. */
static void
load(struct keep *k)
{
	char *path = path_of(k->config);
	const char *why;

	sealed_load(path, &seal, take_all, k, &why);
	k->kept = known_version(k->known);
	free(path);
}

/* ---- life ---- */

struct keep *
keep_new(struct ev_loop *loop, const struct config *config,
    struct known *known, const int64_t *ahead)
{
	struct keep *k = mem_zalloc(sizeof(*k));

	k->loop = loop;
	k->config = config;
	k->known = known;
	k->ahead = ahead;
	k->aside = aside_new(loop,
	    &(struct aside_job){save, on_failed, k, LEAST_S, MOST_S,
		.patient = true});
	load(k);
	ev_timer_init(&k->timer, on_timer, PERIOD_S, PERIOD_S);
	k->timer.data = k;
	ev_timer_start(loop, &k->timer);
	return k;
}

void
keep_free(struct keep *k)
{
	if (k == NULL)
		return;
	ev_timer_stop(k->loop, &k->timer);
	keep_soon(k);
	aside_end(k->aside);
	free(k);
}

void
keep_reconfigure(struct keep *k, const struct config *config,
    struct known *known)
{
	const struct config *old = k->config;
	char *path = path_of(old);

	k->config = config;
	if (k->known != known)
		k->kept = known_version(known) - 1;
	k->known = known;
	if (strcmp(old->policyd.state_dir, config->policyd.state_dir) != 0) {
		unlink(path);
		k->kept = known_version(known) - 1;
		keep_soon(k);
	}
	free(path);
}
