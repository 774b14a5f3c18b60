#include "policy/hosts.h"

#include "base/mem.h"

#include <stdlib.h>

enum { HOSTS = 16384 }; /* 400 kB */

struct hosts {
	struct host_known host[HOSTS];
};

struct hosts *
hosts_new(void)
{
	return mem_zalloc(sizeof(struct hosts));
}

void
hosts_free(struct hosts *h)
{
	free(h);
}

struct host_known *
hosts_at(struct hosts *h, uint64_t key)
{
	return &h->host[key % HOSTS];
}
