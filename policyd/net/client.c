#include "net/server.h"

#include "base/mem.h"
#include "config/config.h"
#include "mail/request.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum state {
	READING, /* a request is awaited, or some of it is here */
	ASKING,  /* a request is being judged: its bytes must stay in place */
	HOLDING, /* an answer is kept back until the timer fires */
	WRITING, /* an answer waits for the socket to take it */
};

struct client {
	struct server *server;
	struct client *next, **link; /* in server->clients */
	struct client *next_queued, **queued; /* in server->queue, or NULL */
	ev_io io;
	ev_timer timer;
	enum state state;
	bool eof;       /* the peer will send no more */
	bool timing;    /* the request's deadline runs */
	double active;  /* when something was last heard */

	char *buf;      /* NULL where there is nothing in it */
	size_t cap;
	size_t len;
	size_t at;      /* what stands before it was answered, or is asked */
	size_t scanned; /* request_parse() keeps its place */
	struct check *check; /* ASKING */

	char *out;      /* HOLDING, WRITING: what is to be written */
	size_t out_len;
	size_t out_at;
};

static void process(struct client *c);

/* ---- buffers ---- */

static void
take_buffer(struct client *c)
{
	struct server *s = c->server;

	c->buf = s->spares > 0 ? s->spare[--s->spares] :
				 mem_try(NULL, BUFFER_BYTES);
	c->cap = c->buf != NULL ? BUFFER_BYTES : 0;
}

static void
release_buffer(struct client *c)
{
	struct server *s = c->server;

	if (c->buf != NULL && c->cap == BUFFER_BYTES &&
	    s->spares < SPARE_BUFFERS)
		s->spare[s->spares++] = c->buf;
	else
		free(c->buf);
	c->buf = NULL;
	c->cap = c->len = c->at = c->scanned = 0;
}

enum room { ROOM, ROOM_FULL, ROOM_NO_MEMORY };

/* Room for more bytes, where there are not as many as there may be. */
static enum room
make_room(struct client *c)
{
	size_t cap = c->cap * 4;
	char *buf;

	if (c->buf == NULL)
		take_buffer(c);
	if (c->len < c->cap)
		return ROOM;
	if (c->buf == NULL)
		return ROOM_NO_MEMORY;
	if (c->cap >= REQUEST_MAX_BYTES || c->state == ASKING)
		return ROOM_FULL;
	if (cap > REQUEST_MAX_BYTES)
		cap = REQUEST_MAX_BYTES;
	buf = mem_spare(c->buf, cap);
	if (buf == NULL)
		return ROOM_NO_MEMORY;
	c->buf = buf;
	c->cap = cap;
	return ROOM;
}

/* ---- turns ---- */

static void
queue(struct client *c)
{
	struct server *s = c->server;

	if (c->queued != NULL)
		return;
	c->next_queued = s->queue;
	c->queued = &s->queue;
	if (c->next_queued != NULL)
		c->next_queued->queued = &c->next_queued;
	s->queue = c;
	ev_prepare_start(s->loop, &s->turn);
	ev_idle_start(s->loop, &s->busy);
}

static void
unqueue(struct client *c)
{
	if (c->queued == NULL)
		return;
	*c->queued = c->next_queued;
	if (c->next_queued != NULL)
		c->next_queued->queued = c->queued;
	c->queued = NULL;
}

/* Once in each turn of the loop: who has still more is queued again. */
static void
on_turn(struct ev_loop *loop, ev_prepare *w, int events)
{
	struct server *s = w->data;
	struct client *round = s->queue;

	(void)events;
	s->queue = NULL;
	ev_prepare_stop(loop, w);
	ev_idle_stop(loop, &s->busy);
	if (round != NULL)
		round->queued = &round;
	for (struct client *c; (c = round) != NULL;) {
		unqueue(c);
		process(c);
	}
}

static void
on_idle(struct ev_loop *loop, ev_idle *w, int events)
{
	(void)loop;
	(void)w;
	(void)events;
}

/* ---- life ---- */

