#include "net/listener.h"

#include "base/log.h"
#include "base/mem.h"
#include "config/config.h"
#include "net/door.h"
#include "net/server.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

enum {
	BACKLOG = 1024,
	ACCEPTS_MAX = 64, /* a turn of the loop, then others have theirs */
};

/* Out of descriptors: others may close some meanwhile. */
static const double PAUSE_S = 1;

struct listener {
	struct listeners *all;
	struct listener *next;
	ev_io io;
	struct endpoint at;
	bool inherited; /* systemd's */
	bool wanted;    /* by the config prepared last */
	bool fresh;     /* made for it */
	struct door door; /* unix: what was made */
};

struct listeners {
	struct ev_loop *loop;
	struct server *server; /* NULL: not accepting */
	struct listener *first;
	ev_timer pause;
	struct log_limit limit;
};

static void
log_failure(const struct endpoint *at, const char *what, const char *why)
{
	struct log_entry e;

	log_begin(&e, LOG_ERR, what);
	if (at->is_unix) {
		log_str(&e, "path", str_of(at->path));
	} else {
		log_str(&e, "host", str_of(at->host));
		log_str(&e, "port", str_of(at->port));
	}
	log_str(&e, "error", str_of(why));
	log_end(&e);
}

/* ---- which are watched ---- */

static void
rearm(struct listeners *all)
{
	bool accepting = all->server != NULL && !ev_is_active(&all->pause) &&
	    !server_is_full(all->server);

	for (struct listener *l = all->first; l != NULL; l = l->next)
		if (accepting)
			ev_io_start(all->loop, &l->io);
		else
			ev_io_stop(all->loop, &l->io);
}

static void
on_pause_end(struct ev_loop *loop, ev_timer *w, int events)
{
	(void)loop;
	(void)events;
	rearm(w->data);
}

/* Of these, or of what the kernel keeps about them. */
static void
out_of_descriptors(struct listeners *all, int error)
{
	uint64_t suppressed;

	if (log_allowed(&all->limit, ev_now(all->loop), &suppressed))
		log_line(LOG_ERR, "no connection can be accepted: %s",
		    strerror(error));
	ev_timer_set(&all->pause, PAUSE_S, 0);
	ev_timer_start(all->loop, &all->pause);
	rearm(all);
}

/*
 * A host that loses its power, or a firewall that forgets, says nothing: without
 * keep-alive its connections count against max_clients for ever.  Gone after
 * two minutes.
 */
static void
set_up_inet(int fd)
{
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int){60}, sizeof(int));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &(int){10}, sizeof(int));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &(int){6}, sizeof(int));
}

static void
on_connection(struct ev_loop *loop, ev_io *w, int events)
{
	struct listener *l = w->data;
	struct listeners *all = l->all;

	(void)loop;
	if (events & EV_ERROR) { /* epoll did not take it: libev lets it go */
		out_of_descriptors(all, ENOMEM);
		return;
	}
	for (int i = 0; i < ACCEPTS_MAX && !server_is_full(all->server); i++) {
		int fd = accept4(w->fd, NULL, NULL,
		    SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd == -1) {
			if (errno == EMFILE || errno == ENFILE ||
			    errno == ENOBUFS || errno == ENOMEM)
				out_of_descriptors(all, errno);
			return;
		}
		if (!l->at.is_unix)
			set_up_inet(fd);
		if (!client_new(all->server, fd)) {
			close(fd);
			out_of_descriptors(all, ENOMEM);
			return;
		}
	}
	if (server_is_full(all->server))
		rearm(all);
}

static struct listener *
add(struct listeners *all, int fd, const struct endpoint *at)
{
	struct listener *l = mem_zalloc(sizeof(*l));

	l->all = all;
	l->at = *at;
	l->wanted = l->fresh = true;
	ev_io_init(&l->io, on_connection, fd, EV_READ);
	l->io.data = l;
	l->next = all->first;
	all->first = l;
	return l;
}

/* ---- making them ---- */

