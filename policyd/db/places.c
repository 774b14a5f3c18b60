#include "db/places.h"

#include "base/mem.h"
#include "base/str.h"
#include "db/lookup.h"

#include <libpq-fe.h>
#include <netdb.h>
#include <stdlib.h>
#include <sys/socket.h>

/* So long is waited for an answer where an older one would do. */
static const double PATIENCE_S = 1;

struct place {
	char *host, *hostaddr, *port; /* "" where there is none */
	struct lookup *lookup;        /* or NULL: no need */
	struct lookup_waiter waiter;
};

struct places {
	struct ev_loop *loop;
	char *conninfo;
	void (*done)(void *arg);
	void *arg;
	struct place *all;
	size_t n;
	size_t turns;
	bool wants_primary; /* nobody said which of several is meant */
	size_t listed;
	char *host, *hostaddr, *port, *why; /* as last listed */
};

/* ---- what libpq makes of conninfo ---- */

/*
 * It puts everything together, and only then finds that there is no such
 * sslmode: what it would connect to is known, and it did not begin.
 */
static PQconninfoOption *
options_of(const char *conninfo)
{
	static const char *const keys[] = {"dbname", "sslmode", NULL};
	const char *const values[] = {conninfo, "none", NULL};
	PGconn *conn = PQconnectStartParams(keys, values, 1);
	PQconninfoOption *options = PQconninfo(conn);

	PQfinish(conn);
	return options;
}

static const char *
option(const PQconninfoOption *options, const char *keyword)
{
	for (; options != NULL && options->keyword != NULL; options++)
		if (strcmp(options->keyword, keyword) == 0 &&
		    options->val != NULL)
			return options->val;
	return "";
}

/* ---- lists: a,b,c ---- */

static size_t
elements(const char *list)
{
	size_t n = list[0] != '\0' ? 1 : 0;

	for (; *list != '\0'; list++)
		n += *list == ',' ? 1 : 0;
	return n;
}

/* The i-th; of a list of one, that; of none, "". */
static char *
element(const char *list, size_t i)
{
	const char *comma;

	if (elements(list) == 1)
		i = 0;
	for (; i > 0 && (comma = strchr(list, ',')) != NULL; i--)
		list = comma + 1;
	return mem_strndup(list, strcspn(list, ","));
}

/* `a,b,c` becomes `b,c,a`. */
static void
turn(char **list)
{
	char *comma = strchr(*list, ','), *turned;

	if (comma == NULL)
		return;
	turned = mem_printf("%s,%.*s", comma + 1, (int)(comma - *list), *list);
	free(*list);
	*list = turned;
}

static void
append(char **list, const char *what)
{
	char *longer = *list == NULL ? mem_strdup(what) :
				       mem_printf("%s,%s", *list, what);

	free(*list);
	*list = longer;
}

/* ---- where they are ---- */

static bool
is_address(const char *host)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC,
	    .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST};
	struct addrinfo *list = NULL;

	if (getaddrinfo(host, NULL, &hints, &list) != 0)
		return false;
	freeaddrinfo(list);
	return true;
}

static bool
is_name(const struct place *p)
{
	return p->hostaddr[0] == '\0' && p->host[0] != '\0' &&
	    p->host[0] != '/' && p->host[0] != '@' && !is_address(p->host);
}

static void
forget(struct place *p)
{
	if (p->lookup != NULL)
		lookup_put(p->lookup, &p->waiter);
	free(p->host);
	free(p->hostaddr);
	free(p->port);
}

static void
forget_all(struct place *all, size_t n)
{
	for (size_t i = 0; i < n; i++)
		forget(&all[i]);
	free(all);
}

/* Lists that do not fit together are libpq's to complain of. */
static size_t
count_places(const char *host, const char *hostaddr, const char *port)
{
	size_t hosts = elements(host), addresses = elements(hostaddr),
	       ports = elements(port), n = addresses > 0 ? addresses : hosts;

	return (hosts == 0 || hosts == n) && (ports <= 1 || ports == n) ? n : 0;
}

