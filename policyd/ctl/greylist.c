/*
 * greylist - what an administrator may want of greylisting: who waits, who is
 * known, and to let somebody pass.
 *
 * The tables' triggers tell the daemons.
 */

#include "base/mem.h"
#include "base/number.h"
#include "ctl/ctl.h"
#include "ctl/key.h"
#include "db/array.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SQL_MAX_BYTES = 2048, PARAMS_MAX = 12, LIMIT = 1000 };

/* ---- statements ---- */

struct statement {
	struct sbuf sql;
	const char *next; /* the word before the next condition */
	size_t n;
	char *params[PARAMS_MAX]; /* owned */
	char buf[SQL_MAX_BYTES];
};

static void
begin(struct statement *s, const char *sql)
{
	s->sql = sbuf_over(s->buf, sizeof(s->buf));
	s->next = " WHERE ";
	s->n = 0;
	sbuf_add(&s->sql, str_of(sql));
}

/* Take a parameter over, and return its number. */
static size_t
param(struct statement *s, char *value)
{
	s->params[s->n] = value;
	return ++s->n;
}

static void
condition(struct statement *s, const char *start)
{
	sbuf_addf(&s->sql, "%s%s", s->next, start);
	s->next = " AND ";
}

static void
end(struct statement *s)
{
	for (size_t i = 0; i < s->n; i++)
		free(s->params[i]);
	s->n = 0;
}

static PGresult *
ask(struct ctl *ctl, struct statement *s)
{
	PGresult *result = ctl_query(ctl, s->sql.p, s->n,
	    (const char *const *)s->params);

	end(s);
	return result;
}

/* ---- what was typed, as the tables have it ---- */

static struct str
lower(struct str s, char *buf, size_t size)
{
	struct sbuf b = sbuf_over(buf, size);

	for (size_t i = 0; i < s.n; i++)
		sbuf_addc(&b, ascii_lower(s.p[i]));
	return sbuf_str(&b);
}

/* `<>` is how people write the sender that is none. */
static struct str
sender_typed(const char *text)
{
	return strcmp(text, "<>") == 0 ? STR("") : str_of(text);
}

static char *
array_of(const char *a, const char *b)
{
	char *items[] = {mem_strdup(a), mem_strdup(b)};
	char *array = db_array(items, 2, false);

	free(items[0]);
	free(items[1]);
	return array;
}

/* The client by the name that policyd has for it, or by the one typed. */
static void
where_client(struct statement *s, const struct key_options *o,
    const char *text)
{
	char buf[HOST_CLIENT_MAX_BYTES];
	struct key_clients clients;

	(void)key_clients(o, str_of(text), &clients);
	clients.name = mem_realloc(clients.name,
	    (clients.count + 1) * sizeof(*clients.name));
	clients.name[clients.count++] =
	    mem_strdup(lower(str_of(text), buf, sizeof(buf)).p);
	condition(s, "t.client = ANY (");
	sbuf_addf(&s->sql, "$%zu::text[])",
	    param(s, db_array(clients.name, clients.count, false)));
	key_clients_free(&clients);
}

/* `@example.com`: all of its addresses. */
static bool
where_domain(struct statement *s, const char *column, const char *text)
{
	char buf[DOMAIN_MAX_BYTES + 1];
	struct str domain;
	size_t n;

	if (text[0] != '@' || !domain_fold(str_of(text + 1), buf, &domain))
		return false;
	n = param(s, mem_strndup(domain.p, domain.n));
	condition(s, "right(");
	sbuf_addf(&s->sql, "t.%s, length($%zu) + 1) = '@' || $%zu", column, n,
	    n);
	return true;
}

static void
where_sender(struct statement *s, const char *text, const char *recipient)
{
	char buf[SENDER_MAX_BYTES + 1];
	struct str sender = sender_typed(text);

	if (where_domain(s, "sender", text))
		return;
	sender_fold(sender, str_of(recipient), buf);
	condition(s, "t.sender = ANY (");
	sbuf_addf(&s->sql, "$%zu::text[])", param(s, array_of(buf, sender.p)));
}

static void
where_recipient(struct statement *s, const struct key_options *o,
    const char *text)
{
	char buf[ADDRESS_MAX_BYTES + 1];
	struct str recipient;

	if (where_domain(s, "recipient", text))
		return;
	if (!key_recipient(o, str_of(text), buf, &recipient))
		buf[0] = '\0';
	condition(s, "t.recipient = ANY (");
	sbuf_addf(&s->sql, "$%zu::text[])", param(s, array_of(buf, text)));
}

