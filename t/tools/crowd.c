/*
 * crowd - connections of the kinds that a policy server had better not mind.
 *
 *	crowd SOCKET REQUEST
 *
 * REQUEST is a file with one.  Commands come line by line:
 *
 *	join KIND COUNT   so many more of them
 *	count             a line `KIND OPEN ANSWERED CLOSED` for each, then `end`
 *	leave             all go, at once
 *
 * and are answered by a line `ok` once they are done.  The kinds:
 *
 *	asleep   asks once, and keeps the connection
 *	trickle  writes a byte at a time
 *	deaf     asks without end and reads no answer
 *	garbage  sends what is no request, is closed, and comes back
 *	endless  sends a request that never ends
 *	silent   says nothing
 *
 * Whom the server closes comes back; CLOSED counts that.
 */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
	CONNS_MAX = 100000,
	REQUEST_MAX_BYTES = 4096,
	GARBAGE_BYTES = 4000,
	EVENTS_MAX = 256,
	TICK_MS = 10,
};

enum kind { ASLEEP, TRICKLE, DEAF, GARBAGE, ENDLESS, SILENT, KINDS };

/* How many ticks lie between what one of them does. */
static const unsigned every[KINDS] = {0, 1, 5, 10, 10, 0};

static const char *const names[KINDS] = {"asleep", "trickle", "deaf",
    "garbage", "endless", "silent"};

struct conn {
	int fd; /* -1: closed, and comes back in its next turn */
	enum kind kind;
	size_t at; /* bytes of the request that are sent */
};

static struct sockaddr_un peer = {.sun_family = AF_UNIX};
static char request[REQUEST_MAX_BYTES];
static size_t request_len;
static char garbage[GARBAGE_BYTES];
static struct conn conns[CONNS_MAX];
static size_t count;
static int epoll_fd;
static size_t answered[KINDS], closed[KINDS];

static void
die(const char *what)
{
	fprintf(stderr, "crowd: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void
conn_open(struct conn *c)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};

	c->at = 0;
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd == -1)
		die("socket");
	/* Where the backlog is full, this waits. */
	if (connect(c->fd, (const struct sockaddr *)&peer, sizeof(peer)) == -1)
		die("connect");
	if (c->kind == DEAF)
		ev.events = 0; /* hanging up is told all the same */
	if (fcntl(c->fd, F_SETFL, O_NONBLOCK) == -1 ||
	    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &ev) == -1)
		die("epoll_ctl");
}

static void
conn_closed(struct conn *c)
{
	close(c->fd);
	c->fd = -1;
	closed[c->kind]++;
}

static ssize_t
say(const struct conn *c, const char *p, size_t n)
{
	return send(c->fd, p, n, MSG_NOSIGNAL);
}

/* As much of the request as goes, up to so many bytes; did any? */
static bool
say_request(struct conn *c, size_t most)
{
	size_t left = request_len - c->at;
	ssize_t n = say(c, request + c->at, left < most ? left : most);

	if (n <= 0)
		return false;
	c->at = (c->at + (size_t)n) % request_len;
	return true;
}

/* What one of its kind does in its turn. */
static void
act(struct conn *c)
{
	if (c->fd == -1) {
		conn_open(c);
		return;
	}
	switch (c->kind) {
	case TRICKLE:
		say_request(c, 1);
		break;
	case DEAF:
		while (say_request(c, request_len))
			;
		break;
	case GARBAGE:
		say(c, garbage, sizeof(garbage));
		break;
	case ENDLESS:
		say(c, "a=b\n", 4);
		break;
	case ASLEEP:
	case SILENT:
	case KINDS:
		break;
	}
}

static void
on_event(struct conn *c)
{
	char buf[4096];
	ssize_t n = 0;

	if (c->fd == -1)
		return; /* it left meanwhile */
	if (c->kind != DEAF)
		n = recv(c->fd, buf, sizeof(buf), 0);
	if (n == -1 && errno == EAGAIN)
		return;
	if (n <= 0) {
		conn_closed(c);
		if (c->kind == ASLEEP)
			conn_open(c);
		return;
	}
	for (ssize_t i = 1; i < n; i++)
		answered[c->kind] += buf[i] == '\n' && buf[i - 1] == '\n';
}

