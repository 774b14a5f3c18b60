#ifndef POLICYD_EAR_H
#define POLICYD_EAR_H

/*
 * db ear - a connection that only listens, and knows what time it is there.
 *
 * Floor 4.  Knows nothing of mail.  A connection that also reads hears nothing
 * while a transaction of its own is open; this one hears within milliseconds.
 * It asks for the time at first and every 10 s, which also shows that the
 * connection is alive.
 */

#include "db/session.h"

struct ear;

struct ear_handlers {
	/* Listening from now on; what was announced before may be missed. */
	void (*begun)(void *arg);
	/* No longer. */
	void (*ended)(void *arg);
	/* payload is borrowed until the function returns. */
	void (*heard)(void *arg, const char *payload);
	/* The server's clock, in seconds since 1970, as text. */
	void (*clock)(void *arg, const char *seconds);
	void *arg;
};

/* channel is a word of SQL; it is copied, and so are the options. */
struct ear *ear_new(struct ev_loop *loop, const struct db_options *options,
    const char *channel, const struct ear_handlers *handlers);

/* Add its connection to those counted. */
void ear_count(const struct ear *e, struct db_count *count);

/* NULL is allowed. */
void ear_free(struct ear *e);

#endif
