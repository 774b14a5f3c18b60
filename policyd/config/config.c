#include "config/config.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/number.h"
#include "config/ini.h"
#include "mail/action.h"

#include <stdlib.h>

enum kind {
	TEXT,     /* any */
	PATH,     /* absolute */
	LISTEN,   /* endpoints */
	METRICS,  /* HOST:PORT */
	NUMBER,   /* within the bounds */
	SIZE,     /* the same, with k M G */
	DURATION, /* the same, with ms s m h d w; bounds in seconds */
	MODE,     /* octal */
	CHOICE,   /* one of the names: its place among them */
	REPLY,    /* an action with placeholders */
	FUNCTION, /* an SQL name, or nothing */
};

static const char *const kind_names[] = {"text", "path", "listen", "metrics",
    "number", "size", "duration", "mode", "choice", "reply", "function"};

static const char *const no_yes[] = {"no", "yes", NULL};
static const char *const who_may[] = {"no", "authenticated", "yes", NULL};
static const char *const targets[] = {"stderr", "syslog", NULL};
static const char *const decisions[] = {"none", "rejects", "all", NULL};
static const char *const levels[] = {"emerg", "alert", "crit", "error",
    "warning", "notice", "info", "debug", NULL};

struct option {
	const char *section;
	const char *key;
	enum kind kind;
	const char *initial;
	size_t offset;
	double least;
	double most;
	const char *const *names; /* CHOICE */
};

#define OPTION(section, key, kind, initial, ...) \
	{#section, #key, kind, initial, \
	    offsetof(struct config, section.key), __VA_ARGS__}
