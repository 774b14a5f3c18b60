#include "policy/journal.h"

#include "base/mem.h"
#include "base/sealed.h"

#include <stdlib.h>

enum { BUCKETS = 1 << 16 }; /* chains of three when it is full */

struct list {
	struct journal_entry *newest, *oldest;
	size_t count;
};

struct journal {
	struct journal_entry *bucket[BUCKETS];
	struct list list[JOURNAL_KINDS];
	size_t count;
	uint64_t version;
	struct journal_entry **taken;
	size_t taken_count;
};

static struct journal_entry **
bucket_of(struct journal *j, uint64_t key)
{
	return &j->bucket[key % BUCKETS];
}

uint64_t
journal_pair(struct str sender, struct str recipient)
{
	size_t n = sender.n + 1 + recipient.n;
	char *both = mem_alloc(n);
	uint64_t h;

	memcpy(both, sender.p, sender.n);
	both[sender.n] = ' ';
	memcpy(both + sender.n + 1, recipient.p, recipient.n);
	h = hash(both, n);
	free(both);
	return h;
}

/* ---- the list of a kind ---- */

static void
list_add(struct journal *j, struct journal_entry *e)
{
	struct list *l = &j->list[e->kind];

	e->newer = NULL;
	e->older = l->newest;
	*(e->older != NULL ? &e->older->newer : &l->oldest) = e;
	l->newest = e;
	l->count++;
}

static void
list_remove(struct journal *j, struct journal_entry *e)
{
	struct list *l = &j->list[e->kind];

	*(e->newer != NULL ? &e->newer->older : &l->newest) = e->older;
	*(e->older != NULL ? &e->older->newer : &l->oldest) = e->newer;
	l->count--;
}

struct journal_entry *
journal_oldest(const struct journal *j, enum journal_kind kind)
{
	return j->list[kind].oldest;
}

/* ---- entries ---- */

struct journal_entry *
journal_find(const struct journal *j, uint64_t key)
{
	struct journal_entry *e = j->bucket[key % BUCKETS];

	while (e != NULL && e->key != key)
		e = e->chain;
	return e;
}

struct journal_entry *
journal_add(struct journal *j, enum journal_kind kind, uint64_t key,
    const struct str *texts)
{
	int n = kind == JOURNAL_CLIENT ? 1 : 3;
	struct journal_entry *e;
	size_t size = 0;
	char *p;

	if (j->count >= JOURNAL_MAX)
		return NULL;
	for (int i = 0; i < n; i++)
		size += texts[i].n + 1;
	e = mem_alloc(sizeof(*e) + size);
	*e = (struct journal_entry){.key = key, .kind = kind,
	    .chain = *bucket_of(j, key), .changed = true};
	p = (char *)(e + 1);
	for (int i = 0; i < n; i++) {
		e->text[i] = p;
		memcpy(p, texts[i].p, texts[i].n);
		p += texts[i].n;
		*p++ = '\0';
	}
	*bucket_of(j, key) = e;
	list_add(j, e);
	j->count++;
	j->version++;
	return e;
}

void
journal_touch(struct journal *j, struct journal_entry *e,
    enum journal_kind kind)
{
	e->changed = true;
	j->version++;
	if (e->kind == kind)
		return;
	list_remove(j, e);
	e->kind = kind;
	list_add(j, e);
}

static void
forget(struct journal *j, struct journal_entry *e)
{
	struct journal_entry **at = bucket_of(j, e->key);

	while (*at != e)
		at = &(*at)->chain;
	*at = e->chain;
	list_remove(j, e);
	j->count--;
	j->version++;
	free(e);
}

void
journal_drop(struct journal *j, struct journal_entry *e)
{
	for (size_t i = 0; i < j->taken_count; i++)
		if (j->taken[i] == e)
			j->taken[i] = NULL;
	forget(j, e);
}

/* ---- sending ---- */

static int
compare(const void *left, const void *right)
{
	const struct journal_entry *l = *(struct journal_entry *const *)left;
	const struct journal_entry *r = *(struct journal_entry *const *)right;
	int rc = 0;

	for (int i = 0; i < 3 && rc == 0 && l->text[i] != NULL; i++)
		rc = strcmp(l->text[i], r->text[i]);
	return rc;
}

struct journal_entry *const *
journal_take(struct journal *j, enum journal_kind kind, size_t max, size_t *n)
{
	struct list *l = &j->list[kind];
	struct journal_entry *e = l->oldest;

	*n = l->count < max ? l->count : max;
	j->taken = mem_alloc(*n * sizeof(struct journal_entry *));
	j->taken_count = *n;
	for (size_t i = 0; i < *n; i++, e = e->newer) {
		j->taken[i] = e;
		e->adding = e->add;
		e->changed = false;
	}
	qsort(j->taken, *n, sizeof(j->taken[0]), compare);
	return j->taken;
}

void
journal_sent(struct journal *j,
    void (*arrived)(void *arg, const struct journal_entry *e), void *arg)
{
	struct journal_entry **taken = j->taken;
	size_t n = j->taken_count;

	j->taken = NULL;
	j->taken_count = 0;
	for (size_t i = 0; i < n; i++) {
		struct journal_entry *e = taken[i];

		if (e == NULL)
			continue;
		if (arrived != NULL)
			arrived(arg, e);
		if (!e->changed) {
			forget(j, e);
			continue;
		}
		if (e->adding == JOURNAL_ANEW)
			continue;
		e->add -= e->adding;
		if (e->kind == JOURNAL_NEW_KEY)
			journal_touch(j, e,
			    e->row.passed_at == ATTEMPT_WAITS ?
				JOURNAL_KNOWN_KEY : JOURNAL_PASSED_KEY);
	}
	free(taken);
}

