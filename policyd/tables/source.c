#include "tables/source.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/number.h"
#include "config/config.h"
#include "mail/action.h"
#include "tables/directory.h"
#include "tables/list.h"
#include "tables/rule.h"
#include "tables/tables.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <xxhash.h>

/* Equal keys are equal bytes in ASCII lower case: the index is on this. */
#define LOWER(column) "lower(" column " COLLATE \"C\")"

/*
 * One row a source: the SQL for all rows, and for those with some keys.
 * Aliases come sorted, so that an address' destinations arrive together; lists
 * come before the rules that ask them.
 */
#define DOMAINS                                                             \
	"SELECT name, recipients, greylist, max_recipients, subdomains, "   \
	"enabled FROM policyd.domain"
#define DOMAIN_ALIASES "SELECT name, target FROM policyd.domain_alias"
#define ADDRESSES                                                 \
	"SELECT address, greylist, reply, expires_at, enabled " \
	"FROM policyd.address"
#define ALIASES                                             \
	"SELECT address, destination, expires_at, enabled " \
	"FROM policyd.alias"
#define LIST_ENTRIES "SELECT list, value FROM policyd.list_entry"
/* chr(1) is RULE_SEPARATOR: no condition has it in it. */
#define RULES                                                               \
	"SELECT id, priority, state, "                                      \
	"(SELECT string_agg(c || chr(1), '' ORDER BY n) "                   \
	"FROM unnest(conditions) WITH ORDINALITY AS u (c, n)) AS conditions, " \
	"action, shadow, enabled FROM policyd.rule"

static const struct {
	struct str name;
	const char *all;
	const char *keyed;
} sources[SOURCES] = {
    [SOURCE_DOMAIN] = {STR_INIT("domain"), DOMAINS,
	DOMAINS " WHERE " LOWER("name") " = ANY($1)"},
    [SOURCE_DOMAIN_ALIAS] = {STR_INIT("domain_alias"), DOMAIN_ALIASES,
	DOMAIN_ALIASES " WHERE " LOWER("name") " = ANY($1)"},
    [SOURCE_ADDRESS] = {STR_INIT("address"), ADDRESSES,
	ADDRESSES " WHERE " LOWER("address") " = ANY($1)"},
    [SOURCE_ALIAS] = {STR_INIT("alias"),
	ALIASES " ORDER BY " LOWER("address"),
	ALIASES " WHERE " LOWER("address") " = ANY($1)"},
    [SOURCE_LIST_ENTRY] = {STR_INIT("list_entry"), LIST_ENTRIES,
	LIST_ENTRIES " WHERE lower(list || ' ' || value) = ANY($1)"},
    [SOURCE_RULE] = {STR_INIT("rule"), RULES " ORDER BY id",
	RULES " WHERE id = ANY($1::bigint[]) ORDER BY id"},
};

/* Sources that are a table of the directory. */
static const enum directory_table directory_tables[] = {
    [SOURCE_DOMAIN] = DIRECTORY_DOMAIN,
    [SOURCE_DOMAIN_ALIAS] = DIRECTORY_DOMAIN_ALIAS,
    [SOURCE_ADDRESS] = DIRECTORY_ADDRESS,
    [SOURCE_ALIAS] = DIRECTORY_ALIAS,
};

/* The administrator's query that replaces the source's own, or NULL. */
static const char *
custom_query(const struct config *config, enum source s)
{
	const char *sql;

	switch (s) {
	case SOURCE_DOMAIN:
	case SOURCE_DOMAIN_ALIAS:
		sql = config->lookup.domains;
		break;
	case SOURCE_ADDRESS:
	case SOURCE_ALIAS:
		sql = config->lookup.addresses;
		break;
	default:
		return NULL;
	}
	return sql[0] != '\0' ? sql : NULL;
}

/* The source that a custom query is read as. */
static enum source
head_of(enum source s)
{
	return s == SOURCE_DOMAIN_ALIAS ? SOURCE_DOMAIN :
	    s == SOURCE_ALIAS		? SOURCE_ADDRESS :
					  s;
}

