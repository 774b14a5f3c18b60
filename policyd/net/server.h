#ifndef POLICYD_SERVER_H
#define POLICYD_SERVER_H

/*
 * server - the policy connections, and what they share.
 *
 * Floor 6; uses base, mail, config, policy.  Each connection (client.c) has its
 * requests answered in the order they came, one at a time; whatever one of
 * them does (sleep, write byte by byte, ask without end, never read, hang up),
 * the others do not notice.  A connection that is silent holds no buffer.
 */

#include "base/log.h"
#include "policy/decide.h"

#include <ev.h>

struct config;

enum {
	BUFFER_BYTES = 4096, /* most requests fit: 500 to 900 bytes */
	SPARE_BUFFERS = 64,
	REQUESTS_A_TURN = 4, /* of one client, then others have theirs */
};

struct client;

struct server {
	struct ev_loop *loop;
	const struct config *config;
	struct policy *policy;
	struct client *clients; /* a list */
	struct client *queue;   /* those whose next turn has come already */
	ev_prepare turn;        /* gives it to them */
	ev_idle busy;           /* keeps the loop from sleeping until then */
	int64_t count;
	bool draining;
	void (*room)(void *arg); /* there is room for a client again */
	void *room_arg;

	struct answer answer;   /* of the request being judged */
	char *spare[SPARE_BUFFERS];
	int spares;
	struct log_limit bad_limit;
	uint64_t accepted; /* connections, and what they asked */
	uint64_t requests;
};

/* room is called from the loop when count falls below max_clients. */
struct server *server_new(struct ev_loop *loop, const struct config *config,
    struct policy *policy, void (*room)(void *arg), void *arg);

/*
 * Closes all that is still open; who waits for an answer gets `unavailable`.
 * NULL is allowed.
 */
void server_free(struct server *s);

void server_reconfigure(struct server *s, const struct config *config);

/* As many clients as max_clients: let others wait in the backlog. */
bool server_is_full(const struct server *s);

/*
 * Answer what has arrived, held-back answers too, and close; what a slow
 * reader has not taken yet is written while the loop goes on to run.  The last
 * connection that closes ends ev_run().
 */
void server_drain(struct server *s);

/*
 * Take a connected socket over: non-blocking, close-on-exec.  false: there is
 * no memory for it.
 */
bool client_new(struct server *s, int fd);

#endif
