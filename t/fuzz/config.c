#include "config/config.h"

#include "base/mem.h"
#include "mail/action.h"

#include "fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

/*
 * The bytes of policyd.ini: every failure is a line that names the file, and
 * most name a line of it, without which there is one mistake less; what loads
 * in the end is within the bounds of the option table, is what it must be to
 * be used, and loads as the same when it is written out again.
 */

/* A section, and its texts, numbers, durations, and choices of so many names. */
#define OPTIONS(S, T, N, D, C)                                               \
	S(policyd)                                                           \
	T(policyd, listen) T(policyd, socket_group) T(policyd, user)         \
	T(policyd, control) T(policyd, state_dir) N(policyd, max_clients)    \
	D(policyd, idle_timeout) D(policyd, request_timeout)                 \
	S(database)                                                          \
	T(database, conninfo) T(database, listen_conninfo)                   \
	N(database, connections) N(database, script_connections)             \
	D(database, query_timeout) D(database, reconnect_max)                \
	C(database, prepared, 2)                                             \
	S(rcpt)                                                              \
	T(rcpt, script) T(rcpt, recipient_delimiter)                         \
	N(rcpt, max_recipients) N(rcpt, errors_total) D(rcpt, errors_wait)   \
	C(rcpt, relay, 3) C(rcpt, fold_local_part, 2)                        \
	S(lookup)                                                            \
	T(lookup, domains) T(lookup, addresses) D(lookup, refresh)           \
	C(lookup, vrfy, 3) C(lookup, expn, 3)                                \
	S(greylist)                                                          \
	N(greylist, ipv4_prefix) N(greylist, ipv6_prefix)                    \
	N(greylist, auto_allow_after) N(greylist, cache_entries)             \
	D(greylist, delay) D(greylist, retry_window) D(greylist, max_age)    \
	C(greylist, enabled, 2) C(greylist, pools, 2) C(greylist, header, 2) \
	S(metrics)                                                           \
	T(metrics, listen)                                                   \
	S(log)                                                               \
	C(log, target, 2) C(log, level, 8) C(log, decisions, 3)

#define NO_SECTION(section)
#define NO_KEY(section, key)
#define NO_NAMES(section, key, names)

struct bounds {
	char name[64]; /* section.key */
	double least, most;
};

static struct bounds bounds[100];
static size_t bounds_count;

/* ---- the option table, as policyd --options prints it ---- */

static void
read_bounds(void)
{
	char *text = NULL, *rest, *line;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	config_print_options(f);
	fclose(f);
	for (rest = text; (line = strsep(&rest, "\n")) != NULL && *line;) {
		struct bounds *b = &bounds[bounds_count++];
		const char *section = strsep(&line, "\t");
		const char *key = strsep(&line, "\t");

		CHECK(bounds_count < sizeof(bounds) / sizeof(bounds[0]));
		snprintf(b->name, sizeof(b->name), "%s.%s", section, key);
		strsep(&line, "\t"); /* its default */
		strsep(&line, "\t"); /* its kind */
		b->least = strtod(strsep(&line, "\t"), NULL);
		b->most = strtod(line, NULL);
	}
	free(text);
}

static void
check_bounds(const char *name, double v)
{
	size_t i = 0;

	while (i < bounds_count && strcmp(bounds[i].name, name) != 0)
		i++;
	CHECK(i < bounds_count);
	CHECK(v >= bounds[i].least && v <= bounds[i].most);
}

/* ---- what loaded ---- */

static void
check_endpoints(const char *text)
{
	struct str rest = str_of(text);
	struct endpoint e;
	const char *why;
	int count = 0, rc;

	while ((rc = endpoint_next(&rest, &e, &why)) == 0) {
		if (e.is_unix)
			CHECK(e.path[0] == '/');
		else
			CHECK(e.host[0] != '\0' && atoi(e.port) > 0 &&
			    atoi(e.port) < 65536);
		count++;
	}
	CHECK(rc == 1 && count > 0);
}

static void
check_texts(const struct config *c)
{
	struct str part;

	check_endpoints(c->policyd.listen);
	CHECK(c->policyd.control[0] == '/' && c->policyd.state_dir[0] == '/');
	CHECK(strlen(c->policyd.control) < sizeof(((struct endpoint *)0)->path));
	CHECK(strlen(c->rcpt.script) <= 63);
	for (int i = 0; i < REPLIES; i++)
		CHECK(action_error(str_of(c->reply[i]), &part) == NULL ||
		    (i == REPLY_unavailable &&
			strcasecmp(c->reply[i], "close") == 0));
}

static void
check_config(const struct config *c)
{
#define N(section, key) check_bounds(#section "." #key, (double)c->section.key);
#define D(section, key) check_bounds(#section "." #key, c->section.key##_s);
#define C(section, key, names) \
	CHECK(c->section.key >= 0 && c->section.key < (names));
	OPTIONS(NO_SECTION, NO_KEY, N, D, C)
#undef N
#undef D
#undef C
	CHECK(c->policyd.socket_mode >= 0 && c->policyd.socket_mode <= 0777);
	CHECK(c->greylist.retry_window_s > c->greylist.delay_s);
	CHECK(c->policyd.idle_timeout_s <= 0 ||
	    c->policyd.idle_timeout_s > 1000);
	check_texts(c);
}

