#include "net/door.h"

#include "base/log.h"

#include <errno.h>
#include <grp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 1024 };

/* Is the path free for us? */
static const char *
clear_path(const struct sockaddr_un *sun)
{
	struct stat st;
	int fd, rc, error;

	if (lstat(sun->sun_path, &st) == -1)
		return errno == ENOENT ? NULL : strerror(errno);
	if (!S_ISSOCK(st.st_mode))
		return "the file there is no socket";
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd == -1)
		return strerror(errno);
	rc = connect(fd, (const struct sockaddr *)sun, sizeof(*sun));
	error = errno;
	close(fd);
	if (rc == 0 || error != ECONNREFUSED)
		return "another process listens there";
	return unlink(sun->sun_path) == 0 ? NULL : strerror(errno);
}

const char *
door_set_group(const char *path, const char *group, gid_t now)
{
	const struct group *g;

	if (group[0] == '\0')
		return NULL;
	g = getgrnam(group);
	if (g == NULL)
		return "socket_group: there is no such group";
	if (g->gr_gid == now || lchown(path, (uid_t)-1, g->gr_gid) == 0)
		return NULL;
	if (geteuid() == 0)
		return strerror(errno);
	log_line(LOG_WARNING, "%s is not of socket_group %s: %s", path, group,
	    strerror(errno));
	return NULL;
}

const char *
door_open(struct door *d, const char *path, mode_t mode, const char *group)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct stat st = {0};
	const char *why;
	mode_t mask;
	int fd, rc;

	if (strlen(path) >= sizeof(sun.sun_path))
		return "a socket's path has at most 107 bytes";
	memcpy(sun.sun_path, path, strlen(path) + 1);
	why = clear_path(&sun);
	if (why != NULL)
		return why;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd == -1)
		return strerror(errno);
	/* Nobody can connect before listen(): it is as it should be by then. */
	mask = umask(~mode & 0777);
	rc = bind(fd, (const struct sockaddr *)&sun, sizeof(sun));
	umask(mask);
	if (rc == -1) {
		why = strerror(errno);
		close(fd);
		return why;
	}
	why = door_set_group(path, group, (gid_t)-1);
	if (why == NULL &&
	    (listen(fd, BACKLOG) == -1 || lstat(path, &st) == -1))
		why = strerror(errno);
	if (why != NULL) {
		unlink(path);
		close(fd);
		return why;
	}
	d->fd = fd;
	d->dev = st.st_dev;
	d->ino = st.st_ino;
	return NULL;
}

bool
door_is_there(const struct door *d, const char *path, struct stat *st)
{
	return lstat(path, st) == 0 && S_ISSOCK(st->st_mode) &&
	    st->st_dev == d->dev && st->st_ino == d->ino;
}

void
door_close(const struct door *d, const char *path)
{
	struct stat st;

	close(d->fd);
	if (door_is_there(d, path, &st))
		unlink(path);
}