/* The key, or as much of it as was given. */
static void
where_key(struct statement *s, const struct key_options *o,
    const struct table *table, const struct values *values)
{
	const char *client = value_of(table, values, "client");
	const char *sender = value_of(table, values, "sender");
	const char *recipient = value_of(table, values, "recipient");

	if (client != NULL)
		where_client(s, o, client);
	if (sender != NULL)
		where_sender(s, sender, recipient);
	if (recipient != NULL)
		where_recipient(s, o, recipient);
}

static const char *
shown(const char *text)
{
	return text[0] != '\0' ? text : "<>";
}

/* ---- the settings that a command needs ---- */

struct settings {
	struct config *config;
	struct key_options key;
};

static bool
settings_read(struct settings *s, const struct ctl *ctl)
{
	s->config = ctl_config(ctl);
	if (s->config == NULL)
		return false;
	s->key = key_options_of(s->config);
	if (!host_init())
		ctl_complain("Debian has it in the package publicsuffix.",
		    "there is no Public Suffix List");
	return true;
}

static void
settings_free(struct settings *s)
{
	host_done();
	config_free(s->config);
}

/* ---- lists ---- */

static const char KEYS[] =
    "SELECT client, CASE sender WHEN '' THEN '<>' ELSE sender END AS sender,"
    " regexp_replace(recipient, '[\\x01-\\x1f\\x7f-\\x9f]', '?', 'g')"
    "  AS recipient, state, date_trunc('second', first_seen) AS first_seen,"
    " date_trunc('second', last_seen) AS last_seen, attempts";

/* now() and these two say whether it is old. */
static const char KEYS_FROM[] =
    " FROM (SELECT client, sender, recipient,"
    "  CASE WHEN policyd.greylist_is_old(first_seen, last_seen, passed_at,"
    "    now() - make_interval(secs => $1), now() - make_interval(secs => $2))"
    "   THEN 'old' WHEN passed_at IS NULL THEN 'waiting' ELSE 'passed' END"
    "  AS state, first_seen, last_seen, passed_at, attempts"
    "  FROM policyd.greylist) AS t";

static const char CLIENTS[] =
    "SELECT client, state, passes, date_trunc('second', last_seen)"
    " AS last_seen, date_trunc('second', allowed_at) AS allowed_at, reason";

static const char CLIENTS_FROM[] =
    " FROM (SELECT client, CASE WHEN allowed_at IS NOT NULL THEN 'allowed'"
    "   WHEN last_seen < now() - make_interval(secs => $1) THEN 'old'"
    "   WHEN $2::float8 > 0 AND passes >= $2::float8 THEN 'proven'"
    "   ELSE 'seen' END AS state,"
    "  passes, last_seen, allowed_at, reason"
    "  FROM policyd.client) AS t";

static const char *const key_states[] = {"waiting", "passed", "old", NULL};
static const char *const client_states[] = {"allowed", "proven", "seen", "old",
    NULL};

/* A column that is compared as it is, empty for NULL. */
static void
where_column(struct statement *s, const char *column, const char *value)
{
	if (value == NULL)
		return;
	condition(s, "t.");
	if (value[0] == '\0')
		sbuf_addf(&s->sql, "%s IS NULL", column);
	else
		sbuf_addf(&s->sql, "%s = $%zu", column,
		    param(s, mem_strdup(value)));
}

/* One of those that there are. */
static void
where_state(struct statement *s, const char *value)
{
	if (value == NULL)
		return;
	condition(s, "t.state = ");
	sbuf_addf(&s->sql, "'%s'", value);
}

static char *
number_text(double n)
{
	char buf[64];

	snprintf(buf, sizeof(buf), "%.3f", n);
	return mem_strdup(buf);
}

/* Run it with a limit, one row more to know where that cuts it short. */
static enum ctl_status
list(struct ctl *ctl, struct statement *s, int64_t limit)
{
	enum ctl_status status;

	if (limit > 0)
		sbuf_addf(&s->sql, " LIMIT %lld", (long long)limit + 1);
	status = print_list(ctl, s->sql.p, s->n,
	    (const char *const *)s->params, limit);
	end(s);
	return status;
}

/* -1, complained of. */
static int64_t
limit_of(const struct table *table, const struct values *values)
{
	const char *text = value_of(table, values, "limit");
	int64_t limit = LIMIT;

	if (text == NULL || (number_parse(str_of(text), &limit) == 0 &&
				limit < INT32_MAX))
		return limit;
	ctl_complain(NULL, "\"%s\" is no limit: write a number", text);
	return -1;
}

/* NULL is one; else complain. */
static bool
is_state(const char *const *states, const char *value)
{
	char buf[128];
	struct sbuf b = sbuf_over(buf, sizeof(buf));

	for (; value != NULL && *states != NULL; states++) {
		if (strcmp(*states, value) == 0)
			return true;
		sbuf_addf(&b, "%s%s", b.n > 0 ? ", " : "", *states);
	}
	if (value == NULL)
		return true;
	ctl_complain(NULL, "\"%s\" is no state: there are %s", value, buf);
	return false;
}