static void
read_places(struct places *p)
{
	PQconninfoOption *options = options_of(p->conninfo);
	const char *host = option(options, "host"),
		   *hostaddr = option(options, "hostaddr"),
		   *port = option(options, "port");

	p->n = count_places(host, hostaddr, port);
	p->all = mem_zalloc((p->n + 1) * sizeof(p->all[0]));
	for (size_t i = 0; i < p->n; i++) {
		struct place *at = &p->all[i];

		at->host = element(host, i);
		at->hostaddr = element(hostaddr, i);
		at->port = element(port, i);
		at->waiter = (struct lookup_waiter){p->done, p->arg, NULL};
		if (is_name(at))
			at->lookup = lookup_get(p->loop, at->host,
			    &at->waiter);
	}
	p->wants_primary = p->n > 1 &&
	    strcmp(option(options, "target_session_attrs"), "any") == 0;
	PQconninfoFree(options);
}

void
places_find(struct places *p)
{
	struct place *old = p->all;
	size_t n = p->n;

	/* The old go last: what both know is not forgotten. */
	read_places(p);
	forget_all(old, n);
	for (size_t i = 0; i < p->n; i++)
		if (p->all[i].lookup != NULL)
			lookup_start(p->all[i].lookup);
}

double
places_wait_s(const struct places *p, double most_s)
{
	bool somewhere = false, awaited = false;
	double left_s = 0;

	for (size_t i = 0; i < p->n; i++) {
		const struct lookup *l = p->all[i].lookup;
		double takes_s = l != NULL ? lookup_takes_s(l) : 0;

		somewhere |= l == NULL || lookup_addresses(l)[0] != NULL;
		awaited |= takes_s > 0;
		if (takes_s > 0 && PATIENCE_S - takes_s > left_s)
			left_s = PATIENCE_S - takes_s;
	}
	return somewhere || !awaited ? left_s : most_s;
}

/* ---- what libpq is told ---- */

void
places_turn(struct places *p)
{
	p->turns++;
}

void
places_in_order(struct places *p)
{
	p->turns = 0;
}

static void
forget_list(struct places *p)
{
	free(p->host);
	free(p->hostaddr);
	free(p->port);
	free(p->why);
	p->host = p->hostaddr = p->port = p->why = NULL;
	p->listed = 0;
}

static void
append_place(struct places *p, const struct place *at, const char *address)
{
	append(&p->host, at->host);
	append(&p->hostaddr, address);
	append(&p->port, at->port);
	p->listed++;
}

static void
list_place(struct places *p, const struct place *at)
{
	const char *const *address;
	const char *error;

	if (at->lookup == NULL) {
		append_place(p, at, at->hostaddr);
		return;
	}
	address = lookup_addresses(at->lookup);
	for (size_t i = 0; address[i] != NULL; i++)
		append_place(p, at, address[i]);
	if (address[0] != NULL)
		return;
	error = lookup_error(at->lookup);
	free(p->why);
	p->why = mem_printf("could not translate host name \"%s\" to address: "
			    "%s", at->host,
	    error != NULL ? error : "the resolver does not answer");
}

const char *
places_list(struct places *p, struct places_list *list)
{
	forget_list(p);
	for (size_t i = 0; i < p->n; i++)
		list_place(p, &p->all[i]);
	for (size_t i = p->listed > 0 ? p->turns % p->listed : 0; i > 0; i--) {
		turn(&p->host);
		turn(&p->hostaddr);
		turn(&p->port);
	}
	*list = (struct places_list){p->host, p->hostaddr, p->port,
	    p->wants_primary ? "read-write" : NULL};
	return p->listed == 0 ? p->why : NULL;
}

/* ---- life ---- */

struct places *
places_new(struct ev_loop *loop, const char *conninfo,
    void (*done)(void *arg), void *arg)
{
	struct places *p = mem_zalloc(sizeof(*p));

	p->loop = loop;
	p->conninfo = mem_strdup(conninfo);
	p->done = done;
	p->arg = arg;
	return p;
}

void
places_free(struct places *p)
{
	forget_all(p->all, p->n);
	forget_list(p);
	free(p->conninfo);
	free(p);
}
