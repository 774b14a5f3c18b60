#ifndef POLICYD_WRITER_H
#define POLICYD_WRITER_H

/*
 * writer - writes to PostgreSQL what greylisting has judged in memory.
 *
 * Floor 6; uses base, config, db.  Owns the journal.  What is in it is written
 * after a tenth of a second, in pieces, by statements that may come twice
 * without harm but for the number of attempts, and that count passes by
 * themselves; as long as PostgreSQL is away,
 * it is tried every second, and the journal is kept on disk (base/aside.h),
 * which is where a new process goes on.
 */

#include "policy/journal.h"

struct config;
struct db_pool;
struct ev_loop;
struct writer;

/* An entry of the journal has arrived, and may go; from the loop. */
typedef void writer_arrived_fn(void *arg, const struct journal_entry *e);

/*
 * Borrows the pool.  ahead: a guess at what writer_set_ahead() will say.  What
 * an earlier process left on disk is in the journal at once.
 */
struct writer *writer_new(struct ev_loop *loop, const struct config *config,
    struct db_pool *pool, int64_t ahead, writer_arrived_fn *arrived, void *arg);

/*
 * NULL is allowed.  What is not written to PostgreSQL (see writer_drain()) is
 * written to disk.  Blocks for as long as that takes.
 */
void writer_free(struct writer *w);

void writer_reconfigure(struct writer *w, const struct config *config,
    struct db_pool *pool);

/* The statements that it sends, for a pool to prepare; and how many. */
int writer_statements(const char **out, int max);

struct journal *writer_journal(struct writer *w);

/* May some of the journal be on disk? */
bool writer_is_on_disk(const struct writer *w);

/* There is something in the journal. */
void writer_soon(struct writer *w);

/*
 * PostgreSQL's clock less that of the journal, in ms.  Nothing is written
 * before this is known.
 */
void writer_set_ahead(struct writer *w, int64_t ahead);

/* Run the loop until all is written, for at most max_s. */
void writer_drain(struct writer *w, double max_s);

#endif