static void
client_close(struct client *c)
{
	struct server *s = c->server;
	bool was_full = server_is_full(s);

	unqueue(c);
	if (c->check != NULL)
		decide_cancel(c->check);
	ev_io_stop(s->loop, &c->io);
	ev_timer_stop(s->loop, &c->timer);
	close(c->io.fd);
	release_buffer(c);
	free(c->out);
	*c->link = c->next;
	if (c->next != NULL)
		c->next->link = c->link;
	free(c);
	s->count--;
	if (was_full && !s->draining)
		s->room(s->room_arg);
	if (s->draining && s->count == 0)
		ev_break(s->loop, EVBREAK_ALL);
}

/* The client broke the protocol or a bound: tell once a minute, and close. */
static void
client_refuse(struct client *c, const char *why)
{
	struct log_entry e;
	uint64_t suppressed;

	if (log_allowed(&c->server->bad_limit, ev_now(c->server->loop),
		&suppressed)) {
		log_begin(&e, LOG_WARNING, "policy connection closed");
		log_str(&e, "error", str_of(why));
		if (suppressed > 0)
			log_int(&e, "suppressed", (int64_t)suppressed);
		log_end(&e);
	}
	client_close(c);
}

/* ---- which events are waited for: decided here alone ---- */

static void
set_timer(struct client *c, double after_s)
{
	struct ev_loop *loop = c->server->loop;

	ev_timer_stop(loop, &c->timer);
	ev_timer_set(&c->timer, after_s, 0);
	ev_timer_start(loop, &c->timer);
}

static void
watch(struct client *c, int events)
{
	struct ev_loop *loop = c->server->loop;

	if (ev_is_active(&c->io) && (c->io.events & (EV_READ | EV_WRITE)) ==
		events)
		return;
	ev_io_stop(loop, &c->io);
	if (events == 0)
		return;
	ev_io_set(&c->io, c->io.fd, events);
	ev_io_start(loop, &c->io);
}

static void
rearm(struct client *c)
{
	const struct config *config = c->server->config;
	bool may_read = !c->eof &&
	    (c->len < c->cap || c->cap < REQUEST_MAX_BYTES);

	switch (c->state) {
	case READING:
		watch(c, EV_READ);
		/* A request's time runs from its first byte to its last. */
		if (c->queued != NULL)
			ev_timer_stop(c->server->loop, &c->timer);
		else if (c->len > 0 && !c->timing)
			set_timer(c, config->policyd.request_timeout_s);
		else if (c->len == 0 && config->policyd.idle_timeout_s > 0 &&
		    (c->timing || !ev_is_active(&c->timer)))
			set_timer(c, config->policyd.idle_timeout_s);
		else if (c->len == 0 && c->timing)
			ev_timer_stop(c->server->loop, &c->timer);
		c->timing = c->len > 0 && c->queued == NULL;
		break;
	case ASKING:
		ev_timer_stop(c->server->loop, &c->timer);
		c->timing = false;
		watch(c, !c->eof && c->len < c->cap ? EV_READ : 0);
		break;
	case HOLDING:
		/* Reading on is how a client that hangs up is noticed. */
		watch(c, may_read ? EV_READ : 0);
		break;
	case WRITING:
		watch(c, EV_WRITE);
		break;
	}
}

/* ---- answers ---- */

static void
keep_answer(struct client *c, const char *p, size_t n, enum state state)
{
	c->out = mem_alloc(n);
	memcpy(c->out, p, n);
	c->out_len = n;
	c->out_at = 0;
	c->state = state;
}

