#include "tables/reading.h"

#include "base/hash.h"
#include "base/log.h"
#include "config/config.h"
#include "schema_version.h"
#include "tables/directory.h"
#include "tables/tables.h"

#include "tap.h"

#include <stdlib.h>

enum { SLICE = 2000, MANY = 20000 }; /* as reading.c has them */

/* What a scene is about: how the database is, and what it answers. */
enum {
	LOOK = 1,      /* at the schema first */
	FOREIGN = 2,   /* the schema is not ours */
	CUSTOM = 4,    /* [lookup] has both queries */
	KEYS_ONLY = 8,
	STALE = 16,    /* the snapshot was good for nothing */
	OTHER = 32,    /* the version is another one at first */
	UPGRADED = 64, /* or at the end */
	CROWD = 128,   /* keys have very many rows */
	LONG = 256,    /* a source has one slice and some rows more */
};

/*
 * What is heard before the job, and while it reads; then what it asks and how
 * it ends.  Sources go by their number: 2 is address, 4 list_entry, 5 rule.
 */
static const struct {
	const char *name;
	int flags;
	const char *heard[3], *then[3];
	const char *trace;
} scenes[] = {
    {"a key", 0, {"address:a@x"}, {0},
	"begin keys2{\"a@x\"} barrier commit over"},
    {"keys in lower case, escaped", 0, {"address:A\"@X", "address:b@x"}, {0},
	"begin keys2{\"a\\\"@x\",\"b@x\"} barrier commit over"},
    {"keys of two sources", 0, {"list_entry:l a", "domain:x.example"}, {0},
	"begin keys0{\"x.example\"} keys4{\"l a\"} barrier commit over"},
    {"a source as a whole", 0, {"address"}, {0},
	"begin declare2 fetch2 close2 barrier commit over"},
    {"in slices", LONG, {"address"}, {0},
	"begin declare2 fetch2 fetch2 close2 barrier commit over"},
    {"cursors are declared before one is fetched", 0,
	{"address", "list_entry", "rule:7"}, {0},
	"begin declare2 declare4 keys5{\"7\"} fetch2 close2 fetch4 close4 "
	"barrier commit over"},
    {"news while it reads", 0, {"address:a@x"}, {"domain:x.example"},
	"begin keys2{\"a@x\"} barrier commit over "
	"begin keys0{\"x.example\"} barrier commit over"},
    {"all of it in a second round", 0, {"address:a@x"}, {"address"},
	"begin keys2{\"a@x\"} barrier commit over "
	"begin declare2 fetch2 close2 barrier commit over"},
    {"too many rows for keys", CROWD, {"address:a@x"}, {0},
	"begin keys2{\"a@x\"} declare2 fetch2 close2 barrier commit over"},
    {"but not of rules, which are few", CROWD, {"rule:7"}, {0},
	"begin keys5{\"7\"} barrier commit over"},
    {"a table was written anew", STALE, {"address"}, {0},
	"begin declare2 fetch2 close2 barrier commit stale"},
    {"nothing is to be had", 0, {0}, {0}, "begin barrier commit over"},

    {"keys only: a key", KEYS_ONLY, {"address:a@x"}, {0},
	"begin keys2{\"a@x\"} barrier commit over"},
    {"keys only: a source", KEYS_ONLY, {"address"}, {0},
	"begin too-much rollback undone"},
    {"keys only: a source in a second round", KEYS_ONLY, {"address:a@x"},
	{"alias"},
	"begin keys2{\"a@x\"} barrier commit over begin too-much rollback "
	"undone"},
    {"keys only: too many rows", KEYS_ONLY | CROWD, {"address:a@x"}, {0},
	"begin keys2{\"a@x\"} too-much rollback undone"},

    {"the schema is looked at", LOOK, {"address:a@x"}, {0},
	"schema version begin keys2{\"a@x\"} barrier commit over"},
    {"none, and it is needed", LOOK | FOREIGN, {"address:a@x"}, {0},
	"schema no-schema"},
    {"none, and none is needed", LOOK | FOREIGN | CUSTOM, {"address:a@x"},
	{0},
	"schema begin declare2 fetch2 close2 barrier-plain commit over"},
    {"another version", LOOK | OTHER, {"address:a@x"}, {0},
	"schema version other-schema"},
    {"upgraded while it was read", UPGRADED, {"address:a@x"}, {0},
	"begin keys2{\"a@x\"} barrier other-schema"},
    {"upgraded, which is not ours", FOREIGN | UPGRADED | CUSTOM,
	{"domain:x.example"}, {0},
	"begin declare0 fetch0 close0 barrier-plain commit over"},

    {"[lookup]: rows of one come with another's", CUSTOM, {""}, {0},
	"begin declare0 declare2 declare4 declare5 fetch0 close0 fetch2 close2 "
	"fetch4 close4 fetch5 close5 barrier commit over"},
    {"[lookup]: of a schema not ours, the rest is not read",
	FOREIGN | CUSTOM, {""}, {0},
	"begin declare0 declare2 fetch0 close0 fetch2 close2 barrier-plain "
	"commit over"},
};