#define SECONDS(section, key, initial, least, most) \
	{#section, #key, DURATION, initial, \
	    offsetof(struct config, section.key##_s), least, most, NULL}
#define ANSWER(key, initial) \
	{"reply", #key, REPLY, initial, \
	    offsetof(struct config, reply) + \
		REPLY_##key * sizeof(char *), 0, 0, NULL}

#define UNBOUND 0, 0, NULL
#define HOUR 3600.0
#define DAY 86400.0

static const struct option options[] = {
    OPTION(policyd, listen, LISTEN,
	"unix:/var/spool/postfix/policyd/policyd.sock", UNBOUND),
    OPTION(policyd, socket_mode, MODE, "0660", UNBOUND),
    OPTION(policyd, socket_group, TEXT, "postfix", UNBOUND),
    OPTION(policyd, user, TEXT, "policyd", UNBOUND),
    OPTION(policyd, control, PATH, "/run/policyd/control.sock", UNBOUND),
    OPTION(policyd, state_dir, PATH, "/var/lib/policyd", UNBOUND),
    OPTION(policyd, max_clients, SIZE, "4096", 1, 1000000, NULL),
    SECONDS(policyd, idle_timeout, "0", 0, 30 * DAY),
    SECONDS(policyd, request_timeout, "30s", 0.1, HOUR),

    OPTION(database, conninfo, TEXT, "dbname=policyd", UNBOUND),
    OPTION(database, connections, NUMBER, "2", 1, 100, NULL),
    OPTION(database, script_connections, NUMBER, "2", 1, 100, NULL),
    SECONDS(database, query_timeout, "5s", 0.05, 60),
    SECONDS(database, reconnect_max, "15s", 0.1, HOUR),
    OPTION(database, prepared, CHOICE, "yes", 0, 0, no_yes),
    OPTION(database, listen_conninfo, TEXT, "", UNBOUND),

    OPTION(rcpt, relay, CHOICE, "authenticated", 0, 0, who_may),
    OPTION(rcpt, max_recipients, NUMBER, "100", 1, 1000000, NULL),
    OPTION(rcpt, script, FUNCTION, "", UNBOUND),
    OPTION(rcpt, errors_total, NUMBER, "5", 0, 1000, NULL),
    SECONDS(rcpt, errors_wait, "5s", 0, 60),
    OPTION(rcpt, recipient_delimiter, TEXT, "+", UNBOUND),
    OPTION(rcpt, fold_local_part, CHOICE, "yes", 0, 0, no_yes),

    OPTION(lookup, domains, TEXT, "", UNBOUND),
    OPTION(lookup, addresses, TEXT, "", UNBOUND),
    OPTION(lookup, vrfy, CHOICE, "no", 0, 0, who_may),
    OPTION(lookup, expn, CHOICE, "no", 0, 0, who_may),
    SECONDS(lookup, refresh, "10m", 1, 7 * DAY),

    OPTION(greylist, enabled, CHOICE, "yes", 0, 0, no_yes),
    SECONDS(greylist, delay, "1m", 0, DAY),
    SECONDS(greylist, retry_window, "1d", 1, 365 * DAY),
    SECONDS(greylist, max_age, "35d", 1, 3650 * DAY),
    OPTION(greylist, ipv4_prefix, NUMBER, "24", 0, 32, NULL),
    OPTION(greylist, ipv6_prefix, NUMBER, "64", 0, 128, NULL),
    OPTION(greylist, pools, CHOICE, "yes", 0, 0, no_yes),
    OPTION(greylist, auto_allow_after, NUMBER, "1", 0, 1000000, NULL),
    OPTION(greylist, header, CHOICE, "yes", 0, 0, no_yes),
    OPTION(greylist, cache_entries, SIZE, "1000000", 0, 1e9, NULL),

    ANSWER(relay_denied, "550 5.7.1 Relaying denied"),
    ANSWER(unknown_user, "550 5.1.1 User unknown"),
    ANSWER(bad_address, "550 5.1.3 Bad recipient address"),
    ANSWER(too_many_errors, "421 4.7.0 Too many errors, closing connection"),
    ANSWER(too_many_recipients, "452 4.5.3 Too many recipients"),
    ANSWER(greylisted, "DEFER_IF_PERMIT 4.2.0 Greylisted, please try again "
		       "in {seconds} seconds"),
    ANSWER(vrfy_disabled, "502 5.5.1 VRFY is disabled"),
    ANSWER(expn_disabled, "502 5.7.0 EXPN is disabled"),
    ANSWER(unavailable, "DEFER_IF_PERMIT 4.3.0 Temporarily unavailable, "
			"please try again later"),

    OPTION(metrics, listen, METRICS, "", UNBOUND),

    OPTION(log, target, CHOICE, "stderr", 0, 0, targets),
    OPTION(log, level, CHOICE, "info", 0, 0, levels),
    OPTION(log, decisions, CHOICE, "rejects", 0, 0, decisions),
};
enum { OPTIONS = sizeof(options) / sizeof(options[0]) };

static const struct str reply_keys[REPLIES] = {
#define X(name) STR_INIT(#name),
    CONFIG_REPLIES(X)
#undef X
};

struct str
reply_key(enum reply_name name)
{
	return reply_keys[name];
}

static bool
is_text(enum kind kind)
{
	return kind == TEXT || kind == PATH || kind == LISTEN ||
	    kind == METRICS || kind == REPLY || kind == FUNCTION;
}

static void *
field(struct config *c, const struct option *o)
{
	return (char *)c + o->offset;
}

/* ---- one setter a kind: NULL, or what is wrong ---- */

static const char *
check_bounds(const struct option *o, double v)
{
	static char what[80];

	if (v >= o->least && v <= o->most)
		return NULL;
	snprintf(what, sizeof(what), "out of range: %.15g to %.15g%s", o->least,
	    o->most, o->kind == DURATION ? " seconds" : "");
	return what;
}

static const char *
set_number(const struct option *o, struct str text, int64_t *out)
{
	int64_t v = 0;

	if ((o->kind == SIZE ? size_parse : number_parse)(text, &v) == -1)
		return o->kind == SIZE ? "not a size, such as 4096 or 64k" :
					 "not a whole number";
	*out = v;
	return check_bounds(o, (double)v);
}

static const char *
set_duration(const struct option *o, struct str text, double *out)
{
	if (duration_parse(text, out) == -1)
		return "not a duration, such as 500ms, 30s, 10m, 1h, 35d";
	return check_bounds(o, *out);
}

static const char *
set_mode(struct str text, int64_t *out)
{
	int64_t v = 0;

	if (text.n == 0 || text.n > 4)
		return "not a mode, such as 0660";
	for (size_t i = 0; i < text.n; i++) {
		if (text.p[i] < '0' || text.p[i] > '7')
			return "not a mode, such as 0660";
		v = v * 8 + (text.p[i] - '0');
	}
	if (v > 0777)
		return "not a mode, such as 0660";
	*out = v;
	return NULL;
}

static const char *
set_choice(const struct option *o, struct str text, int64_t *out)
{
	static char what[120];
	struct sbuf b = sbuf_over(what, sizeof(what));

	for (int64_t i = 0; o->names[i] != NULL; i++)
		if (str_ieq(str_of(o->names[i]), text)) {
			*out = i;
			return NULL;
		}
	sbuf_addf(&b, "not one of");
	for (int64_t i = 0; o->names[i] != NULL; i++)
		sbuf_addf(&b, "%s %s", i > 0 ? "," : "", o->names[i]);
	return what;
}

/* A typing mistake in a placeholder would be sent to strangers as it is. */
static const char *
check_placeholders(struct str text)
{
	static const struct str known[] = {STR_INIT("recipient"),
	    STR_INIT("domain"), STR_INIT("sender"), STR_INIT("client"),
	    STR_INIT("seconds")};

	for (const char *p; (p = memchr(text.p, '{', text.n)) != NULL;) {
		const char *end;
		bool found = false;

		text = str_from(text, (size_t)(p - text.p) + 1);
		end = memchr(text.p, '}', text.n);
		for (size_t i = 0; end != NULL && i < 5; i++)
			found = found || str_eq(known[i],
			    (struct str){text.p, (size_t)(end - text.p)});
		if (!found)
			return "the placeholders are {recipient} {domain} "
			       "{sender} {client} {seconds}";
	}
	return NULL;
}

static const char *
check_reply(const struct option *o, struct str text)
{
	static char what[256];
	struct str part;
	const char *why;

	if (o->offset ==
		offsetof(struct config, reply) +
		    REPLY_unavailable * sizeof(char *) &&
	    str_ieq(text, STR("close")))
		return NULL;
	why = action_error(text, &part);
	if (why == NULL)
		return check_placeholders(text);
	snprintf(what, sizeof(what), "\"%.*s\": %s",
	    (int)(part.n < 60 ? part.n : 60), part.p, why);
	return what;
}

static const char *
check_listen(struct str text)
{
	struct endpoint e;
	const char *why = NULL;
	int count = 0, rc;

	while ((rc = endpoint_next(&text, &e, &why)) == 0)
		count++;
	if (rc == -1)
		return why;
	return count > 0 ? NULL : "nothing to listen on";
}

static const char *
check_metrics(struct str text)
{
	char buf[300];
	struct sbuf b = sbuf_over(buf, sizeof(buf));
	struct str s;
	struct endpoint e;
	const char *why;

	if (text.n == 0)
		return NULL;
	sbuf_add(&b, STR("inet:"));
	sbuf_add(&b, text);
	s = sbuf_str(&b);
	return endpoint_next(&s, &e, &why) == 0 && s.n == 0 ? NULL :
							      "not HOST:PORT";
}

static const char *
check_function(struct str text)
{
	for (size_t i = 0; i < text.n; i++) {
		char c = ascii_lower(text.p[i]);

		if (!((c >= 'a' && c <= 'z') || c == '_' ||
			(i > 0 && c >= '0' && c <= '9')))
			return "not the name of a function";
	}
	return text.n <= 63 ? NULL : "not the name of a function";
}

static const char *
check_text(const struct option *o, struct str text)
{
	switch (o->kind) {
	case LISTEN:
		return check_listen(text);
	case METRICS:
		return check_metrics(text);
	case PATH:
		if (text.n == 0 || text.p[0] != '/')
			return "not an absolute path";
		if (text.n > 107)
			return "longer than a socket's path can be";
		return NULL;
	case REPLY:
		return check_reply(o, text);
	case FUNCTION:
		return check_function(text);
	case TEXT:
	case NUMBER:
	case SIZE:
	case DURATION:
	case MODE:
	case CHOICE:
		break;
	}
	return NULL;
}

static const char *
set(struct config *c, const struct option *o, const char *value)
{
	struct str text = str_of(value);
	char **owned;

	if (!is_text(o->kind) && text.n == 0)
		return "no value";
	switch (o->kind) {
	case NUMBER:
	case SIZE:
		return set_number(o, text, field(c, o));
	case DURATION:
		return set_duration(o, text, field(c, o));
	case MODE:
		return set_mode(text, field(c, o));
	case CHOICE:
		return set_choice(o, text, field(c, o));
	case TEXT:
	case PATH:
	case LISTEN:
	case METRICS:
	case REPLY:
	case FUNCTION:
		break;
	}
	owned = field(c, o);
	free(*owned);
	*owned = mem_strdup(value);
	return check_text(o, text);
}

/* ---- the whole ---- */

struct loading {
	const char *path;
	struct config_errors *errors;
};

static void
add_error(void *arg, int line, const char *section, const char *key,
    const char *what)
{
	struct loading *l = arg;
	struct config_errors *e = l->errors;
	char buf[1024];
	struct sbuf b = sbuf_over(buf, sizeof(buf));

	sbuf_addf(&b, "%s:", l->path);
	if (line > 0)
		sbuf_addf(&b, "%d:", line);
	if (section[0] != '\0')
		sbuf_addf(&b, " [%s]", section);
	if (key[0] != '\0')
		sbuf_addf(&b, " %s:", key);
	sbuf_addf(&b, " %s", what);
	e->text = mem_realloc(e->text, (e->count + 1) * sizeof(e->text[0]));
	e->text[e->count++] = mem_strdup(buf);
}

/* What no option can say by itself. */
static void
check_together(struct config *c, struct loading *l)
{
	if (c->database.listen_conninfo[0] == '\0') {
		free(c->database.listen_conninfo);
		c->database.listen_conninfo = mem_strdup(c->database.conninfo);
	}
	if (c->policyd.idle_timeout_s > 0 && c->policyd.idle_timeout_s <= 1000)
		add_error(l, 0, "policyd", "idle_timeout",
		    "0, or more than the 1000 s after which Postfix closes");
	if (c->greylist.retry_window_s <= c->greylist.delay_s)
		add_error(l, 0, "greylist", "retry_window",
		    "must be longer than delay");
}

struct config *
config_load(const char *path, struct config_errors *errors)
{
	struct loading l = {path, errors};
	struct ini *ini = ini_load(path, add_error, &l);
	struct config *c;

	if (ini == NULL)
		return NULL;
	c = mem_zalloc(sizeof(*c));
	for (size_t i = 0; i < OPTIONS; i++) {
		const struct option *o = &options[i];
		int line;
		const char *value =
		    ini_value(ini, o->section, o->key, &line);
		const char *why =
		    set(c, o, value != NULL ? value : o->initial);

		if (why != NULL)
			add_error(&l, line, o->section, o->key, why);
	}
	ini_report_unknown(ini, add_error, &l);
	ini_free(ini);
	check_together(c, &l);
	if (errors->count > 0) {
		config_free(c);
		return NULL;
	}
	return c;
}

void
config_free(struct config *config)
{
	if (config == NULL)
		return;
	for (size_t i = 0; i < OPTIONS; i++)
		if (is_text(options[i].kind))
			free(*(char **)field(config, &options[i]));
	free(config);
}

void
config_errors_free(struct config_errors *errors)
{
	for (size_t i = 0; i < errors->count; i++)
		free(errors->text[i]);
	free(errors->text);
	*errors = (struct config_errors){0};
}

void
config_print_options(FILE *to)
{
	for (size_t i = 0; i < OPTIONS; i++) {
		const struct option *o = &options[i];

		fprintf(to, "%s\t%s\t%s\t%s\t%.15g\t%.15g\n", o->section,
		    o->key, o->initial, kind_names[o->kind], o->least, o->most);
	}
}
