#include "policy/session.h"

#include "base/mem.h"
#include "base/set.h"

#include <stdlib.h>

enum {
	BUCKETS = 2 * SESSIONS_MAX,
	TRIED_MAX = 10000, /* far more than Postfix lets a message have */
};

/* To put it in front touches two others: not at every request. */
static const double REORDER_S = 10;

struct session {
	uint64_t key;
	double used;
	struct session *chain;         /* others of the bucket */
	struct session *newer, *older; /* by last use, within REORDER_S */
	double moved;                  /* when it was put in front */
	double ended;                  /* when it was told to go; 0: not yet */
	struct set refused;
	uint64_t last_refused;
	int64_t errors_total; /* 0: the configured, else 1 more than set */
	uint64_t message;
	struct set accepted; /* recipients of the message */
	struct set tried;    /* its keys of greylisting */
	uint32_t limit;
	bool delayed;
};

struct sessions {
	struct session *newest, *oldest;
	uint32_t count; /* of slots in use */
	struct session *bucket[BUCKETS];
	struct session slot[SESSIONS_MAX];
};

struct sessions *
sessions_new(void)
{
	return mem_zalloc(sizeof(struct sessions));
}

void
sessions_free(struct sessions *all)
{
	if (all == NULL)
		return;
	for (uint32_t i = 0; i < all->count; i++) {
		set_free(&all->slot[i].refused);
		set_free(&all->slot[i].accepted);
		set_free(&all->slot[i].tried);
	}
	free(all);
}

uint32_t
sessions_count(const struct sessions *all)
{
	return all->count;
}

static struct session **
bucket_of(struct sessions *all, uint64_t key)
{
	return &all->bucket[key % BUCKETS];
}

static void
unlink_use(struct sessions *all, struct session *s)
{
	*(s->newer != NULL ? &s->newer->older : &all->newest) = s->older;
	*(s->older != NULL ? &s->older->newer : &all->oldest) = s->newer;
}

static void
link_newest(struct sessions *all, struct session *s, double now)
{
	s->moved = now;
	s->newer = NULL;
	s->older = all->newest;
	*(s->older != NULL ? &s->older->newer : &all->oldest) = s;
	all->newest = s;
}

static void
forget(struct session *s)
{
	set_clear(&s->refused);
	s->last_refused = 0;
	s->ended = 0;
	s->errors_total = 0;
	session_message(s, 0);
}

/* Take the one that was not used for longest out of its bucket. */
static struct session *
evict(struct sessions *all)
{
	struct session *s = all->oldest, **p = bucket_of(all, s->key);

	while (*p != s)
		p = &(*p)->chain;
	*p = s->chain;
	unlink_use(all, s);
	forget(s);
	return s;
}

struct session *
sessions_find(struct sessions *all, uint64_t key, double now)
{
	struct session *s = *bucket_of(all, key);

	while (s != NULL && s->key != key)
		s = s->chain;
	if (s == NULL)
		return NULL;
	if (now - s->used > SESSION_IDLE_S ||
	    (s->ended > 0 && now - s->ended > SESSION_ENDED_S))
		forget(s);
	s->used = now;
	if (now - s->moved > REORDER_S) {
		unlink_use(all, s);
		link_newest(all, s, now);
	}
	return s;
}

struct session *
sessions_get(struct sessions *all, uint64_t key, double now)
{
	struct session *s = sessions_find(all, key, now);
	struct session **bucket = bucket_of(all, key);

	if (s != NULL)
		return s;
	s = all->count < SESSIONS_MAX ? &all->slot[all->count++] : evict(all);
	s->key = key;
	s->used = now;
	s->chain = *bucket;
	*bucket = s;
	link_newest(all, s, now);
	return s;
}

uint32_t
session_errors(const struct session *s, uint64_t refusal)
{
	uint32_t n = s->refused.count;

	return n > 0 && refusal == s->last_refused ? n - 1 : n;
}

void
session_refuse(struct session *s, uint64_t refusal)
{
	if (set_add(&s->refused, refusal))
		s->last_refused = refusal;
}

int64_t
session_errors_total(const struct session *s)
{
	return s->errors_total - 1;
}

void
session_set_errors_total(struct session *s, int64_t total)
{
	s->errors_total = total + 1;
}

void
session_end(struct session *s, double now)
{
	if (s->ended == 0)
		s->ended = now;
}

void
session_message(struct session *s, uint64_t message)
{
	if (s->message == message)
		return;
	set_clear(&s->accepted);
	set_clear(&s->tried);
	s->limit = 0;
	s->delayed = false;
	s->message = message;
}

bool
session_has_accepted(const struct session *s, uint64_t recipient)
{
	return set_has(&s->accepted, recipient);
}

uint32_t
session_accepted(const struct session *s)
{
	return s->accepted.count;
}

void
session_accept(struct session *s, uint64_t recipient, uint32_t limit)
{
	set_add(&s->accepted, recipient);
	if (limit > s->limit)
		s->limit = limit;
}

bool
session_try(struct session *s, uint64_t key)
{
	/* Without an instance nobody can say what is a repetition. */
	if (s->message == 0 || s->tried.count >= TRIED_MAX)
		return !set_has(&s->tried, key);
	return set_add(&s->tried, key);
}

bool
session_delayed(struct session *s)
{
	bool first = !s->delayed;

	s->delayed = s->message != 0;
	return first;
}

uint32_t
session_limit(const struct session *s, uint64_t message)
{
	return s->message == message ? s->limit : 0;
}
