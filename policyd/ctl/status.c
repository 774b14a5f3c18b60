/*
 * status - how is the daemon?  Asks its control socket; never PostgreSQL.
 *
 * What there is to tell comes with its kind, unit and meaning
 * (net/control.h), so that nothing of it is known here.
 */

#include "base/mem.h"
#include "base/number.h"
#include "base/str.h"
#include "config/config.h"
#include "ctl/ctl.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER_MAX_BYTES = 65536, WAIT_S = 10 };

/* One line of the answer, cut at its tabs. */
struct value {
	struct str name, kind, unit, value, help;
};

/* ---- asking ---- */

static void
complain(const char *path, int error)
{
	const char *hint = NULL;

	if (error == EACCES || error == EPERM || error == ECONNRESET)
		hint = "The daemon answers root and its own user alone.";
	else if (error == ENOENT || error == ECONNREFUSED)
		hint = "It does not run, or with another [policyd] control.";
	ctl_complain(hint, "policyd does not answer at %s: %s", path,
	    error == ECONNRESET ? "it closed the connection" :
		error == EAGAIN ? "it takes too long" : strerror(error));
}

/* -1 with errno; ECONNRESET, too, where nothing whole came back. */
static ssize_t
ask(int fd, const char *path, char *buf, size_t cap)
{
	static const char request[] = "status\n", end[] = "\nend\n";
	const struct timeval wait = {.tv_sec = WAIT_S};
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	size_t n = 0;
	ssize_t got;

	if (strlen(path) >= sizeof(sun.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(sun.sun_path, path, strlen(path) + 1);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
	if (connect(fd, (const struct sockaddr *)&sun, sizeof(sun)) == -1)
		return -1;
	if (send(fd, request, strlen(request), MSG_NOSIGNAL) == -1) {
		if (errno == EPIPE)
			errno = ECONNRESET;
		return -1;
	}
	while (n < cap && (got = recv(fd, buf + n, cap - n, 0)) != 0) {
		if (got == -1)
			return -1;
		n += (size_t)got;
	}
	if (n < strlen(end) ||
	    memcmp(buf + n - strlen(end), end, strlen(end)) != 0) {
		errno = ECONNRESET;
		return -1;
	}
	return (ssize_t)n;
}

/* ---- telling ---- */

static struct str
cut(struct str *rest, char at)
{
	const char *p = memchr(rest->p, at, rest->n);
	struct str s = *rest;

	if (p == NULL) {
		*rest = (struct str){rest->p + rest->n, 0};
		return s;
	}
	s.n = (size_t)(p - s.p);
	*rest = str_from(*rest, s.n + 1);
	return s;
}

static struct value
cut_value(struct str line)
{
	struct value v;

	v.name = cut(&line, '\t');
	v.kind = cut(&line, '\t');
	v.unit = cut(&line, '\t');
	v.value = cut(&line, '\t');
	v.help = line;
	return v;
}

static bool
is_problem(const struct value *v)
{
	return str_eq(v->name, STR("problem"));
}

/* The values alone have all of their fields. */
static bool
is_value(const struct value *v)
{
	return v->help.n > 0;
}

static int
width(struct str s)
{
	return (int)s.n;
}

/* 93784 -> 1d 02:03:04 */
static void
add_duration(struct sbuf *b, int64_t s)
{
	if (s >= 86400)
		sbuf_addf(b, "%lldd ", (long long)(s / 86400));
	sbuf_addf(b, "%02d:%02d:%02d", (int)(s / 3600 % 24),
	    (int)(s / 60 % 60), (int)(s % 60));
}

static void
add_bytes(struct sbuf *b, int64_t n)
{
	static const char *const units[] = {"bytes", "kB", "MB", "GB"};
	double d = (double)n;
	int i = 0;

	for (; d >= 1000 && i < 3; i++)
		d /= 1000;
	sbuf_addf(b, "%.*f %s", i == 0 ? 0 : 1, d, units[i]);
}

static void
add_time(struct sbuf *b, int64_t s)
{
	time_t t = (time_t)s;
	struct tm tm;
	char text[32];

	if (s == 0 || localtime_r(&t, &tm) == NULL ||
	    strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm) == 0)
		sbuf_add(b, STR("never"));
	else
		sbuf_add(b, str_of(text));
}

/* As people read it. */
static void
add_value(struct sbuf *b, const struct value *v)
{
	int64_t n;

	if (number_parse(v->value, &n) == -1)
		sbuf_add(b, str_eq(v->value, STR("-1")) ? STR("?") : v->value);
	else if (str_eq(v->kind, STR("yesno")))
		sbuf_add(b, n != 0 ? STR("yes") : STR("no"));
	else if (str_eq(v->kind, STR("time")))
		add_time(b, n);
	else if (str_eq(v->unit, STR("seconds")))
		add_duration(b, n);
	else if (str_eq(v->unit, STR("bytes")))
		add_bytes(b, n);
	else
		sbuf_add(b, v->value);
}

static void
print_value(const struct value *v)
{
	char buf[128];
	struct sbuf b = sbuf_over(buf, sizeof(buf));

	add_value(&b, v);
	printf("%-28.*s %-19s  %.*s\n", width(v->name), v->name.p, buf,
	    width(v->help), v->help.p);
}

static void
print_people(struct str all, bool well)
{
	struct str rest = all;

	printf("%s\n", well ? "well" : "degraded");
	while (rest.n > 0) {
		struct value v = cut_value(cut(&rest, '\n'));

		if (is_problem(&v))
			printf("  %.*s\n", width(v.kind), v.kind.p);
	}
	putchar('\n');
	while (all.n > 0) {
		struct value v = cut_value(cut(&all, '\n'));

		if (is_value(&v))
			print_value(&v);
	}
}

/* The daemon's texts have nothing in them that JSON would have escaped. */
static void
print_json_value(const struct value *v)
{
	bool text = str_eq(v->kind, STR("text"));
	bool yesno = str_eq(v->kind, STR("yesno"));
	bool none = str_eq(v->value, STR("-1")) ||
	    (str_eq(v->kind, STR("time")) && str_eq(v->value, STR("0")));

	printf(",\n\"%.*s\": ", width(v->name), v->name.p);
	if (text)
		printf("\"%.*s\"", width(v->value), v->value.p);
	else if (none)
		printf("null");
	else if (yesno)
		printf("%s", str_eq(v->value, STR("0")) ? "false" : "true");
	else
		printf("%.*s", width(v->value), v->value.p);
}

static void
print_programs(struct str all, bool well)
{
	struct str rest = all;
	const char *comma = "";

	printf("{\"state\": \"%s\",\n\"problems\": [",
	    well ? "well" : "degraded");
	while (rest.n > 0) {
		struct value v = cut_value(cut(&rest, '\n'));

		if (!is_problem(&v))
			continue;
		printf("%s\"%.*s\"", comma, width(v.kind), v.kind.p);
		comma = ", ";
	}
	putchar(']');
	while (all.n > 0) {
		struct value v = cut_value(cut(&all, '\n'));

		if (is_value(&v))
			print_json_value(&v);
	}
	puts("\n}");
}

static enum ctl_status
print(const struct ctl *ctl, struct str all)
{
	struct str rest = all;
	struct value first = cut_value(cut(&rest, '\n'));
	bool well = !is_problem(&first);

	if (ctl->json)
		print_programs(all, well);
	else
		print_people(all, well);
	return well ? CTL_YES : CTL_NO;
}

enum ctl_status
daemon_status(struct ctl *ctl, const struct table *table,
    const struct values *values)
{
	struct config *config = ctl_config(ctl);
	enum ctl_status status = CTL_NO;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char *buf;
	ssize_t n;

	(void)table, (void)values;
	if (config == NULL) {
		close(fd);
		return CTL_NO;
	}
	buf = mem_alloc(ANSWER_MAX_BYTES);
	n = ask(fd, config->policyd.control, buf, ANSWER_MAX_BYTES);
	if (n == -1)
		complain(config->policyd.control, errno);
	else
		status = print(ctl, (struct str){buf, (size_t)n});
	close(fd);
	free(buf);
	config_free(config);
	return status;
}