bool
source_is_read(const struct config *config, enum source s)
{
	return custom_query(config, s) == NULL || head_of(s) == s;
}

char *
source_query(const struct config *config, enum source s)
{
	const char *sql = custom_query(config, s);
	size_t n;

	if (!source_is_read(config, s))
		return NULL;
	if (sql == NULL)
		return mem_strdup(sources[s].all);
	/* A cursor takes the query as it stands, without its semicolon. */
	n = strlen(sql);
	while (n > 0 && strchr("; \t", sql[n - 1]) != NULL)
		n--;
	return mem_strndup(sql, n);
}

const char *
source_keyed_query(const struct config *config, enum source s)
{
	return custom_query(config, s) == NULL ? sources[s].keyed : NULL;
}

/*
 * pg_class shows what the snapshot shows; pg_relation_filenode() and regclass
 * tell how things are now that the lock is held.  Some catalogs have a filenode
 * of 0.
 */
const char *
source_is_stale(void)
{
	return "EXISTS (SELECT FROM pg_locks AS l "
	       "LEFT JOIN pg_class AS c ON c.oid = l.relation "
	       "LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace "
	       "WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' "
	       "AND (c.oid IS NULL "
	       "OR c.relfilenode NOT IN (0, pg_relation_filenode(c.oid)) "
	       "OR l.relation::regclass::text NOT IN (quote_ident(c.relname), "
	       "quote_ident(n.nspname) || '.' || quote_ident(c.relname))))";
}

struct str
source_name(enum source s)
{
	return sources[s].name;
}

enum source
source_named(const struct config *config, struct str table)
{
	for (int i = 0; i < SOURCES; i++) {
		enum source s = (enum source)i;

		if (str_eq(sources[s].name, table))
			return custom_query(config, s) != NULL ? head_of(s) : s;
	}
	return SOURCES;
}

bool
source_has_key(enum source s, struct str key)
{
	int64_t id;

	return s != SOURCE_RULE || key.n == 0 || number_parse(key, &id) == 0;
}

static void
begin_one(struct tables *t, enum source s)
{
	if (s == SOURCE_LIST_ENTRY)
		lists_begin(t->lists);
	else if (s == SOURCE_RULE)
		rules_begin(t->rules);
	else
		directory_begin(t->directory, directory_tables[s]);
}

void
source_begin(const struct config *config, struct tables *t, enum source s)
{
	begin_one(t, s);
	for (int i = 0; i < SOURCES; i++) {
		enum source other = (enum source)i;

		if (other != s && custom_query(config, other) != NULL &&
		    head_of(other) == s)
			begin_one(t, other);
	}
}

/* `LIST VALUE`: the name of a list has no blank. */
static void
forget_entry(struct lists *l, struct str key)
{
	const char *blank = memchr(key.p, ' ', key.n);
	struct str list;

	if (blank == NULL)
		return;
	list = (struct str){key.p, (size_t)(blank - key.p)};
	lists_forget(l, list, str_from(key, list.n + 1));
}

void
source_forget(struct tables *t, enum source s, struct str key)
{
	int64_t id;

	if (s == SOURCE_LIST_ENTRY)
		forget_entry(t->lists, key);
	else if (s != SOURCE_RULE)
		directory_forget(t->directory, directory_tables[s], key);
	else if (number_parse(key, &id) == 0)
		rules_forget(t->rules, id);
}

void
source_ready(struct tables *t, enum source s)
{
	if (s == SOURCE_RULE)
		rules_ready(t->rules);
}

uint64_t
source_origin(const struct config *config)
{
	XXH3_state_t *sum = mem_must(XXH3_createState());
	const char *parts[] = {config->lookup.domains, config->lookup.addresses,
	    config->rcpt.fold_local_part ? "fold" : "exact"};
	uint64_t origin;

	XXH3_64bits_reset(sum);
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		XXH3_64bits_update(sum, parts[i], strlen(parts[i]) + 1);
	origin = XXH3_64bits_digest(sum);
	XXH3_freeState(sum);
	return origin;
}