static bool
is_loopback(const struct sockaddr_storage *sa)
{
	if (sa->ss_family == AF_INET) {
		struct sockaddr_in in;

		memcpy(&in, sa, sizeof(in));
		return ntohl(in.sin_addr.s_addr) >> 24 == 127;
	} else {
		struct sockaddr_in6 in6;

		memcpy(&in6, sa, sizeof(in6));
		return IN6_IS_ADDR_LOOPBACK(&in6.sin6_addr);
	}
}

/* An inet socket has no mode and no group. */
static void
warn_if_open(int fd)
{
	struct sockaddr_storage sa = {0};
	socklen_t n = sizeof(sa);
	char host[NI_MAXHOST], port[NI_MAXSERV];
	struct log_entry e;

	if (getsockname(fd, (struct sockaddr *)&sa, &n) == -1 ||
	    (sa.ss_family != AF_INET && sa.ss_family != AF_INET6) ||
	    is_loopback(&sa) ||
	    getnameinfo((const struct sockaddr *)&sa, n, host, sizeof(host),
		port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		return;
	log_begin(&e, LOG_WARNING,
	    "listening on an address of the network: whoever reaches it may ask");
	log_str(&e, "host", str_of(host));
	log_str(&e, "port", str_of(port));
	log_end(&e);
}

static const char *
open_unix(struct listeners *all, const struct endpoint *at,
    const struct config *config)
{
	struct door door;
	const char *why = door_open(&door, at->path,
	    (mode_t)config->policyd.socket_mode, config->policyd.socket_group);

	if (why == NULL)
		add(all, door.fd, at)->door = door;
	return why;
}

static const char *
open_inet_one(struct listeners *all, const struct endpoint *at,
    const struct addrinfo *ai)
{
	int fd = socket(ai->ai_family,
	    SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd == -1)
		return strerror(errno);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
	if (ai->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){1},
		    sizeof(int));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) == -1 ||
	    listen(fd, BACKLOG) == -1) {
		int error = errno;

		close(fd);
		errno = error;
		return strerror(error);
	}
	warn_if_open(fd);
	add(all, fd, at);
	return NULL;
}

/* Does the list name this address before? */
static bool
is_repeated(const struct addrinfo *list, const struct addrinfo *ai)
{
	for (; list != ai; list = list->ai_next)
		if (list->ai_addrlen == ai->ai_addrlen &&
		    memcmp(list->ai_addr, ai->ai_addr, ai->ai_addrlen) == 0)
			return true;
	return false;
}

/*
 * A name may have addresses that this machine has not, such as that of
 * localhost where there is no IPv6: one that it has will do.
 */
static const char *
open_inet(struct listeners *all, const struct endpoint *at)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
	    .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list;
	int rc = getaddrinfo(at->host, at->port, &hints, &list), opened = 0;
	const char *why = NULL, *lacking = NULL;

	if (rc != 0)
		return rc == EAI_SYSTEM ? strerror(errno) : gai_strerror(rc);
	for (const struct addrinfo *ai = list; ai != NULL && why == NULL;
	     ai = ai->ai_next) {
		if (is_repeated(list, ai))
			continue;
		errno = 0;
		why = open_inet_one(all, at, ai);
		opened += why == NULL;
		if (why != NULL &&
		    (errno == EADDRNOTAVAIL || errno == EAFNOSUPPORT)) {
			lacking = why;
			why = NULL;
		}
	}
	freeaddrinfo(list);
	return why == NULL && opened == 0 ? lacking : why;
}

static bool
is_same(const struct endpoint *a, const struct endpoint *b)
{
	return a->is_unix == b->is_unix && strcmp(a->path, b->path) == 0 &&
	    strcmp(a->host, b->host) == 0 && strcmp(a->port, b->port) == 0;
}

/* Is it there already?  A name may stand for several addresses. */
static bool
keep(struct listeners *all, const struct endpoint *at)
{
	bool found = false;

	for (struct listener *l = all->first; l != NULL; l = l->next)
		if (is_same(&l->at, at))
			found = l->wanted = true;
	return found;
}