static void
wait_events(int timeout_ms)
{
	struct epoll_event ev[EVENTS_MAX];
	int n = epoll_wait(epoll_fd, ev, EVENTS_MAX, timeout_ms);

	for (int i = 0; i < n; i++)
		if (ev[i].data.ptr != NULL)
			on_event(ev[i].data.ptr);
}

/* ---- commands ---- */

static void
join(enum kind kind, size_t more)
{
	size_t wanted = answered[kind] + more;

	if (more > CONNS_MAX - count)
		exit(2);
	for (size_t i = 0; i < more; i++) {
		struct conn *c = &conns[count++];

		c->kind = kind;
		conn_open(c);
		if (kind == ASLEEP)
			say_request(c, request_len);
	}
	while (kind == ASLEEP && answered[kind] < wanted)
		wait_events(TICK_MS);
}

static void
leave(void)
{
	for (; count > 0; count--) {
		struct conn *c = &conns[count - 1];

		if (c->fd != -1)
			close(c->fd);
		c->fd = -1;
	}
	memset(answered, 0, sizeof(answered));
	memset(closed, 0, sizeof(closed));
}

static void
print_counts(void)
{
	size_t open[KINDS] = {0};

	for (size_t i = 0; i < count; i++)
		open[conns[i].kind] += conns[i].fd != -1;
	for (int k = 0; k < KINDS; k++)
		printf("%s %zu %zu %zu\n", names[k], open[k], answered[k],
		    closed[k]);
	puts("end");
}

static void
command(void)
{
	char line[100], name[20];
	size_t more;

	if (fgets(line, sizeof(line), stdin) == NULL)
		exit(0);
	if (sscanf(line, "join %19s %zu", name, &more) == 2) {
		for (int k = 0; k < KINDS; k++)
			if (strcmp(name, names[k]) == 0)
				join((enum kind)k, more);
	} else if (strcmp(line, "leave\n") == 0) {
		leave();
	} else {
		print_counts();
	}
	puts("ok");
	fflush(stdout);
}

/* ---- the run ---- */

static double
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* Everybody has a turn now and then, not all of them the same. */
static void
turns(unsigned tick)
{
	for (size_t i = 0; i < count; i++) {
		unsigned n = every[conns[i].kind];

		if (n == 0 && conns[i].fd == -1)
			conn_open(&conns[i]);
		if (n > 0 && (tick + i) % n == 0)
			act(&conns[i]);
	}
}

static void
read_request(const char *path)
{
	FILE *f = fopen(path, "r");

	if (f == NULL)
		die(path);
	request_len = fread(request, 1, sizeof(request), f);
	fclose(f);
	if (request_len == 0)
		exit(2);
}

int
main(int argc, char **argv)
{
	struct epoll_event ev = {.events = EPOLLIN};
	double due;
	unsigned tick = 0;

	if (argc != 3 || strlen(argv[1]) >= sizeof(peer.sun_path))
		return 2;
	memcpy(peer.sun_path, argv[1], strlen(argv[1]) + 1);
	read_request(argv[2]);
	for (size_t i = 0; i < sizeof(garbage); i++)
		garbage[i] = (char)(i * 2654435761U >> 13);
	memcpy(garbage, "no request\n", 11);
	setvbuf(stdin, NULL, _IONBF, 0);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_fd == -1 ||
	    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &ev) == -1)
		die("epoll");
	due = now_ms();
	for (;;) {
		struct epoll_event got[EVENTS_MAX];
		double wait = due - now_ms();
		int n = epoll_wait(epoll_fd, got, EVENTS_MAX,
		    wait > 0 ? (int)wait + 1 : 0);

		for (int i = 0; i < n; i++)
			if (got[i].data.ptr == NULL)
				command();
			else
				on_event(got[i].data.ptr);
		if (now_ms() < due)
			continue;
		turns(tick++);
		due = now_ms() + TICK_MS;
	}
}
