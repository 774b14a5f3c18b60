#ifndef POLICYD_SESSION_H
#define POLICYD_SESSION_H

/*
 * session - what one SMTP session has done so far.
 *
 * Floor 5; uses base.  Postfix asks about one SMTP connection over several
 * policy connections, and says neither when it begins nor when it ends: a
 * session is found by client address and port, and forgotten when nothing was
 * heard of it for SESSION_IDLE_S, or when SESSIONS_MAX others were since.
 *
 * Within it, one message (an `instance`) is remembered: the recipients that
 * were accepted for it, each once, however often Postfix asks.
 */

#include <stdbool.h>
#include <stdint.h>

struct sessions;
struct session;

enum { SESSIONS_MAX = 16384 };

/*
 * Longer than a client may be silent between two commands (300 s).  Those of
 * the smtpd processes that run, some thousands at most, are always among the
 * last SESSIONS_MAX.
 */
#define SESSION_IDLE_S 1200.0

/*
 * Postfix hangs up after a 421.  Who comes with the same address and port once
 * this is over, longer than Postfix takes to ask again, is somebody else.
 */
#define SESSION_ENDED_S 60.0

struct sessions *sessions_new(void);

/* NULL is allowed. */
void sessions_free(struct sessions *all);

/* How many are remembered. */
uint32_t sessions_count(const struct sessions *all);

/* The session with that key (a keyed hash), new if need be; now in seconds. */
struct session *sessions_get(struct sessions *all, uint64_t key, double now);

/* The same, or NULL if there is none. */
struct session *sessions_find(struct sessions *all, uint64_t key, double now);

/*
 * Refused recipients of this session.  A refusal is known by a hash of its
 * message and recipient; the last one is not counted when it is asked about
 * again, so that a repeated request gets the answer it got before.
 */
uint32_t session_errors(const struct session *s, uint64_t refusal);
void session_refuse(struct session *s, uint64_t refusal);

/* What a rule set errors_total to for this session; -1: nothing. */
int64_t session_errors_total(const struct session *s);
void session_set_errors_total(struct session *s, int64_t total);

/* It was told to go, at this time or before. */
void session_end(struct session *s, double now);

/* Go on with this message; another one than before starts with nothing. */
void session_message(struct session *s, uint64_t message);

bool session_has_accepted(const struct session *s, uint64_t recipient);
uint32_t session_accepted(const struct session *s);

/*
 * Is this key, of greylisting, tried for the first time by this message?  From
 * now on it is not.
 */
bool session_try(struct session *s, uint64_t key);

/* Is this the first time for this message?  For the header. */
bool session_delayed(struct session *s);

/* limit: what the recipient was held against. */
void session_accept(struct session *s, uint64_t recipient, uint32_t limit);

/* The highest limit that a recipient of this message was held against, or 0. */
uint32_t session_limit(const struct session *s, uint64_t message);

#endif