bool
source_answers(const struct config *config, const struct tables *t)
{
	return directory_ready(t->directory) &&
	    t->origin == source_origin(config);
}

/* ---- values ---- */

/* A number; numeric columns may write it with a fraction, which is cut. */
static int
whole_number(struct str text, int64_t *out)
{
	const char *dot = text.n > 0 ? memchr(text.p, '.', text.n) : NULL;
	int64_t fraction;

	if (dot == NULL)
		return number_parse(text, out);
	if (number_parse(str_from(text, (size_t)(dot - text.p) + 1),
		&fraction) == -1)
		return -1;
	return number_parse((struct str){text.p, (size_t)(dot - text.p)}, out);
}

int
source_time(struct str text, int64_t *out)
{
	char buf[64];
	struct tm tm = {0};
	const char *end;
	int64_t number;
	size_t year;

	if (str_eq(text, STR("infinity"))) {
		*out = NEVER_EXPIRES;
		return 0;
	}
	if (str_eq(text, STR("-infinity"))) {
		*out = INT64_MIN;
		return 0;
	}
	if (whole_number(text, &number) == 0) {
		*out = number;
		return 0;
	}
	if (text.n >= sizeof(buf))
		return -1;
	memcpy(buf, text.p, text.n);
	buf[text.n] = '\0';
	/* strptime reads four digits of a year: those beyond are for ever. */
	year = strspn(buf, "0123456789");
	end = strptime(year > 4 ? buf + year - 4 : buf, "%Y-%m-%d", &tm);
	if (end != NULL && *end == ' ')
		end = strptime(end, " %H:%M:%S", &tm);
	if (end == NULL)
		return -1;
	if (*end == '.')
		for (end++; *end >= '0' && *end <= '9';)
			end++;
	if (strcmp(end, "+00") != 0 && *end != '\0')
		return -1;
	*out = year > 4 ? NEVER_EXPIRES : timegm(&tm);
	return 0;
}

/* Columns of a result by name; -1 where absent.  The key is the first. */
struct columns {
	int recipients, greylist, max_recipients, subdomains, enabled, target;
	int reply, expires_at, destination;
};

static struct columns
find_columns(const PGresult *res)
{
	return (struct columns){
	    .recipients = PQfnumber(res, "recipients"),
	    .greylist = PQfnumber(res, "greylist"),
	    .max_recipients = PQfnumber(res, "max_recipients"),
	    .subdomains = PQfnumber(res, "subdomains"),
	    .enabled = PQfnumber(res, "enabled"),
	    .target = PQfnumber(res, "target"),
	    .reply = PQfnumber(res, "reply"),
	    .expires_at = PQfnumber(res, "expires_at"),
	    .destination = PQfnumber(res, "destination"),
	};
}

/* The value; an empty slice for null and for a column that is not there. */
static struct str
value_of(const PGresult *res, int row, int column)
{
	if (column < 0 || PQgetisnull(res, row, column))
		return STR("");
	return (struct str){PQgetvalue(res, row, column),
	    (size_t)PQgetlength(res, row, column)};
}

/* boolean, 0 and 1 (and 2: some schemas have it), 'y', 'Y', 'yes'. */
static enum tristate
boolean_of(struct str v)
{
	static const struct str no[] = {STR_INIT("f"), STR_INIT("0"),
	    STR_INIT("n"), STR_INIT("no"), STR_INIT("false"), STR_INIT("off")};

	if (v.n == 0)
		return UNSET;
	for (size_t i = 0; i < sizeof(no) / sizeof(no[0]); i++)
		if (str_ieq(no[i], v))
			return NO;
	return YES;
}

static bool
is_yes(struct str v, bool otherwise)
{
	enum tristate b = boolean_of(v);

	return b == UNSET ? otherwise : b == YES;
}

static enum domain_recipients
recipients_of(struct str v)
{
	return str_ieq(v, STR("any"))	  ? RECIPIENTS_ANY :
	    str_ieq(v, STR("verify")) ? RECIPIENTS_VERIFY :
					RECIPIENTS_LISTED;
}