/* But for choices, which are written by name. */
static void
check_same(const struct config *a, const struct config *b)
{
#define T(section, key) CHECK(strcmp(a->section.key, b->section.key) == 0);
#define N(section, key) CHECK(a->section.key == b->section.key);
#define D(section, key) \
	CHECK(!(a->section.key##_s < b->section.key##_s) && \
	    !(a->section.key##_s > b->section.key##_s));
	OPTIONS(NO_SECTION, T, N, D, NO_NAMES)
#undef T
#undef N
#undef D
	for (int i = 0; i < REPLIES; i++)
		CHECK(strcmp(a->reply[i], b->reply[i]) == 0);
}

/* ---- files ---- */

/* It is one line that names the file; a key that it names stands in its line. */
static void
check_error(const char *path, const char *line)
{
	static const struct str keyless = STR_INIT(": a NUL byte");
	size_t n = strlen(line);

	CHECK(strncmp(line, path, strlen(path)) == 0);
	CHECK(line[strlen(path)] == ':');
	CHECK(strchr(line, '\n') == NULL);
	CHECK(strchr(line, ']') == NULL || n < keyless.n ||
	    strcmp(line + n - keyless.n, keyless.p) != 0);
}

static struct config *
load(const char *text, size_t n, struct config_errors *errors)
{
	char path[64];
	struct config *c;
	int fd = memfd_create("policyd.ini", MFD_CLOEXEC);

	CHECK(fd != -1 && write(fd, text, n) == (ssize_t)n);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	c = config_load(path, errors);
	CHECK((c == NULL) == (errors->count > 0));
	for (size_t i = 0; i < errors->count; i++)
		check_error(path, errors->text[i]);
	close(fd);
	return c;
}

/* Within quotes there is no way to write one, nor a line that ends in '\'. */
static bool
write_text(FILE *f, const char *key, const char *value)
{
	fprintf(f, "%s = \"%s\"\n", key, value);
	return strpbrk(value, "\"\\") == NULL;
}

static bool
write_out(const struct config *c, FILE *f)
{
	bool good = true;

#define S(section) fprintf(f, "[%s]\n", #section);
#define T(section, key) good = write_text(f, #key, c->section.key) && good;
#define N(section, key) \
	fprintf(f, "%s = %lld\n", #key, (long long)c->section.key);
#define D(section, key) \
	fprintf(f, "%s = %.0fms\n", #key, c->section.key##_s * 1000);
	OPTIONS(S, T, N, D, NO_NAMES)
#undef S
#undef T
#undef N
#undef D
	fprintf(f, "[reply]\n");
	for (int i = 0; i < REPLIES; i++)
		good = write_text(f, reply_key((enum reply_name)i).p,
			   c->reply[i]) && good;
	return good;
}

static void
check_again(const struct config *c)
{
	struct config_errors errors = {0};
	struct config *again;
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);
	bool good = write_out(c, f);

	fclose(f);
	if (good) {
		again = load(text, size, &errors);
		if (again == NULL)
			fprintf(stderr, "%s\n%s\n", text, errors.text[0]);
		CHECK(again != NULL);
		check_same(c, again);
		config_free(again);
	}
	config_errors_free(&errors);
	free(text);
}

/* The bytes of a line, counted from 1. */
static char *
find_line(char *text, size_t n, long line, size_t *len)
{
	char *end = text + n, *lf;

	while (--line > 0) {
		text = memchr(text, '\n', (size_t)(end - text));
		CHECK(text != NULL);
		text++;
	}
	lf = memchr(text, '\n', (size_t)(end - text));
	*len = (size_t)((lf != NULL ? lf : end) - text);
	return text;
}

/* Blank each line that an error names; how many did. */
static size_t
blank(char *text, size_t n, const struct config_errors *errors)
{
	size_t named = 0, len;

	for (int blanking = 0; blanking <= 1; blanking++)
		for (size_t i = 0; i < errors->count; i++) {
			const char *colon = strchr(errors->text[i], ':');
			long line = strtol(colon + 1, NULL, 10);
			char *at;

			if (line == 0)
				continue;
			at = find_line(text, n, line, &len);
			if (blanking)
				memset(at, ' ', len);
			else
				CHECK(str_trim((struct str){at, len}).n > 0);
			named += blanking ? 1 : 0;
		}
	return named;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	enum { ROUNDS = 8 };
	char *text = memcpy(mem_alloc(n), data, n);
	struct config *c = NULL;
	size_t named = 1;

	if (bounds_count == 0)
		read_bounds();
	for (int i = 0; c == NULL && named > 0 && i < ROUNDS; i++) {
		struct config_errors errors = {0};

		c = load(text, n, &errors);
		named = blank(text, n, &errors);
		config_errors_free(&errors);
	}
	if (c != NULL) {
		check_config(c);
		check_again(c);
	}
	config_free(c);
	free(text);
	return 0;
}