void
journal_unsent(struct journal *j)
{
	free(j->taken);
	j->taken = NULL;
	j->taken_count = 0;
}

/* ---- on disk ---- */

static const struct seal seal = {"greyjrn", 2, 0, "it is no journal"};

/* An entry; its texts follow. */
struct record {
	int64_t first_seen, last_seen, passed_at;
	int32_t kind, add;
	uint32_t text[3];
	uint32_t nothing; /* no byte is left to chance */
};

struct saving {
	const struct journal *journal;
	int64_t ahead;
};

struct loading {
	struct journal *journal;
	int64_t ahead;
};

static void
put_entry(struct sealed *s, const struct journal_entry *e, int64_t ahead)
{
	struct record r = {e->row.first_seen + ahead, e->row.last_seen + ahead,
	    e->row.passed_at == ATTEMPT_WAITS ? ATTEMPT_WAITS :
						e->row.passed_at + ahead,
	    (int32_t)e->kind, e->add, {0}, 0};

	for (int i = 0; i < 3; i++)
		r.text[i] = e->text[i] != NULL ? (uint32_t)strlen(e->text[i]) :
						 0;
	sealed_put(s, &r, sizeof(r));
	for (int i = 0; i < 3; i++)
		if (e->text[i] != NULL)
			sealed_put(s, e->text[i], r.text[i]);
}

static void
put_all(struct sealed *s, const void *arg)
{
	const struct saving *saving = arg;

	for (int k = 0; k < JOURNAL_KINDS; k++)
		for (const struct journal_entry *e =
			 saving->journal->list[k].oldest;
		     e != NULL; e = e->newer)
			put_entry(s, e, saving->ahead);
}

int
journal_save(const struct journal *j, const char *path, int64_t ahead)
{
	const struct saving saving = {j, ahead};

	return sealed_save(path, &seal, put_all, &saving);
}

/* The same hashes as greylisting makes of them. */
static uint64_t
key_of(enum journal_kind kind, const struct str *texts)
{
	uint64_t client = hash_str(texts[0]);

	if (kind == JOURNAL_CLIENT)
		return client;
	return journal_key(client, journal_pair(texts[1], texts[2]));
}

/* One that can be reckoned with. */
static bool
is_time(int64_t t)
{
	return t >= -INT64_MAX / 2 && t <= INT64_MAX / 2;
}

static bool
take_entry(struct str *rest, struct record *r, struct str *texts)
{
	if (!sealed_take(rest, r, sizeof(*r)) || r->kind < 0 ||
	    r->kind >= JOURNAL_KINDS || !is_time(r->first_seen) ||
	    !is_time(r->last_seen) ||
	    !(is_time(r->passed_at) || r->passed_at == ATTEMPT_WAITS))
		return false;
	for (int i = 0; i < 3; i++) {
		if (rest->n < r->text[i] ||
		    memchr(rest->p, '\0', r->text[i]) != NULL)
			return false;
		texts[i] = (struct str){rest->p, r->text[i]};
		*rest = str_from(*rest, r->text[i]);
	}
	return texts[0].n > 0;
}

static const char *
take_all(void *arg, struct str body)
{
	const struct loading *to = arg;
	struct str rest = body, texts[3];
	struct record r;

	/* All of it is looked at before any of it is used. */
	while (rest.n > 0)
		if (!take_entry(&rest, &r, texts))
			return "a record in it is none";
	for (rest = body; rest.n > 0;) {
		struct journal_entry *e;
		enum journal_kind kind;

		take_entry(&rest, &r, texts);
		kind = (enum journal_kind)r.kind;
		e = journal_add(to->journal, kind, key_of(kind, texts),
		    texts);
		if (e == NULL)
			break;
		e->row = (struct attempt_row){r.first_seen - to->ahead,
		    r.last_seen - to->ahead,
		    r.passed_at == ATTEMPT_WAITS ? ATTEMPT_WAITS :
						   r.passed_at - to->ahead,
		    1};
		e->add = r.add;
	}
	return NULL;
}

int
journal_load(struct journal *j, const char *path, int64_t ahead,
    const char **why)
{
	struct loading to = {j, ahead};

	return sealed_load(path, &seal, take_all, &to, why);
}

/* ---- life ---- */

size_t
journal_count(const struct journal *j)
{
	return j->count;
}

uint64_t
journal_version(const struct journal *j)
{
	return j->version;
}

size_t
journal_count_of(const struct journal *j, enum journal_kind kind)
{
	return j->list[kind].count;
}

struct journal *
journal_new(void)
{
	return mem_zalloc(sizeof(struct journal));
}

void
journal_free(struct journal *j)
{
	if (j == NULL)
		return;
	free(j->taken);
	for (int k = 0; k < JOURNAL_KINDS; k++)
		for (struct journal_entry *e = j->list[k].oldest, *next;
		     e != NULL; e = next) {
			next = e->newer;
			free(e);
		}
	free(j);
}
