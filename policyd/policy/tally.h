#ifndef POLICYD_TALLY_H
#define POLICYD_TALLY_H

/*
 * tally - how many keys a client has begun within the hour.
 *
 * Floor 6; uses base.  RFC 6647 section 5: whoever rotates senders could fill
 * the table of greylisting without end.  A fixed table, by hash; the client
 * that has begun more keeps its place.
 */

#include <stdint.h>

struct tally;

struct tally *tally_new(void);

/* NULL is allowed. */
void tally_free(struct tally *t);

/* Keys that this client, a hash, has begun in the hour of now_ms. */
uint32_t tally_of(const struct tally *t, uint64_t client, int64_t now_ms);

/* It has shown that it is no stranger. */
void tally_forget(struct tally *t, uint64_t client);

/* One more. */
void tally_add(struct tally *t, uint64_t client, int64_t now_ms);

#endif