static PGresult *
rows(int n)
{
	char column[] = "name";
	PGresAttDesc desc = {.name = column};
	PGresult *res = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);

	PQsetResultAttrs(res, 1, &desc);
	for (int i = 0; i < n; i++) {
		char value[40];

		snprintf(value, sizeof(value), "u%d@x.example", i);
		PQsetvalue(res, i, 0, value, (int)strlen(value));
	}
	return res;
}

/* One row: as the barrier has it, or with the first column alone. */
static PGresult *
row(const char *first, const char *second, const char *third)
{
	const char *values[] = {first, second, third};
	char names[3][2] = {"a", "b", "c"};
	PGresAttDesc desc[3] = {
	    {.name = names[0]}, {.name = names[1]}, {.name = names[2]}};
	PGresult *res = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);

	PQsetResultAttrs(res, 3, desc);
	for (int i = 0; i < 3; i++) {
		char value[20];

		snprintf(value, sizeof(value), "%s", values[i]);
		PQsetvalue(res, 0, i, value, (int)strlen(value));
	}
	return res;
}

/* A short word for the statement, by what it says. */
static void
trace_statement(struct sbuf *b, const struct reading *r, const char *sql,
    const char *keys)
{
	static const struct {
		const char *begins, *word;
		bool at; /* it is about a source */
	} words[] = {
	    {"SELECT to_regclass", "schema", false},
	    {"SELECT (SELECT max(version)", "version", false},
	    {"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "begin", false},
	    {"DECLARE policyd_feed_", "declare", true},
	    {"FETCH FORWARD 2000 FROM policyd_feed_", "fetch", true},
	    {"CLOSE policyd_feed_", "close", true},
	    {"SELECT pg_notify('policyd_barrier', '')", "barrier", false},
	    {"COMMIT", "commit", false},
	    {"ROLLBACK", "rollback", false},
	};

	if (b->n > 0)
		sbuf_addc(b, ' ');
	if (keys != NULL)
		sbuf_addf(b, "keys%d%s", r->at, keys);
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		size_t n = strlen(words[i].begins);

		if (strncmp(sql, words[i].begins, n) != 0)
			continue;
		sbuf_addf(b, "%s", words[i].word);
		if (words[i].at)
			sbuf_addf(b, "%.1s", sql + n);
	}
	if (strstr(sql, "pg_notify") != NULL &&
	    strstr(sql, "max(version)") == NULL)
		sbuf_addf(b, "-plain");
}

static const char *
version_text(bool other)
{
	static char text[20];

	snprintf(text, sizeof(text), "%d", POLICYD_SCHEMA_VERSION + other);
	return text;
}

static PGresult *
answer(enum reading_step step, int flags, int fetched)
{
	switch (step) {
	case READING_SCHEMA:
		return row(flags & FOREIGN ? "f" : "t", "", "");
	case READING_VERSION:
		return row(version_text(flags & OTHER), "", "");
	case READING_KEYS:
		return rows(flags & CROWD ? MANY + 1 : 1);
	case READING_FETCH:
		return rows(flags & LONG && fetched == 0 ? SLICE : 1);
	case READING_BARRIER:
		return row("", flags & STALE ? "t" : "f",
		    version_text(flags & UPGRADED));
	case READING_BEGIN:
	case READING_DECLARE:
	case READING_CLOSE:
	case READING_COMMIT:
	case READING_ROLLBACK:
		break;
	}
	return PQmakeEmptyPGresult(NULL, PGRES_COMMAND_OK);
}

static void
hear(struct wants *wants, const struct config *c, const char *const *payloads)
{
	for (int i = 0; i < 3 && payloads[i] != NULL; i++)
		wants_hear(wants, c, payloads[i]);
}

static enum reading_said
ask(struct reading *r, const struct config *c, struct wants *wants, int flags,
    struct sbuf *trace)
{
	static int fetched;
	char *keys, *sql = reading_statement(r, c, &keys);
	enum reading_step step = r->step;

	trace_statement(trace, r, sql, keys);
	free(sql);
	free(keys);
	if (step != READING_FETCH)
		fetched = 0;
	return reading_answer(r, c, wants,
	    answer(step, flags, step == READING_FETCH ? fetched++ : 0));
}