static enum ctl_status
list_keys(struct ctl *ctl, const struct settings *settings,
    const struct table *table, const struct values *values, int64_t limit)
{
	static const char *const columns[] = {"first_seen", "last_seen",
	    "passed_at", "attempts"};
	struct statement s;

	begin(&s, ctl->json ? "SELECT row_to_json(t)" : KEYS);
	sbuf_add(&s.sql, str_of(KEYS_FROM));
	param(&s, number_text(settings->config->greylist.retry_window_s));
	param(&s, number_text(settings->config->greylist.max_age_s));
	where_key(&s, &settings->key, table, values);
	for (size_t i = 0; i < sizeof(columns) / sizeof(columns[0]); i++)
		where_column(&s, columns[i],
		    value_of(table, values, columns[i]));
	where_state(&s, value_of(table, values, "state"));
	/* What an administrator looks for is mostly what happened last. */
	sbuf_add(&s.sql, STR(" ORDER BY t.last_seen DESC, t.client, t.sender,"
			     " t.recipient"));
	return list(ctl, &s, limit);
}

enum ctl_status
greylist_list(struct ctl *ctl, const struct table *table,
    const struct values *values)
{
	int64_t limit = limit_of(table, values);
	enum ctl_status status;
	struct settings settings;

	if (limit == -1 ||
	    !is_state(key_states, value_of(table, values, "state")))
		return CTL_USAGE;
	if (!settings_read(&settings, ctl))
		return CTL_NO;
	status = list_keys(ctl, &settings, table, values, limit);
	settings_free(&settings);
	return status;
}

static enum ctl_status
list_clients(struct ctl *ctl, const struct settings *settings,
    const struct table *table, const struct values *values, int64_t limit)
{
	static const char *const columns[] = {"passes", "last_seen",
	    "allowed_at", "reason"};
	const char *client = value_of(table, values, "client");
	struct statement s;

	begin(&s, ctl->json ? "SELECT row_to_json(t)" : CLIENTS);
	sbuf_add(&s.sql, str_of(CLIENTS_FROM));
	param(&s, number_text(settings->config->greylist.max_age_s));
	param(&s,
	    number_text((double)settings->config->greylist.auto_allow_after));
	if (client != NULL)
		where_client(&s, &settings->key, client);
	for (size_t i = 0; i < sizeof(columns) / sizeof(columns[0]); i++)
		where_column(&s, columns[i],
		    value_of(table, values, columns[i]));
	where_state(&s, value_of(table, values, "state"));
	sbuf_add(&s.sql, STR(" ORDER BY t.client"));
	return list(ctl, &s, limit);
}

enum ctl_status
client_list(struct ctl *ctl, const struct table *table,
    const struct values *values)
{
	int64_t limit = limit_of(table, values);
	enum ctl_status status;
	struct settings settings;

	if (limit == -1 ||
	    !is_state(client_states, value_of(table, values, "state")))
		return CTL_USAGE;
	if (!settings_read(&settings, ctl))
		return CTL_NO;
	status = list_clients(ctl, &settings, table, values, limit);
	settings_free(&settings);
	return status;
}

/* ---- release ---- */

enum ctl_status
greylist_release(struct ctl *ctl, const struct table *table,
    const struct values *values)
{
	enum ctl_status status = CTL_NO;
	struct settings settings;
	struct statement s;
	PGresult *result;

	if (!settings_read(&settings, ctl))
		return CTL_NO;
	begin(&s, "UPDATE policyd.greylist AS t"
		  " SET passed_at = now(), last_seen = now()");
	where_key(&s, &settings.key, table, values);
	condition(&s, "t.passed_at IS NULL"
		      " RETURNING client, sender, recipient");
	result = ask(ctl, &s);
	for (int i = 0; result != NULL && i < PQntuples(result); i++) {
		status = CTL_YES;
		if (!ctl->json)
			printf("%s %s %s released: its next attempt passes\n",
			    PQgetvalue(result, i, 0),
			    shown(PQgetvalue(result, i, 1)),
			    PQgetvalue(result, i, 2));
	}
	if (status == CTL_YES && ctl->json)
		printf("{\"released\": %s}\n", PQcmdTuples(result));
	if (result != NULL && status == CTL_NO)
		ctl_complain("policyctl greylist list state=waiting "
			     "recipient=ADDRESS shows who waits.",
		    "no key %s %s %s waits", values->of[0],
		    shown(values->of[1]), values->of[2]);
	PQclear(result);
	settings_free(&settings);
	return status;
}

/* ---- allow ---- */

