#ifndef POLICYD_HOSTS_H
#define POLICYD_HOSTS_H

/*
 * hosts - which client the hosts of late belong to.
 *
 * Floor 6; uses base.  To judge a host (mail/host.h) takes microseconds, and
 * the same hosts come again and again.  A table of fixed size, by hash; a host
 * takes the place of another whose hash falls there.
 */

#include <stdbool.h>
#include <stdint.h>

struct hosts;

/* What greylisting knows a host by: base/hash.h of the texts. */
struct host_known {
	uint64_t key; /* of its address, its name, and how to judge */
	uint64_t client;
	uint64_t network;
};

struct hosts *hosts_new(void);

/* NULL is allowed. */
void hosts_free(struct hosts *h);

/* The place for this key, which may be another's. */
struct host_known *hosts_at(struct hosts *h, uint64_t key);

#endif
