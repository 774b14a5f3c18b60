#include "db/lookup.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Longer than resolv.conf makes it by default with two nameservers. */
static const double LIMIT_S = 30;
static const double FRESH_S = 1;

/* All that a child says is in the pipe before anybody reads it. */
enum { ADDRESSES_MAX = 16, ADDRESS_SIZE = 64, TEXT_SIZE = 2048 };

/* What it says first; addresses follow, or a reason. */
static const char FOUND = '+', FAILED = '-';

struct lookup {
	struct lookup *next;
	struct lookup_waiter *waiters;
	struct ev_loop *loop;
	char *name;
	ev_child child;
	ev_timer limit;
	int from; /* the pipe, while there is a child */
	double started, ended; /* clock_s(); 0: never */
	char *found[ADDRESSES_MAX + 1];
	char *error;
};

/* Some for each conninfo, so a list will do. */
static struct lookup *all;

/* ---- the child ---- */

static void
add_addresses(struct sbuf *b, const struct addrinfo *list)
{
	char address[ADDRESS_SIZE];
	int n = 0;

	sbuf_addc(b, FOUND);
	for (const struct addrinfo *a = list; a != NULL && n < ADDRESSES_MAX;
	     a = a->ai_next)
		if (getnameinfo(a->ai_addr, a->ai_addrlen, address,
			sizeof(address), NULL, 0, NI_NUMERICHOST) == 0) {
			sbuf_addf(b, "%s\n", address);
			n++;
		}
}

/* As libpq would look for it. */
static void
find(const char *name, int to)
{
	struct addrinfo hints = {
	    .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list = NULL;
	char text[TEXT_SIZE];
	struct sbuf b = sbuf_over(text, sizeof(text));
	int error = getaddrinfo(name, NULL, &hints, &list);

	if (error == 0)
		add_addresses(&b, list);
	else
		sbuf_addf(&b, "%c%s", FAILED,
		    error == EAI_SYSTEM ? strerror(errno) :
					  gai_strerror(error));
	_exit(write(to, b.p, b.n) == (ssize_t)b.n ? 0 : 1);
}

/* It lets go of every socket at once, as a child of base/aside does. */
static void
be_child(const char *name, int to, pid_t parent)
{
	enum { PIPE = 3 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent || dup2(to, PIPE) == -1)
		_exit(1);
	close_range(PIPE + 1, ~0U, 0);
	find(name, PIPE);
}

/* ---- what it found ---- */

static void
forget(struct lookup *l)
{
	for (int i = 0; i < ADDRESSES_MAX; i++) {
		free(l->found[i]);
		l->found[i] = NULL;
	}
}

static void
take_addresses(struct lookup *l, const char *text)
{
	const char *lf;

	if (strchr(text, '\n') == NULL)
		return;
	forget(l);
	for (int i = 0; i < ADDRESSES_MAX && (lf = strchr(text, '\n')) != NULL;
	     i++, text = lf + 1)
		l->found[i] = mem_strndup(text, (size_t)(lf - text));
}

/* error: NULL if it found something. */
static void
end(struct lookup *l, const char *error)
{
	free(l->error);
	l->error = error != NULL ? mem_strdup(error) : NULL;
	l->ended = clock_s();
	for (const struct lookup_waiter *w = l->waiters; w != NULL; w = w->next)
		w->done(w->arg);
}

static void
let_go(struct lookup *l)
{
	ev_timer_stop(l->loop, &l->limit);
	ev_child_stop(l->loop, &l->child);
	if (l->from != -1)
		close(l->from);
	l->from = -1;
}

static void
on_child(struct ev_loop *loop, ev_child *w, int events)
{
	struct lookup *l = w->data;
	char text[TEXT_SIZE];
	ssize_t n = read(l->from, text, sizeof(text) - 1);

	(void)loop;
	(void)events;
	let_go(l);
	text[n > 0 ? n : 0] = '\0';
	if (text[0] == FOUND) {
		take_addresses(l, text + 1);
		end(l, NULL);
	} else {
		end(l, text[0] == FAILED ? text + 1 :
					   "the resolver does not answer");
	}
}

static void
on_limit(struct ev_loop *loop, ev_timer *w, int events)
{
	const struct lookup *l = w->data;

	(void)loop;
	(void)events;
	kill(l->child.pid, SIGKILL);
}

/* ---- asking ---- */

void
lookup_start(struct lookup *l)
{
	int fd[2] = {-1, -1};
	pid_t parent = getpid(), pid;

	if (l->from != -1 ||
	    (l->ended > 0 && clock_s() - l->ended < FRESH_S))
		return;
	pid = pipe2(fd, O_CLOEXEC | O_NONBLOCK) == 0 ? fork() : -1;
	if (pid == 0)
		be_child(l->name, fd[1], parent);
	if (pid == -1) {
		end(l, strerror(errno));
		if (fd[0] != -1)
			close(fd[0]);
	} else {
		l->from = fd[0];
		l->started = clock_s();
		ev_child_set(&l->child, pid, 0);
		ev_child_start(l->loop, &l->child);
		ev_now_update(l->loop);
		ev_timer_set(&l->limit, LIMIT_S, 0);
		ev_timer_start(l->loop, &l->limit);
	}
	if (fd[1] != -1)
		close(fd[1]);
}

double
lookup_takes_s(const struct lookup *l)
{
	return l->from != -1 ? clock_s() - l->started : 0;
}

const char *const *
lookup_addresses(const struct lookup *l)
{
	return (const char *const *)l->found;
}

const char *
lookup_error(const struct lookup *l)
{
	return l->error;
}

/* ---- life ---- */

static struct lookup *
lookup_new(struct ev_loop *loop, const char *name)
{
	struct lookup *l = mem_zalloc(sizeof(*l));

	l->loop = loop;
	l->name = mem_strdup(name);
	l->from = -1;
	ev_child_init(&l->child, on_child, 0, 0);
	ev_timer_init(&l->limit, on_limit, 0, 0);
	l->child.data = l->limit.data = l;
	l->next = all;
	all = l;
	return l;
}

struct lookup *
lookup_get(struct ev_loop *loop, const char *name,
    struct lookup_waiter *waiter)
{
	struct lookup *l = all;

	while (l != NULL && strcmp(l->name, name) != 0)
		l = l->next;
	if (l == NULL)
		l = lookup_new(loop, name);
	waiter->next = l->waiters;
	l->waiters = waiter;
	return l;
}

/* libev collects every child, watched or not. */
static void
lookup_free(struct lookup *l)
{
	struct lookup **at = &all;

	while (*at != l)
		at = &(*at)->next;
	*at = l->next;
	if (l->from != -1)
		kill(l->child.pid, SIGKILL);
	let_go(l);
	forget(l);
	free(l->error);
	free(l->name);
	free(l);
}

void
lookup_put(struct lookup *l, struct lookup_waiter *waiter)
{
	struct lookup_waiter **at = &l->waiters;

	while (*at != waiter)
		at = &(*at)->next;
	*at = waiter->next;
	if (l->waiters == NULL)
		lookup_free(l);
}