static void
print_allowed(const struct ctl *ctl, const char *text,
    const struct key_clients *clients)
{
	if (ctl->json) {
		printf("{\"allowed\": %zu, \"clients\": [", clients->count);
		for (size_t i = 0; i < clients->count; i++)
			printf("%s\"%s\"", i > 0 ? ", " : "", clients->name[i]);
		puts("]}");
	} else if (clients->count > 1) {
		printf("client %s allowed, as %zu networks of /%d\n", text,
		    clients->count, (int)clients->prefix);
	} else {
		printf("client %s allowed\n", clients->name[0]);
	}
}

static enum ctl_status
allow(struct ctl *ctl, const char *text, const char *reason,
    const struct key_clients *clients)
{
	struct statement s;
	PGresult *result;

	begin(&s, "INSERT INTO policyd.client (client, allowed_at, reason)"
		  " SELECT client, now(), $2 FROM unnest($1::text[]) AS client"
		  " ON CONFLICT (client) DO UPDATE SET allowed_at = now(),"
		  " reason = excluded.reason");
	param(&s, db_array(clients->name, clients->count, false));
	param(&s, reason != NULL && reason[0] != '\0' ? mem_strdup(reason) :
							NULL);
	result = ask(ctl, &s);
	if (result == NULL)
		return CTL_NO;
	PQclear(result);
	print_allowed(ctl, text, clients);
	return CTL_YES;
}

enum ctl_status
greylist_allow(struct ctl *ctl, const struct table *table,
    const struct values *values)
{
	const char *text = value_of(table, values, "client");
	enum ctl_status status = CTL_NO;
	struct key_clients clients;
	struct settings settings;
	const char *why;

	if (!settings_read(&settings, ctl))
		return CTL_NO;
	why = key_clients(&settings.key, str_of(text), &clients);
	if (why != NULL)
		ctl_complain("Write a domain such as example.com, or a network "
			     "such as 192.0.2.0/24.",
		    "\"%s\": %s", text, why);
	else
		status = allow(ctl, text, value_of(table, values, "reason"),
		    &clients);
	key_clients_free(&clients);
	settings_free(&settings);
	return status;
}

/* ---- forget ---- */

static long
delete_from(struct ctl *ctl, const char *sql, const struct key_options *o,
    const struct table *table, const struct values *values)
{
	struct statement s;
	PGresult *result;
	long rows;

	begin(&s, sql);
	where_key(&s, o, table, values);
	result = ask(ctl, &s);
	if (result == NULL)
		return -1;
	rows = strtol(PQcmdTuples(result), NULL, 10);
	PQclear(result);
	return rows;
}

static void
print_forgotten(const struct ctl *ctl, const struct values *values,
    long clients, long keys)
{
	if (ctl->json) {
		printf("{\"forgotten\": %ld, \"clients\": %ld, \"keys\": %ld}\n",
		    clients + keys, clients, keys);
		return;
	}
	for (int c = 0; c < 3 && values->of[c] != NULL; c++)
		printf("%s%s", c > 0 ? " " : "",
		    c == 1 ? shown(values->of[c]) : values->of[c]);
	printf(" forgotten: ");
	if (values->of[1] == NULL && values->of[2] == NULL)
		printf("%ld %s, ", clients, clients == 1 ? "client" :
							   "clients");
	printf("%ld %s\n", keys, keys == 1 ? "key" : "keys");
}

enum ctl_status
greylist_forget(struct ctl *ctl, const struct table *table,
    const struct values *values)
{
	bool all = values->of[1] == NULL && values->of[2] == NULL;
	struct settings settings;
	long clients = 0, keys;

	if (!settings_read(&settings, ctl))
		return CTL_NO;
	if (!ctl_script(ctl, "BEGIN")) {
		settings_free(&settings);
		return CTL_NO;
	}
	/* The daemon locks them in this order, too. */
	keys = delete_from(ctl, "DELETE FROM policyd.greylist AS t",
	    &settings.key, table, values);
	if (all && keys >= 0)
		clients = delete_from(ctl, "DELETE FROM policyd.client AS t",
		    &settings.key, table, values);
	settings_free(&settings);
	if (keys < 0 || clients < 0 || !ctl_script(ctl, "COMMIT"))
		return CTL_NO;
	if (keys + clients == 0) {
		ctl_complain(NULL, "nothing is known of %s%s%s%s%s",
		    values->of[0], values->of[1] != NULL ? " " : "",
		    values->of[1] != NULL ? shown(values->of[1]) : "",
		    values->of[2] != NULL ? " " : "",
		    values->of[2] != NULL ? values->of[2] : "");
		return CTL_NO;
	}
	print_forgotten(ctl, values, clients, keys);
	return CTL_YES;
}