static bool
is_made_here(const struct listener *l)
{
	return l->at.is_unix && !l->inherited;
}

static void
close_one(struct listeners *all, struct listener *l)
{
	ev_io_stop(all->loop, &l->io);
	if (is_made_here(l))
		door_close(&l->door, l->at.path);
	else
		close(l->io.fd);
	free(l);
}

/* One that stays, with another config: that may open it to others. */
static void
adjust(const struct listener *l, const struct config *config)
{
	mode_t mode = (mode_t)config->policyd.socket_mode;
	struct stat st;
	const char *why = NULL;

	if (l->fresh || !is_made_here(l) ||
	    !door_is_there(&l->door, l->at.path, &st))
		return;
	if ((st.st_mode & 0777) != mode && chmod(l->at.path, mode) == -1)
		why = strerror(errno);
	if (why == NULL)
		why = door_set_group(l->at.path, config->policyd.socket_group,
		    st.st_gid);
	if (why != NULL)
		log_failure(&l->at, "it keeps its mode and group", why);
}

static void
close_if(struct listeners *all, bool (*test)(const struct listener *l))
{
	for (struct listener **p = &all->first, *l; (l = *p) != NULL;)
		if (test(l)) {
			*p = l->next;
			close_one(all, l);
		} else {
			p = &l->next;
		}
}

static bool
is_fresh(const struct listener *l)
{
	return l->fresh;
}

static bool
is_unwanted(const struct listener *l)
{
	return !l->wanted;
}

static bool
is_any(const struct listener *l)
{
	(void)l;
	return true;
}

/* Sockets that systemd handed over at start. */
static int
inherit(struct listeners *all)
{
	int count = sd_listen_fds(1);

	for (int i = 0; i < count; i++) {
		int fd = SD_LISTEN_FDS_START + i;
		struct endpoint at = {.is_unix =
			sd_is_socket_unix(fd, SOCK_STREAM, 1, NULL, 0) > 0};

		if (sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, 1) <= 0) {
			log_line(LOG_ERR, "descriptor %d is no listening "
					  "stream socket", fd);
			return -1;
		}
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
		warn_if_open(fd);
		add(all, fd, &at)->inherited = true;
	}
	return count > 0;
}

int
listeners_prepare(struct listeners *all, const struct config *config)
{
	struct str rest = str_of(config->policyd.listen);
	struct endpoint at;
	const char *why;

	if (all->first == NULL) {
		int rc = inherit(all);

		if (rc == -1)
			return -1;
	}
	for (struct listener *l = all->first; l != NULL; l = l->next) {
		l->wanted = l->inherited;
		l->fresh = false;
		if (l->inherited)
			rest = STR("");
	}
	while (endpoint_next(&rest, &at, &why) == 0) {
		if (keep(all, &at))
			continue;
		why = at.is_unix ? open_unix(all, &at, config) :
				   open_inet(all, &at);
		if (why != NULL) {
			log_failure(&at, "cannot listen", why);
			close_if(all, is_fresh);
			return -1;
		}
	}
	return 0;
}

void
listeners_commit(struct listeners *all, const struct config *config)
{
	close_if(all, is_unwanted);
	for (const struct listener *l = all->first; l != NULL; l = l->next)
		adjust(l, config);
	rearm(all);
}

struct listeners *
listeners_new(struct ev_loop *loop)
{
	struct listeners *all = mem_zalloc(sizeof(*all));

	all->loop = loop;
	ev_timer_init(&all->pause, on_pause_end, 0, 0);
	all->pause.data = all;
	return all;
}

void
listeners_free(struct listeners *all)
{
	if (all == NULL)
		return;
	ev_timer_stop(all->loop, &all->pause);
	close_if(all, is_any);
	free(all);
}

void
listeners_accept(struct listeners *all, struct server *server)
{
	all->server = server;
	rearm(all);
}

void
listeners_resume(void *listeners)
{
	rearm(listeners);
}

void
listeners_stop(struct listeners *all)
{
	all->server = NULL;
	rearm(all);
}
