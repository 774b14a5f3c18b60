#ifndef POLICYD_LISTENER_H
#define POLICYD_LISTENER_H

/*
 * listener - the sockets on which policy connections arrive.
 *
 * Floor 6; uses base, config.  Sockets are made from [policyd] listen, or taken
 * over from systemd, which then takes listen's place.  They listen from the
 * start, so that nobody is refused, but nothing is accepted before
 * listeners_accept(); nor while the server is full or out of descriptors:
 * connections wait in the backlog.
 */

#include <stdbool.h>

struct config;
struct config_errors;
struct ev_loop;
struct listeners;
struct server;

struct listeners *listeners_new(struct ev_loop *loop);

/*
 * Closes all.  A unix socket that was made here is removed, if it is still the
 * one that was made; one of systemd's stays.  NULL is allowed.
 */
void listeners_free(struct listeners *all);

/*
 * Make what config asks for and is not there yet.  0; or -1, with what is
 * wrong logged, and everything is as it was before.  Nothing is closed until
 * listeners_commit().
 */
int listeners_prepare(struct listeners *all, const struct config *config);

/*
 * Close what the config prepared last does not ask for, and give what stays its
 * mode and group.
 */
void listeners_commit(struct listeners *all, const struct config *config);

/* Accept for this server from now on. */
void listeners_accept(struct listeners *all, struct server *server);

/* The server has room again. */
void listeners_resume(void *listeners);

/* Accept no more, for good. */
void listeners_stop(struct listeners *all);

#endif
