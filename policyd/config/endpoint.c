#include "config/config.h"

#include "base/number.h"

static int
wrong(const char **why, const char *what)
{
	*why = what;
	return -1;
}

static int
parse_unix(struct str path, struct endpoint *out, const char **why)
{
	if (path.n == 0 || path.p[0] != '/')
		return wrong(why, "unix: takes an absolute path");
	if (path.n >= sizeof(out->path))
		return wrong(why, "a socket's path has at most 107 bytes");
	memcpy(out->path, path.p, path.n);
	out->path[path.n] = '\0';
	out->is_unix = true;
	return 0;
}

static int
parse_inet(struct str s, struct endpoint *out, const char **why)
{
	const char *colon = memrchr(s.p, ':', s.n);
	struct str host, port;
	int64_t number;

	if (colon == NULL)
		return wrong(why, "inet: takes HOST:PORT or [V6]:PORT");
	host = (struct str){s.p, (size_t)(colon - s.p)};
	port = str_from(s, host.n + 1);
	if (host.n > 1 && host.p[0] == '[' && host.p[host.n - 1] == ']')
		host = (struct str){host.p + 1, host.n - 2};
	else if (memchr(host.p, ':', host.n) != NULL)
		return wrong(why, "an IPv6 address stands in brackets");
	if (host.n == 0 || host.n >= sizeof(out->host))
		return wrong(why, "inet: takes HOST:PORT or [V6]:PORT");
	if (number_parse(port, &number) == -1 || number < 1 || number > 65535 ||
	    port.n >= sizeof(out->port))
		return wrong(why, "a port is a number from 1 to 65535");
	memcpy(out->host, host.p, host.n);
	out->host[host.n] = '\0';
	memcpy(out->port, port.p, port.n);
	out->port[port.n] = '\0';
	return 0;
}

int
endpoint_next(struct str *rest, struct endpoint *out, const char **why)
{
	static const struct str u = STR_INIT("unix:"), i = STR_INIT("inet:");
	struct str word = str_word(rest);

	memset(out, 0, sizeof(*out));
	if (word.n == 0)
		return 1;
	if (word.n >= u.n && memcmp(word.p, u.p, u.n) == 0)
		return parse_unix(str_from(word, u.n), out, why);
	if (word.n >= i.n && memcmp(word.p, i.p, i.n) == 0)
		return parse_inet(str_from(word, i.n), out, why);
	return wrong(why, "unix:PATH, inet:HOST:PORT or inet:[V6]:PORT");
}
