#include "net/control.h"

#include "base/log.h"
#include "base/mem.h"
#include "config/config.h"
#include "net/door.h"
#include "net/status.h"

#include <errno.h>
#include <ev.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	MODE = 0660,
	PEERS_MAX = 8,
	REQUEST_BYTES = 64,
	ANSWER_BYTES = 16384, /* what there is to say takes a quarter of it */
};

static const double REQUEST_S = 5;
static const double PAUSE_S = 1;

/* One that was accepted. */
struct peer {
	struct control *control;
	ev_io io;
	ev_timer timer;
	size_t n;
	char in[REQUEST_BYTES];
};

struct control {
	struct ev_loop *loop;
	const struct status_sources *sources;
	char *path; /* NULL: it does not listen */
	struct door door;
	ev_io io;
	ev_timer pause;
	struct peer *peer[PEERS_MAX];
	struct log_limit refused_limit, error_limit;
};

static void
log_failure(const char *path, const char *why)
{
	struct log_entry e;

	log_begin(&e, LOG_ERR, "no control socket");
	log_str(&e, "path", str_of(path));
	log_str(&e, "error", str_of(why));
	log_end(&e);
}

/* ---- the answer ---- */

static void
add_value(struct sbuf *b, const struct status *s, const struct value *v)
{
	const char *at = (const char *)s + v->offset;
	const char *text;
	int64_t number;

	sbuf_addf(b, "%s\t%s\t%s\t", v->name, status_kind(v->kind), v->unit);
	if (v->kind == VALUE_TEXT) {
		memcpy(&text, at, sizeof(text));
		sbuf_add(b, str_of(text));
	} else {
		memcpy(&number, at, sizeof(number));
		sbuf_addf(b, "%" PRId64, number);
	}
	sbuf_addf(b, "\t%s\n", v->help);
}

static void
answer_status(const struct control *c, struct sbuf *b)
{
	struct status s;

	status_read(c->sources, &s);
	for (int i = 0; i < s.problems; i++)
		sbuf_addf(b, "problem\t%s\n", s.problem[i]);
	for (size_t i = 0; i < status_count; i++)
		add_value(b, &s, &status_values[i]);
}

/* What is asked, without the end of its line. */
static void
answer(const struct control *c, int fd, struct str request)
{
	char *buf = mem_alloc(ANSWER_BYTES);
	struct sbuf b = sbuf_over(buf, ANSWER_BYTES);

	if (str_eq(request, STR("status")))
		answer_status(c, &b);
	else
		sbuf_add(&b, STR("error\tno such request\n"));
	sbuf_add(&b, STR("end\n"));
	/* Who does not take it is not waited for. */
	send(fd, b.p, b.n, MSG_NOSIGNAL | MSG_DONTWAIT);
	free(buf);
}

/* ---- those who ask ---- */

static void
peer_close(struct peer *p)
{
	struct control *c = p->control;

	for (int i = 0; i < PEERS_MAX; i++)
		if (c->peer[i] == p)
			c->peer[i] = NULL;
	ev_io_stop(c->loop, &p->io);
	ev_timer_stop(c->loop, &p->timer);
	close(p->io.fd);
	free(p);
}

static void
on_request(struct ev_loop *loop, ev_io *w, int events)
{
	struct peer *p = w->data;
	ssize_t n = recv(w->fd, p->in + p->n, sizeof(p->in) - p->n,
	    MSG_DONTWAIT);
	const char *lf;

	(void)loop;
	(void)events;
	if (n == -1 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		peer_close(p);
		return;
	}
	p->n += (size_t)n;
	lf = memchr(p->in, '\n', p->n);
	if (lf != NULL)
		answer(p->control, w->fd,
		    (struct str){p->in, (size_t)(lf - p->in)});
	if (lf != NULL || p->n == sizeof(p->in))
		peer_close(p);
}

static void
on_timeout(struct ev_loop *loop, ev_timer *w, int events)
{
	(void)loop;
	(void)events;
	peer_close(w->data);
}