static void
play(size_t n)
{
	static char none[] = "", custom[] = "SELECT x";
	static const char *const endings[] = {
	    [READING_UNDONE] = " undone",
	    [READING_NO_SCHEMA] = " no-schema",
	    [READING_OTHER_SCHEMA] = " other-schema",
	    [READING_ROUND_OVER] = " over",
	};
	int flags = scenes[n].flags;
	struct config c = {0};
	char text[400];
	struct sbuf trace = sbuf_over(text, sizeof(text));
	struct reading r;
	struct tables t;
	struct wants wants = {0};
	enum reading_said said;
	bool again = scenes[n].then[0] != NULL;

	c.lookup.domains = c.lookup.addresses = flags & CUSTOM ? custom : none;
	tables_init(&t, true);
	reading_init(&r, &t, flags & KEYS_ONLY);
	hear(&wants, &c, scenes[n].heard);
	if (flags & LOOK)
		reading_look(&r);
	else
		reading_begin(&r, !(flags & FOREIGN));
	do {
		said = ask(&r, &c, &wants, flags, &trace);
		if (said == READING_TOO_MUCH)
			sbuf_addf(&trace, " too-much");
		else if (said == READING_ROUND_OVER && r.stale)
			sbuf_addf(&trace, " stale");
		else if (said != READING_GOES_ON)
			sbuf_addf(&trace, "%s", endings[said]);
		if (said == READING_ROUND_OVER && again) {
			again = false;
			hear(&wants, &c, scenes[n].then);
			reading_again(&r);
			said = READING_GOES_ON;
		}
	} while (said == READING_GOES_ON || said == READING_TOO_MUCH);
	is_str(text, scenes[n].trace, scenes[n].name);
	reading_clear(&r);
	is_long(r.rounds.count, 0, "and what it read goes");
	wants_clear(&wants);
	tables_fini(&t);
}

/* New tables are gone at the end, but for those that another one has begun. */
static void
at_the_end(bool keys_only)
{
	static char none[] = "";
	struct config c = {.lookup = {.domains = none, .addresses = none}};
	struct reading r;
	struct tables t;
	PGresult *res = row("x.example", "", "");

	tables_init(&t, true);
	reading_init(&r, &t, keys_only);
	reading_begin(&r, true);
	source_begin(&c, &t, SOURCE_DOMAIN);
	source_put(&t, SOURCE_DOMAIN, res);
	r.left_out = 1;
	reading_clear(&r);
	is_long(r.left_out, 0, "nothing of one job is left for the next");
	tables_swap(&t);
	is_long(directory_count(t.directory, DIRECTORY_DOMAIN), keys_only,
	    keys_only ? "keys only: what another one has begun stays" :
			"the end: what was begun is gone");
	ok(r.ours && r.keys_only == keys_only, "what it is, it stays");
	PQclear(res);
	tables_fini(&t);
}

/* ---- what it means to be refused ---- */

static const struct {
	enum reading_step step;
	const char *state;
	bool impatient;
	enum reading_refusal refusal;
} refusals[] = {
    {READING_DECLARE, "55P03", true, REFUSED_LOCKED},
    {READING_KEYS, "55P03", true, REFUSED_LOCKED},
    {READING_FETCH, "55P03", true, REFUSED_LOCKED},
    {READING_CLOSE, "55P03", true, REFUSED_LOCKED},
    {READING_DECLARE, "55P03", false, REFUSED_ELSE},
    {READING_BEGIN, "55P03", true, REFUSED_ELSE},
    {READING_BARRIER, "55P03", true, REFUSED_ELSE},
    {READING_COMMIT, "54000", true, REFUSED_QUEUE_FULL},
    {READING_COMMIT, "54000", false, REFUSED_QUEUE_FULL},
    {READING_BARRIER, "54000", true, REFUSED_ELSE},
    {READING_FETCH, "54000", true, REFUSED_ELSE},
    {READING_DECLARE, "57014", true, REFUSED_SLOW},
    {READING_KEYS, "57014", false, REFUSED_SLOW},
    {READING_FETCH, "57014", false, REFUSED_SLOW},
    {READING_BARRIER, "57014", false, REFUSED_ELSE},
    {READING_SCHEMA, "57014", false, REFUSED_ELSE},
    {READING_KEYS, "42P01", true, REFUSED_ELSE},
    {READING_FETCH, "", true, REFUSED_ELSE},
    {READING_FETCH, NULL, true, REFUSED_ELSE},
    {READING_ROLLBACK, "55P03", true, REFUSED_ELSE},
};

static void
refused(void)
{
	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		const struct reading r = {.step = refusals[i].step};

		ok(reading_refusal(&r, refusals[i].state,
		       refusals[i].impatient) == refusals[i].refusal,
		    "%s at step %d, %s", refusals[i].state != NULL ?
			refusals[i].state : "no state", (int)r.step,
		    refusals[i].impatient ? "impatient" : "patient");
	}
}

static void
tables(void)
{
	static const char *const names[SOURCES] = {"domains", "domains",
	    "addresses", "addresses", "list_entry", "rule"};

	for (int s = 0; s < SOURCES; s++) {
		const struct reading r = {.step = READING_FETCH, .at = s};

		ok(str_eq(reading_table(&r), str_of(names[s])), "%s", names[s]);
	}
	is_long(reading_table(&(struct reading){.step = READING_COMMIT,
				  .at = SOURCES}).n, 0, "no table at the end");
	is_long(reading_table(&(struct reading){.step = READING_BEGIN}).n, 0,
	    "nor at the beginning");
}

int
main(void)
{
	hash_init();
	log_init(LOG_TO_STDERR, LOG_EMERG); /* rows here make no sense */
	for (size_t i = 0; i < sizeof(scenes) / sizeof(scenes[0]); i++)
		play(i);
	at_the_end(false);
	at_the_end(true);
	refused();
	tables();
	return tap_done();
}
