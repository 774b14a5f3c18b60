#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* Of log_allowed(). */
static const double PERIOD_S = 60;

static enum log_target log_target = LOG_TO_STDERR;
static int log_level = LOG_INFO;
static int syslog_fd = -1;
static uint64_t lost;

void
log_init(enum log_target target, int level)
{
	log_target = target;
	log_level = level;
	if (target == LOG_TO_STDERR && syslog_fd != -1) {
		close(syslog_fd);
		syslog_fd = -1;
	}
}

bool
log_wants(int level)
{
	return level <= log_level;
}

/*
 * stderr may be a pipe that somebody else reads: O_NONBLOCK would change it
 * for all who share it, so ask first.  A pipe that polls writable takes
 * PIPE_BUF (4096) bytes without blocking (pipe(7)).
 */
static bool
write_stderr(struct str line)
{
	struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};

	if (poll(&p, 1, 0) != 1 || (p.revents & POLLOUT) == 0)
		return false;
	return write(STDERR_FILENO, line.p, line.n) == (ssize_t)line.n;
}

/* As syslog(3) writes it, but without waiting for a syslogd that is stuck. */
static bool
write_syslog(struct str line)
{
	static const struct sockaddr_un to = {AF_UNIX, "/dev/log"};

	for (int tries = 0; tries < 2; tries++) {
		if (syslog_fd == -1) {
			syslog_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
			if (syslog_fd == -1)
				return false;
			if (connect(syslog_fd, (const struct sockaddr *)&to,
				sizeof(to)) == -1)
				goto reopen;
		}
		if (send(syslog_fd, line.p, line.n,
			MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)line.n)
			return true;
		if (errno == EAGAIN)
			return false;
	reopen:
		close(syslog_fd);
		syslog_fd = -1;
	}
	return false;
}

static bool
write_line(int level, struct str text)
{
	char buf[4096];
	struct sbuf b = sbuf_over(buf, sizeof(buf));

	if (log_target == LOG_TO_STDERR) {
		sbuf_addf(&b, "<%d>", level);
		sbuf_add(&b, text);
		if (b.full)
			b.n--;
		sbuf_addc(&b, '\n');
		return write_stderr(sbuf_str(&b));
	} else {
		char stamp[32];
		time_t now = time(NULL);
		struct tm tm;

		localtime_r(&now, &tm);
		strftime(stamp, sizeof(stamp), "%b %e %H:%M:%S", &tm);
		sbuf_addf(&b, "<%d>%s policyd[%d]: ", LOG_MAIL | level, stamp,
		    (int)getpid());
		sbuf_add(&b, text);
		return write_syslog(sbuf_str(&b));
	}
}

static void
emit(int level, struct str text)
{
	if (lost > 0) {
		char buf[80];
		struct sbuf b = sbuf_over(buf, sizeof(buf));

		sbuf_addf(&b, "level=warning msg=\"log lines lost\" count=%llu",
		    (unsigned long long)lost);
		if (!write_line(LOG_WARNING, sbuf_str(&b))) {
			lost++;
			return;
		}
		lost = 0;
	}
	if (!write_line(level, text))
		lost++;
}

static const char *
level_name(int level)
{
	static const char *const names[] = {"emerg", "alert", "crit", "error",
	    "warning", "notice", "info", "debug"};

	return names[level & 7];
}

static bool
is_plain(struct str s)
{
	if (s.n == 0)
		return false;
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];

		if (c <= ' ' || c >= 0x7f || c == '"' || c == '=' || c == '\\')
			return false;
	}
	return true;
}

static void
add_quoted(struct sbuf *b, struct str s)
{
	sbuf_addc(b, '"');
	for (size_t i = 0, len; i < s.n; i += len) {
		len = utf8_printable_len(s.p + i, s.n - i);
		if (len == 0) {
			sbuf_addf(b, "\\x%02x", (unsigned char)s.p[i]);
			len = 1;
			continue;
		}
		if (s.p[i] == '"' || s.p[i] == '\\')
			sbuf_addc(b, '\\');
		sbuf_add(b, (struct str){s.p + i, len});
	}
	sbuf_addc(b, '"');
}

static void
add_pair(struct sbuf *b, const char *key, struct str value)
{
	/* One value may not crowd out all that follows it. */
	enum { VALUE_MAX_BYTES = 600 };

	sbuf_addf(b, " %s=", key);
	if (value.n > VALUE_MAX_BYTES)
		value.n = VALUE_MAX_BYTES;
	if (is_plain(value))
		sbuf_add(b, value);
	else
		add_quoted(b, value);
}

void
log_begin(struct log_entry *e, int level, const char *what)
{
	e->level = level;
	e->wanted = log_wants(level);
	if (!e->wanted)
		return;
	e->text = sbuf_over(e->buf, sizeof(e->buf) - 80);
	sbuf_addf(&e->text, "level=%s msg=", level_name(level));
	add_quoted(&e->text, str_of(what));
}

void
log_str(struct log_entry *e, const char *key, struct str value)
{
	if (e->wanted)
		add_pair(&e->text, key, value);
}

void
log_int(struct log_entry *e, const char *key, int64_t value)
{
	if (e->wanted)
		sbuf_addf(&e->text, " %s=%lld", key, (long long)value);
}

void
log_real(struct log_entry *e, const char *key, double value)
{
	if (e->wanted)
		sbuf_addf(&e->text, " %s=%.3f", key, value);
}

void
log_end(struct log_entry *e)
{
	if (e->wanted)
		emit(e->level, sbuf_str(&e->text));
}

void
log_line(int level, const char *fmt, ...)
{
	struct log_entry e;
	char what[2048];
	va_list ap;

	if (!log_wants(level))
		return;
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	log_begin(&e, level, what);
	log_end(&e);
}

bool
log_allowed(struct log_limit *limit, double now_s, uint64_t *suppressed)
{
	/* Further away than that: somebody set the clock back. */
	if (now_s < limit->next_s && now_s >= limit->next_s - PERIOD_S) {
		limit->suppressed++;
		return false;
	}
	*suppressed = limit->suppressed;
	limit->suppressed = 0;
	limit->next_s = now_s + PERIOD_S;
	return true;
}
