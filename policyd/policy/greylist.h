#ifndef POLICYD_GREYLIST_H
#define POLICYD_GREYLIST_H

/*
 * greylist - has this client tried this sender and recipient before?
 *
 * Floor 6; uses base, config, db.  What is known is answered from a cache
 * (known.h); what is not, by one statement for all that wait (db/batch.h).
 * While PostgreSQL is away or slow, keys are judged in memory and noted
 * (journal.h), and merged when it is back.  Deleting a row is felt here by its
 * notification, on a connection that does nothing but listen.
 *
 * Where the journal is full, a key that nobody knows passes: a letter must not
 * wait for somebody to remember it.
 */

#include "base/str.h"
#include "db/batch.h"
#include "db/session.h"

struct config;
struct ev_loop;
struct greylist;

/* One attempt.  Hashes are by base/hash.h, and always there. */
struct sighting {
	uint64_t client;  /* hash of the client's text */
	uint64_t network; /* hash of that of its network; maybe the same */
	uint64_t pair;    /* hash of "SENDER RECIPIENT" */
	bool counted;     /* false: the same attempt is asked about again */
	struct str sender, recipient; /* the two halves of the pair, folded */

	/* Fill these in; called when they are needed, from greylist_ask(). */
	void (*spell)(struct sighting *s);
	void *arg;
	struct str client_text;
	struct str network_text;
};

enum greylist_word {
	GREYLIST_WAIT,   /* seconds: how long still */
	GREYLIST_PASS,   /* by this attempt it passes; seconds: what it took */
	GREYLIST_KNOWN,  /* it has passed before */
	GREYLIST_CLIENT, /* the client is not greylisted at all */
	GREYLIST_FULL,   /* PostgreSQL is away, and memory is full */
};

struct greylist_answer {
	enum greylist_word word;
	int64_t seconds;
};

typedef void greylist_done_fn(void *arg, const struct greylist_answer *answer);

/* The caller's, who leaves it alone while it waits. */
struct greylist_waiter {
	struct batch_waiter waiter; /* first */
	struct greylist *greylist;
	struct sighting *sighting;
	greylist_done_fn *done;
	void *arg;
};

/* What `policyctl status` and the log tell of it. */
struct greylist_status {
	bool listening; /* what is in memory is sure */
	size_t known;   /* entries of the cache */
	size_t unsaved; /* entries that PostgreSQL has yet to hear of */
	bool on_disk;   /* of these, there may be a file */
	struct db_count db;
};

struct greylist *greylist_new(struct ev_loop *loop,
    const struct config *config);

/* NULL is allowed.  Nobody may wait any more; see greylist_drain(). */
void greylist_free(struct greylist *g);

void greylist_reconfigure(struct greylist *g, const struct config *config);

/*
 * An attempt.  true: *out is the answer.  Else it waits, and done is called
 * once, from the loop, unless greylist_cancel() was called before; s and what
 * it borrows must stay until then.
 */
bool greylist_ask(struct greylist *g, struct sighting *s,
    struct greylist_answer *out, struct greylist_waiter *w,
    greylist_done_fn *done, void *arg);

void greylist_cancel(struct greylist_waiter *w);

/* Run the loop until all is written, or for max_s. */
void greylist_drain(struct greylist *g, double max_s);

struct greylist_status greylist_status(const struct greylist *g);

#endif
