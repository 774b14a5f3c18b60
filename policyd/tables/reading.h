#ifndef POLICYD_READING_H
#define POLICYD_READING_H

/*
 * reading - one job: what is wanted is read, a round after the other, each in
 * a snapshot of its own.
 *
 * Floor 5; uses base, db/array, tables/round, tables/schema.  It talks to nobody:
 * it says which statement is next, is given the answer, and says what that
 * meant.  Whoever has the connection (tables/follower.h) decides the rest: when
 * to begin, whether there is another round, what to do where it failed.
 *
 * A change that is committed while it reads may be seen in one table and not
 * in the other: its notification says so, and another round reads what it
 * names.  Nothing is to be put in force before a round ends with no news, so
 * that requests see all of a transaction or nothing.
 *
 * First keys are read, and a cursor is declared for each source that is read
 * whole: what that locks is locked within a moment of the snapshot, and what
 * another transaction does to the tables from then on has to wait for us.  Then
 * the cursors are fetched in slices, into new tables beside those that answer.
 * At the end stands the barrier: with a notification of our own in it, the
 * server sends those of all that were committed before the snapshot ahead of
 * the answer to COMMIT.
 */

#include "tables/round.h"

/* The statement that is next, or out: those after BEGIN in a transaction. */
enum reading_step {
	READING_SCHEMA,
	READING_VERSION,
	READING_BEGIN,
	READING_DECLARE,
	READING_KEYS,
	READING_FETCH,
	READING_CLOSE,
	READING_BARRIER,
	READING_COMMIT,
	READING_ROLLBACK,
};

/* To be looked at from outside, and written by reading.c alone. */
struct reading {
	struct tables *tables; /* borrowed */
	bool keys_only; /* nothing is read whole: tables are not begun */
	bool ours;      /* the database has our schema */
	enum reading_step step;
	int at;         /* the source of that step */
	bool stale;     /* this round saw less than there is */
	int left_out;   /* rows that made no sense, of what is read whole */
	int64_t version; /* of the schema, when it was last looked at */
	struct rounds rounds;
};

void reading_init(struct reading *r, struct tables *tables, bool keys_only);

/*
 * The first statement of a job is next: after a look at the schema, or where it
 * is known whether that is ours; or the first of a further round.
 */
void reading_look(struct reading *r);
void reading_begin(struct reading *r, bool ours);
void reading_again(struct reading *r);

/* Undo it: ROLLBACK is next. */
void reading_undo(struct reading *r);

/*
 * The next statement, which the caller frees; *keys is its parameter, to be
 * freed as well, or NULL: it has none.
 */
char *reading_statement(const struct reading *r, const struct config *config,
    char **keys);

enum reading_said {
	READING_GOES_ON,      /* there is a next statement */
	READING_TOO_MUCH,     /* the same: it is undone, more than keys is wanted */
	READING_UNDONE,       /* that was the ROLLBACK */
	READING_NO_SCHEMA,    /* and one is needed: read no further */
	READING_OTHER_SCHEMA, /* its version is not known: no further */
	READING_ROUND_OVER,   /* or in vain: look at stale */
};

/*
 * Go on with the good answer to that statement.  The result is taken.  At the
 * answer to BEGIN what is wanted is taken for the round: a transaction's
 * notifications all came before it, or none of them did.
 */
enum reading_said reading_answer(struct reading *r, const struct config *config,
    struct wants *wants, PGresult *res);

enum reading_refusal {
	REFUSED_LOCKED,     /* somebody has locked the table: undo it, try later */
	REFUSED_QUEUE_FULL, /* our notification alone: the round is over, and good */
	REFUSED_SLOW,       /* the server ended it, it took too long */
	REFUSED_ELSE,
};

/*
 * What it means that the server refused that statement with this SQLSTATE (NULL
 * is allowed).  impatient: it was told not to wait for locks.
 */
enum reading_refusal reading_refusal(const struct reading *r,
    const char *sqlstate, bool impatient);

/*
 * What is being read, as the administrator knows it, a table or a query of
 * [lookup]; empty where it is none.
 */
struct str reading_table(const struct reading *r);

/* The end, in force or not: what it has read goes. */
void reading_clear(struct reading *r);

#endif
