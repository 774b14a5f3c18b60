#ifndef POLICYD_KEEP_H
#define POLICYD_KEEP_H

/*
 * keep - what greylisting knows is kept on disk, for a start while PostgreSQL is
 * away.
 *
 * Floor 6; uses base, config.  One file in state_dir, greylist.known, written
 * whole by a child (base/aside.h, base/sealed.h): at the end, when PostgreSQL
 * goes away, and every five minutes, if anything has changed.  At most 20 bytes
 * times cache_entries.  It has the hashes of keys and clients, not their texts,
 * and with them the secret that they were made with: whoever reads it could
 * choose keys that collide, and nobody but the user policyd may.
 *
 * A daemon that is killed loses what it learnt since: PostgreSQL has it.
 *
 * What was read is doubted (known.h): while PostgreSQL is there, it is asked.
 */

#include <stdint.h>

struct config;
struct ev_loop;
struct keep;
struct known;

/* Before the first hash(): go on with the secret of what is on disk. */
void keep_take_secret(const struct config *config);

/*
 * Fills the table, which is borrowed.  ahead: what its times lack to those since
 * 1970, wherever it is said.
 */
struct keep *keep_new(struct ev_loop *loop, const struct config *config,
    struct known *known, const int64_t *ahead);

/* Writes what has changed.  Blocks.  NULL is allowed. */
void keep_free(struct keep *k);

void keep_reconfigure(struct keep *k, const struct config *config,
    struct known *known);

/* Write it soon, if it has changed. */
void keep_soon(struct keep *k);

#endif