static bool
put_domain(struct directory *d, const PGresult *res, int row,
    const struct columns *c)
{
	struct str name = value_of(res, row, 0);
	struct str target = value_of(res, row, c->target);
	struct str limit = value_of(res, row, c->max_recipients);
	int64_t max = 0;

	if (target.n > 0)
		return !is_yes(value_of(res, row, c->enabled), true) ||
		    directory_put_domain_alias(d, name, target);
	if (limit.n > 0 && whole_number(limit, &max) == -1)
		return false;
	return directory_put_domain(d, name,
	    recipients_of(value_of(res, row, c->recipients)),
	    boolean_of(value_of(res, row, c->greylist)), max,
	    is_yes(value_of(res, row, c->subdomains), false),
	    is_yes(value_of(res, row, c->enabled), true));
}

static bool
put_address(struct directory *d, const PGresult *res, int row,
    const struct columns *c)
{
	struct str address = value_of(res, row, 0);
	struct str destination = value_of(res, row, c->destination);
	struct str reply = value_of(res, row, c->reply);
	struct str expires = value_of(res, row, c->expires_at), part;
	bool enabled = is_yes(value_of(res, row, c->enabled), true);
	int64_t expires_at = NEVER_EXPIRES;

	if (expires.n > 0 && source_time(expires, &expires_at) == -1)
		return false;
	if (destination.n > 0)
		return directory_put_alias(d, address, destination, expires_at,
		    enabled);
	if (reply.n > 0 && action_error(reply, &part) != NULL)
		return false;
	return directory_put_address(d, address,
	    boolean_of(value_of(res, row, c->greylist)), reply, expires_at,
	    enabled);
}

/* A row that the schema takes and this program does not: tell which. */
static bool
put_rule(struct rules *r, const PGresult *res, int row)
{
	struct rule_row out = {
	    .state = value_of(res, row, 2),
	    .conditions = value_of(res, row, 3),
	    .action = value_of(res, row, 4),
	    .shadow = is_yes(value_of(res, row, 5), false),
	    .enabled = is_yes(value_of(res, row, 6), true),
	};
	struct str priority = value_of(res, row, 1);
	bool negative = priority.n > 0 && priority.p[0] == '-';
	const char *why;

	if (number_parse(value_of(res, row, 0), &out.id) == -1 ||
	    number_parse(str_from(priority, negative), &out.priority) == -1)
		return false;
	if (negative)
		out.priority = -out.priority;
	if (rules_put(r, &out, &why))
		return true;
	rule_left_out(out.id, why);
	return false;
}

static bool
put_row(struct tables *t, enum source s, const PGresult *res, int row,
    const struct columns *c)
{
	switch (s) {
	case SOURCE_DOMAIN:
	case SOURCE_DOMAIN_ALIAS:
		return put_domain(t->directory, res, row, c);
	case SOURCE_ADDRESS:
	case SOURCE_ALIAS:
		return put_address(t->directory, res, row, c);
	case SOURCE_LIST_ENTRY:
		return lists_put(t->lists, value_of(res, row, 0),
		    value_of(res, row, 1));
	case SOURCE_RULE:
		return put_rule(t->rules, res, row);
	case SOURCES:
		break;
	}
	return false;
}

static void
log_left_out(enum source s, struct str key)
{
	struct log_entry e;

	log_begin(&e, LOG_WARNING,
	    "a row makes no sense and is left out, and perhaps others");
	log_str(&e, "table", sources[s].name);
	log_str(&e, "key", key);
	log_end(&e);
}

int
source_try(struct tables *t, enum source s, const PGresult *res,
    struct str *first)
{
	struct columns c = find_columns(res);
	int left_out = 0;

	for (int row = 0; row < PQntuples(res); row++)
		if (!put_row(t, s, res, row, &c) && left_out++ == 0)
			*first = value_of(res, row, 0);
	return left_out;
}

int
source_put(struct tables *t, enum source s, const PGresult *res)
{
	struct str first;
	int left_out = source_try(t, s, res, &first);

	if (left_out > 0)
		log_left_out(s, first);
	return left_out;
}