/* Write what the socket takes; -1: the connection is gone. */
static ssize_t
send_some(const struct client *c, const char *p, size_t n)
{
	ssize_t sent = send(c->io.fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (sent == -1 && (errno == EAGAIN || errno == EINTR))
		return 0;
	return sent;
}

/* The kept answer, or what is left of it.  false: the client is closed. */
static bool
write_kept(struct client *c)
{
	ssize_t sent = send_some(c, c->out + c->out_at, c->out_len - c->out_at);

	if (sent == -1) {
		client_close(c);
		return false;
	}
	c->out_at += (size_t)sent;
	if (c->out_at < c->out_len) {
		c->state = WRITING;
		set_timer(c, c->server->config->policyd.request_timeout_s);
		c->timing = true;
		return true;
	}
	free(c->out);
	c->out = NULL;
	c->state = READING;
	/* Whatever ran was for the answer. */
	ev_timer_stop(c->server->loop, &c->timer);
	c->timing = false;
	return true;
}

/* Give one answer.  false: the client is closed. */
static bool
deliver(struct client *c, const struct answer *a)
{
	struct server *s = c->server;
	ssize_t sent;

	if (a->n == 0) {
		client_close(c);
		return false;
	}
	if (a->hold_s > 0 && !s->draining) {
		keep_answer(c, a->wire, a->n, HOLDING);
		set_timer(c, a->hold_s);
		c->timing = true;
		return true;
	}
	sent = send_some(c, a->wire, a->n);
	if (sent == (ssize_t)a->n)
		return true;
	if (sent == -1) {
		client_close(c);
		return false;
	}
	keep_answer(c, a->wire + sent, a->n - (size_t)sent, WRITING);
	return write_kept(c);
}

/* ---- requests ---- */

static void
on_decided(void *arg, const struct answer *a)
{
	struct client *c = arg;

	c->check = NULL;
	c->state = READING;
	if (deliver(c, a))
		process(c);
}

/* Judge one request.  false: the client is closed. */
static bool
ask(struct client *c, const struct request *r)
{
	struct server *s = c->server;

	s->requests++;
	c->check = decide(s->policy, r, ev_now(s->loop), &s->answer,
	    on_decided, c);
	if (c->check == NULL)
		return deliver(c, &s->answer);
	c->state = ASKING;
	return true;
}

/* The peer sent no more and everything is answered. */
static void
finish(struct client *c)
{
	if (c->len > 0 && !c->server->draining)
		client_refuse(c, "it ended within a request");
	else
		client_close(c);
}

/* Answer what is in the buffer, until an answer, or who asks, has to wait. */
static void
process(struct client *c)
{
	struct request r;
	size_t used;
	const char *why;
	bool answered;
	int turn = 0;

	while (c->state == READING && c->at < c->len &&
	    turn++ < REQUESTS_A_TURN) {
		enum request_status status = request_parse(&r, c->buf + c->at,
		    c->len - c->at, &c->scanned, &used, &why);

		if (status == REQUEST_BAD) {
			client_refuse(c, why);
			return;
		}
		if (status == REQUEST_MORE)
			break;
		c->at += used;
		if (!ask(c, &r))
			return;
	}
	if (c->state == READING && turn > REQUESTS_A_TURN)
		queue(c);
	if (c->state == ASKING || c->queued != NULL) {
		rearm(c);
		return;
	}
	answered = c->at > 0;
	if (answered && c->at < c->len)
		memmove(c->buf, c->buf + c->at, c->len - c->at);
	c->len -= c->at;
	c->at = 0;
	if (c->len == 0)
		release_buffer(c);
	if (answered && c->state == READING && c->timing) {
		/* What follows is another request, with its own time. */
		ev_timer_stop(c->server->loop, &c->timer);
		c->timing = false;
	}
	if (c->state == READING && (c->eof || c->server->draining))
		finish(c);
	else
		rearm(c);
}

/* Did the peer close both ways?  Then nobody is there to take an answer. */
static bool
is_gone(const struct client *c)
{
	struct pollfd p = {.fd = c->io.fd};

	return poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR)) != 0;
}

static void
read_more(struct client *c)
{
	ssize_t n;

	switch (make_room(c)) {
	case ROOM:
		break;
	case ROOM_FULL:
		process(c); /* which may go on now that nothing is held back */
		return;
	case ROOM_NO_MEMORY:
		client_refuse(c, "there is no memory for its request");
		return;
	}
	n = recv(c->io.fd, c->buf + c->len, c->cap - c->len, MSG_DONTWAIT);
	if (n > 0) {
		c->len += (size_t)n;
		c->active = ev_now(c->server->loop);
	} else if (n == 0) {
		c->eof = true;
	} else if (errno != EAGAIN && errno != EINTR) {
		client_close(c);
		return;
	}
	if (c->len == 0)
		release_buffer(c);
	if (c->eof && (c->state == HOLDING || c->state == ASKING) && is_gone(c))
		client_close(c);
	else
		process(c);
}