/* Root, or who could do with the daemon what he likes anyway. */
static bool
may_ask(struct control *c, int fd)
{
	struct ucred peer;
	socklen_t n = sizeof(peer);
	struct log_entry e;
	uint64_t suppressed;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) == -1)
		return false;
	if (peer.uid == 0 || peer.uid == geteuid())
		return true;
	if (log_allowed(&c->refused_limit, ev_now(c->loop), &suppressed)) {
		log_begin(&e, LOG_WARNING, "control connection refused");
		log_int(&e, "uid", peer.uid);
		log_int(&e, "pid", peer.pid);
		if (suppressed > 0)
			log_int(&e, "suppressed", (int64_t)suppressed);
		log_end(&e);
	}
	return false;
}

static void
peer_new(struct control *c, int fd)
{
	struct peer *p;
	int i = 0;

	while (i < PEERS_MAX && c->peer[i] != NULL)
		i++;
	if (i == PEERS_MAX || !may_ask(c, fd)) {
		close(fd);
		return;
	}
	p = c->peer[i] = mem_zalloc(sizeof(*p));
	p->control = c;
	ev_io_init(&p->io, on_request, fd, EV_READ);
	ev_timer_init(&p->timer, on_timeout, REQUEST_S, 0);
	p->io.data = p->timer.data = p;
	ev_io_start(c->loop, &p->io);
	ev_timer_start(c->loop, &p->timer);
}

/* ---- the socket ---- */

static void
on_pause_end(struct ev_loop *loop, ev_timer *w, int events)
{
	struct control *c = w->data;

	(void)events;
	if (c->path != NULL)
		ev_io_start(loop, &c->io);
}

/* Out of descriptors, or of what the kernel keeps about them. */
static void
pause_accepting(struct control *c, int error)
{
	uint64_t suppressed;

	if (log_allowed(&c->error_limit, ev_now(c->loop), &suppressed))
		log_line(LOG_ERR, "no control connection can be accepted: %s",
		    strerror(error));
	ev_io_stop(c->loop, &c->io);
	ev_timer_set(&c->pause, PAUSE_S, 0);
	ev_timer_start(c->loop, &c->pause);
}

/* One a turn: policy connections come first. */
static void
on_connection(struct ev_loop *loop, ev_io *w, int events)
{
	struct control *c = w->data;
	int fd;

	(void)loop;
	if (events & EV_ERROR) { /* epoll did not take it: libev lets it go */
		pause_accepting(c, ENOMEM);
		return;
	}
	fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd != -1)
		peer_new(c, fd);
	else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
	    errno == ENOMEM)
		pause_accepting(c, errno);
}

static void
stop_listening(struct control *c)
{
	if (c->path == NULL)
		return;
	ev_io_stop(c->loop, &c->io);
	ev_timer_stop(c->loop, &c->pause);
	door_close(&c->door, c->path);
	free(c->path);
	c->path = NULL;
}

void
control_listen(struct control *c, const struct config *config)
{
	const char *path = config->policyd.control, *why;
	struct door door;

	if (c->path != NULL && strcmp(c->path, path) == 0)
		return;
	why = door_open(&door, path, MODE, "");
	if (why != NULL) {
		log_failure(path, why);
		return;
	}
	stop_listening(c);
	c->path = mem_strdup(path);
	c->door = door;
	ev_io_set(&c->io, door.fd, EV_READ);
	ev_io_start(c->loop, &c->io);
}

struct control *
control_new(struct ev_loop *loop, const struct status_sources *sources)
{
	struct control *c = mem_zalloc(sizeof(*c));

	c->loop = loop;
	c->sources = sources;
	ev_io_init(&c->io, on_connection, -1, EV_READ);
	ev_timer_init(&c->pause, on_pause_end, 0, 0);
	c->io.data = c->pause.data = c;
	return c;
}

void
control_free(struct control *c)
{
	if (c == NULL)
		return;
	for (int i = 0; i < PEERS_MAX; i++)
		if (c->peer[i] != NULL)
			peer_close(c->peer[i]);
	stop_listening(c);
	free(c);
}
