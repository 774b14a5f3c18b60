#ifndef POLICYD_DB_PLACES_H
#define POLICYD_DB_PLACES_H

/*
 * db places - the hosts of a conninfo, with the address of each.
 *
 * Floor 4.  As libpq has them, from the string or URI, the environment and the
 * service file; but a host's name is looked up aside (db/lookup), and libpq is
 * given the addresses with it.  Sockets and addresses are left as they are.
 */

#include <stdbool.h>

struct ev_loop;
struct places;

/* What to tell libpq; what is NULL, conninfo knows.  Freed with the places. */
struct places_list {
	const char *host, *hostaddr, *port;
	const char *session_attrs; /* unless conninfo says otherwise */
};

/* done: an answer came; from the loop. */
struct places *places_new(struct ev_loop *loop, const char *conninfo,
    void (*done)(void *arg), void *arg);
void places_free(struct places *p);

/* Look again where they are. */
void places_find(struct places *p);

/*
 * For how long are answers worth waiting for?  0 when all have come; a second,
 * of the resolver's time, where there is somewhere to connect to already.
 */
double places_wait_s(const struct places *p, double most_s);

/*
 * Begin with the host after the first, if there are several: the next time, too,
 * until places_in_order().
 */
void places_turn(struct places *p);
void places_in_order(struct places *p);

/* NULL, or why there is nowhere to connect to. */
const char *places_list(struct places *p, struct places_list *list);

#endif