static void
on_io(struct ev_loop *loop, ev_io *w, int events)
{
	struct client *c = w->data;

	(void)loop;
	if (events & EV_ERROR) { /* libev lets go of it */
		client_refuse(c, "epoll does not take it");
		return;
	}
	if (c->queued != NULL)
		return;
	if (events & EV_WRITE) {
		if (write_kept(c))
			process(c);
		return;
	}
	read_more(c);
}

static void
on_timer(struct ev_loop *loop, ev_timer *w, int events)
{
	struct client *c = w->data;
	double idle_s = c->server->config->policyd.idle_timeout_s;
	double left_s = c->active + idle_s - ev_now(loop);

	(void)events;
	switch (c->state) {
	case ASKING:
		return;
	case HOLDING:
		if (write_kept(c))
			process(c);
		return;
	case WRITING:
		client_refuse(c, "it does not read its answer");
		return;
	case READING:
		if (c->timing)
			client_refuse(c, "its request takes too long");
		else if (idle_s > 0 && left_s <= 0)
			client_close(c);
		else if (idle_s > 0) /* more, if the clock was set back */
			set_timer(c, left_s < idle_s ? left_s : idle_s);
		return;
	}
}

bool
client_new(struct server *s, int fd)
{
	struct client *c = mem_try(NULL, sizeof(*c));

	if (c == NULL)
		return false;
	*c = (struct client){.server = s};
	c->next = s->clients;
	c->link = &s->clients;
	if (c->next != NULL)
		c->next->link = &c->next;
	s->clients = c;
	s->count++;
	s->accepted++;
	c->active = ev_now(s->loop);
	ev_io_init(&c->io, on_io, fd, EV_READ);
	ev_timer_init(&c->timer, on_timer, 0, 0);
	c->io.data = c->timer.data = c;
	rearm(c);
	return true;
}

/* ---- all of them ---- */

bool
server_is_full(const struct server *s)
{
	return s->count >= s->config->policyd.max_clients;
}

struct server *
server_new(struct ev_loop *loop, const struct config *config,
    struct policy *policy, void (*room)(void *arg), void *arg)
{
	struct server *s = mem_zalloc(sizeof(*s));

	s->loop = loop;
	s->config = config;
	s->policy = policy;
	s->room = room;
	s->room_arg = arg;
	ev_prepare_init(&s->turn, on_turn);
	ev_idle_init(&s->busy, on_idle);
	s->turn.data = s;
	return s;
}

/* It will have no other answer.  false: the client is closed. */
static bool
give_up(struct client *c)
{
	struct check *check = c->check;

	c->check = NULL;
	c->state = READING;
	decide_give_up(check, &c->server->answer);
	return deliver(c, &c->server->answer);
}

void
server_free(struct server *s)
{
	if (s == NULL)
		return;
	s->draining = true;
	for (struct client *c = s->clients, *next; c != NULL; c = next) {
		next = c->next;
		if (c->check == NULL || give_up(c))
			client_close(c);
	}
	ev_prepare_stop(s->loop, &s->turn);
	ev_idle_stop(s->loop, &s->busy);
	while (s->spares > 0)
		free(s->spare[--s->spares]);
	free(s);
}

void
server_reconfigure(struct server *s, const struct config *config)
{
	s->config = config;
}

void
server_drain(struct server *s)
{
	s->draining = true;
	for (struct client *c = s->clients, *next; c != NULL; c = next) {
		next = c->next;
		if (c->state == HOLDING && !write_kept(c))
			continue;
		if (c->state == READING)
			read_more(c);
		else
			rearm(c);
	}
	if (s->count == 0)
		ev_break(s->loop, EVBREAK_ALL);
}
