#ifndef POLICYD_PURGE_H
#define POLICYD_PURGE_H

/*
 * purge - deletes what greylisting no longer needs, in small steps.
 *
 * Floor 6; uses base, config, db.  From a minute after start and every ten
 * minutes, one host at a time (an advisory lock), some blocks of a table a
 * step, with a pause after each.  A large table is gone through in several
 * rounds: an old row counts for nothing, so it may lie there for a day.
 */

struct config;
struct db_pool;
struct ev_loop;
struct purge;

/* Borrows the pool. */
struct purge *purge_new(struct ev_loop *loop, const struct config *config,
    struct db_pool *pool);

/* NULL is allowed. */
void purge_free(struct purge *p);

void purge_reconfigure(struct purge *p, const struct config *config,
    struct db_pool *pool);

#endif
