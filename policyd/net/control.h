#ifndef POLICYD_CONTROL_H
#define POLICYD_CONTROL_H

/*
 * control - the socket that policyctl asks: how is the daemon?
 *
 * Floor 7; uses base, config.  A request is a line, `status`; the answer is
 *
 *	problem <tab> TEXT                                       (any number)
 *	NAME <tab> KIND <tab> UNIT <tab> VALUE <tab> WHAT IT IS  (one a value)
 *	end
 *
 * and the connection is closed.  Asked and answered by root and the daemon's
 * own user alone; who else gets as far as the socket is told nothing.  Nobody
 * holds up the loop: an answer that the socket does not take at once is not
 * given, a request has five seconds, and there are at most eight at a time.
 */

struct config;
struct control;
struct ev_loop;
struct status_sources;

/* Borrows the sources. */
struct control *control_new(struct ev_loop *loop,
    const struct status_sources *sources);

/* Closes all, and removes its socket if it is still there.  NULL is allowed. */
void control_free(struct control *c);

/*
 * Listen where config says, instead of where it listened.  If that cannot be,
 * it is logged and all stays as it was: mail does not depend on it.
 */
void control_listen(struct control *c, const struct config *config);

#endif
