#include "tables/source.h"

#include "base/mem.h"
#include "base/number.h"
#include "config/config.h"
#include "mail/action.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <xxhash.h>

/* Equal keys are equal bytes in ASCII lower case: the index is on this. */
#define LOWER(column) "lower(" column " COLLATE \"C\")"

/*
 * One row a source: the SQL for all rows, and for those with some keys.
 * Aliases come sorted, so that an address' destinations arrive together.
 */
static const struct {
	struct str name;
	enum directory_table table;
	const char *all;
	const char *keyed;
} sources[SOURCES] = {
    [SOURCE_DOMAIN] = {STR_INIT("domain"), DIRECTORY_DOMAIN,
	"SELECT name, recipients, greylist, max_recipients, subdomains, "
	"enabled FROM policyd.domain",
	"SELECT name, recipients, greylist, max_recipients, subdomains, "
	"enabled FROM policyd.domain WHERE " LOWER("name") " = ANY($1)"},
    [SOURCE_DOMAIN_ALIAS] = {STR_INIT("domain_alias"),
	DIRECTORY_DOMAIN_ALIAS,
	"SELECT name, target FROM policyd.domain_alias",
	"SELECT name, target FROM policyd.domain_alias WHERE " LOWER(
	    "name") " = ANY($1)"},
    [SOURCE_ADDRESS] = {STR_INIT("address"), DIRECTORY_ADDRESS,
	"SELECT address, greylist, reply, expires_at, enabled "
	"FROM policyd.address",
	"SELECT address, greylist, reply, expires_at, enabled "
	"FROM policyd.address WHERE " LOWER("address") " = ANY($1)"},
    [SOURCE_ALIAS] = {STR_INIT("alias"), DIRECTORY_ALIAS,
	"SELECT address, destination, expires_at, enabled "
	"FROM policyd.alias ORDER BY " LOWER("address"),
	"SELECT address, destination, expires_at, enabled "
	"FROM policyd.alias WHERE " LOWER("address") " = ANY($1)"},
};

/* The administrator's query that replaces the source's own, or NULL. */
static const char *
custom_query(const struct config *config, enum source s)
{
	const char *sql = s == SOURCE_DOMAIN || s == SOURCE_DOMAIN_ALIAS ?
	    config->lookup.domains :
	    config->lookup.addresses;

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

char *
source_query(const struct config *config, enum source s)
{
	const char *sql = custom_query(config, s);
	size_t n;

	if (sql == NULL)
		return mem_strdup(sources[s].all);
	if (head_of(s) != s)
		return NULL;
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

void
source_begin(const struct config *config, struct directory *d, enum source s)
{
	directory_begin(d, sources[s].table);
	for (int i = 0; i < SOURCES; i++) {
		enum source other = (enum source)i;

		if (other != s && custom_query(config, other) != NULL &&
		    head_of(other) == s)
			directory_begin(d, sources[other].table);
	}
}

void
source_forget(struct directory *d, enum source s, struct str key)
{
	directory_forget(d, sources[s].table, key);
}

uint64_t
source_origin(const struct config *config)
{
	XXH3_state_t *sum = XXH3_createState();
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

/* ---- values ---- */

int
source_time(struct str text, int64_t *out)
{
	char buf[64];
	struct tm tm = {0};
	const char *end;
	int64_t number;

	if (str_eq(text, STR("infinity"))) {
		*out = NEVER_EXPIRES;
		return 0;
	}
	if (str_eq(text, STR("-infinity"))) {
		*out = INT64_MIN;
		return 0;
	}
	if (number_parse(text, &number) == 0) {
		*out = number;
		return 0;
	}
	if (text.n >= sizeof(buf))
		return -1;
	memcpy(buf, text.p, text.n);
	buf[text.n] = '\0';
	/* Years past 9999 are for ever; strptime would read four digits. */
	if (strspn(buf, "0123456789") > 4) {
		*out = NEVER_EXPIRES;
		return 0;
	}
	end = strptime(buf, "%Y-%m-%d", &tm);
	if (end != NULL && *end == ' ')
		end = strptime(end, " %H:%M:%S", &tm);
	if (end == NULL)
		return -1;
	if (*end == '.')
		for (end++; *end >= '0' && *end <= '9';)
			end++;
	if (strcmp(end, "+00") != 0 && *end != '\0')
		return -1;
	*out = timegm(&tm);
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
	int64_t max = 0;

	if (target.n > 0)
		return !is_yes(value_of(res, row, c->enabled), true) ||
		    directory_put_domain_alias(d, name, target);
	number_parse(value_of(res, row, c->max_recipients), &max);
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

int
source_put(struct directory *d, enum source s, const PGresult *res)
{
	struct columns c = find_columns(res);
	int left_out = 0;

	for (int row = 0; row < PQntuples(res); row++) {
		bool good = s == SOURCE_DOMAIN || s == SOURCE_DOMAIN_ALIAS ?
		    put_domain(d, res, row, &c) :
		    put_address(d, res, row, &c);

		left_out += !good;
	}
	return left_out;
}
