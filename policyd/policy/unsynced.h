#ifndef POLICYD_UNSYNCED_H
#define POLICYD_UNSYNCED_H

/*
 * unsynced - what PostgreSQL has taken, and may forget if it crashes now.
 *
 * Floor 6; uses base.  Greylisting does not wait for the disk
 * (synchronous_commit is off for it), so a crash takes back what was committed
 * within three times wal_writer_delay before, 0.6 s if nobody has changed that.
 * What is new in the rows is kept for longer than that, 3 s: a writer that is
 * due may have to wait for a slow machine.  A key is on disk when PostgreSQL
 * answers something that it was sent so much later; as long as it says nothing,
 * nothing goes.  When a connection to it is lost, all of it goes to the
 * journal, and is merged once more: PostgreSQL may have crashed, or it may be
 * another server that answers next, a standby that never got it.
 * policyd.greylist_merge tells what was lost from what somebody has deleted.
 *
 * At most 65536 keys, about 15 MB: 3 s of all that one PostgreSQL can do.
 * Beyond, the oldest are taken to be on disk.
 */

#include "policy/journal.h"

struct unsynced;

struct unsynced *unsynced_new(void);

/* NULL is allowed. */
void unsynced_free(struct unsynced *u);

/*
 * The row of a key, just heard of: its last_seen is now.  texts as
 * journal_add() takes them.
 */
void unsynced_put(struct unsynced *u, uint64_t key, const struct str *texts,
    const struct attempt_row *row);

/* Somebody has changed or deleted the row. */
void unsynced_drop(struct unsynced *u, uint64_t key);

/* PostgreSQL has answered something that was sent then; ms, as the rows'. */
void unsynced_answered(struct unsynced *u, int64_t sent);

/* The connection is lost: what is kept here is the journal's. */
void unsynced_lost(struct unsynced *u, struct journal *to);

#endif
