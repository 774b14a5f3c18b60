/*
 * nullpol - the cheapest possible policy server: reads to the blank line and
 * answers DUNNO.  What policyd costs is measured against what this costs.
 *
 *   nullpol unix:PATH | inet:HOST:PORT
 *
 * One thread, one read and one write a request.  Ends on SIGTERM.
 */

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
	REQUEST_MAX_BYTES = 65536,
};

static const char reply[] = "action=DUNNO\n\n";

struct client {
	ev_io io;
	size_t len;
	char buf[REQUEST_MAX_BYTES];
};

static void
die(const char *what)
{
	fprintf(stderr, "nullpol: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void
client_drop(struct ev_loop *loop, struct client *cl)
{
	ev_io_stop(loop, &cl->io);
	close(cl->io.fd);
	free(cl);
}

/* A request is complete when the bytes end in a blank line. */
static void
on_readable(struct ev_loop *loop, ev_io *w, int revents)
{
	struct client *cl = w->data;
	ssize_t n = read(w->fd, cl->buf + cl->len, sizeof(cl->buf) - cl->len);

	(void)revents;
	if (n == -1 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		client_drop(loop, cl);
		return;
	}
	cl->len += (size_t)n;
	if (cl->len < 2 || memcmp(cl->buf + cl->len - 2, "\n\n", 2) != 0) {
		if (cl->len == sizeof(cl->buf))
			client_drop(loop, cl);
		return;
	}
	cl->len = 0;
	if (write(w->fd, reply, sizeof(reply) - 1) != sizeof(reply) - 1)
		client_drop(loop, cl);
}

static void
on_accept(struct ev_loop *loop, ev_io *w, int revents)
{
	struct client *cl;
	int fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	int one = 1;

	(void)revents;
	if (fd == -1)
		return;
	/* Fails on a unix socket, which has no need of it. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	cl = malloc(sizeof(*cl));
	if (cl == NULL)
		die("malloc");
	cl->len = 0;
	ev_io_init(&cl->io, on_readable, fd, EV_READ);
	cl->io.data = cl;
	ev_io_start(loop, &cl->io);
}

static void
on_signal(struct ev_loop *loop, ev_signal *w, int revents)
{
	(void)w;
	(void)revents;
	ev_break(loop, EVBREAK_ALL);
}

static int
listen_unix(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	if (fd == -1)
		die("socket");
	if (strlen(path) >= sizeof(sa.sun_path)) {
		errno = ENAMETOOLONG;
		die(path);
	}
	memcpy(sa.sun_path, path, strlen(path) + 1);
	(void)unlink(path);
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) == -1)
		die(path);
	return fd;
}

static int
listen_inet(const char *where)
{
	struct addrinfo hint = {
	    .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
	struct addrinfo *ai;
	char host[256];
	const char *colon = strrchr(where, ':');
	int fd;
	int one = 1;

	if (colon == NULL || (size_t)(colon - where) >= sizeof(host)) {
		errno = EINVAL;
		die(where);
	}
	memcpy(host, where, (size_t)(colon - where));
	host[colon - where] = '\0';
	if (getaddrinfo(host, colon + 1, &hint, &ai) != 0) {
		errno = EINVAL;
		die(where);
	}
	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (fd == -1)
		die("socket");
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) == -1)
		die(where);
	freeaddrinfo(ai);
	return fd;
}

int
main(int argc, char **argv)
{
	struct ev_loop *loop = ev_default_loop(0);
	ev_io door;
	ev_signal term;
	int fd;

	if (argc == 2 && strncmp(argv[1], "unix:", 5) == 0)
		fd = listen_unix(argv[1] + 5);
	else if (argc == 2 && strncmp(argv[1], "inet:", 5) == 0)
		fd = listen_inet(argv[1] + 5);
	else {
		fputs("usage: nullpol unix:PATH | inet:HOST:PORT\n", stderr);
		return 2;
	}
	if (listen(fd, SOMAXCONN) == -1)
		die("listen");
	ev_io_init(&door, on_accept, fd, EV_READ);
	ev_io_start(loop, &door);
	ev_signal_init(&term, on_signal, SIGTERM);
	ev_signal_start(loop, &term);
	(void)signal(SIGPIPE, SIG_IGN);
	ev_run(loop, 0);
	if (strncmp(argv[1], "unix:", 5) == 0)
		(void)unlink(argv[1] + 5);
	return 0;
}
