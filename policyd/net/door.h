#ifndef POLICYD_DOOR_H
#define POLICYD_DOOR_H

/*
 * door - a unix socket that listens: made where nobody's is, removed if it is
 * still the one that was made.
 *
 * Floor 7; uses base.
 */

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

struct door {
	int fd;
	dev_t dev; /* of what was made at its path */
	ino_t ino;
};

/*
 * Make a socket at the path, of this mode and, where it is not empty, of this
 * group; it listens.  A socket that nobody answers on, left over by a process
 * that was killed, is replaced; everything else that stands there is
 * somebody's.  NULL; or why not, and all is as before.
 */
const char *door_open(struct door *d, const char *path, mode_t mode,
    const char *group);

/* Close it; what stands at the path is removed only if it is this socket. */
void door_close(const struct door *d, const char *path);

/* Is what stands at the path this socket?  Then *st is about it. */
bool door_is_there(const struct door *d, const char *path, struct stat *st);

/*
 * Give the path a group, which an empty one leaves alone; now: the one it has.
 * Only root may give it to any; who is not says so and goes on.  A link is not
 * followed: the folder may belong to somebody who puts one there.
 */
const char *door_set_group(const char *path, const char *group, gid_t now);

#endif
