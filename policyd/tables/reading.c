#include "tables/reading.h"

#include "base/mem.h"
#include "db/array.h"
#include "tables/schema.h"
#include "tables/tables.h"

#include <stdlib.h>

enum {
	KEYED_ROWS_MAX = 20000, /* rows of changed keys; more: read it whole */
	FETCH_ROWS = 2000, /* a slice of a full read: about 1 ms of the loop */
};

void
reading_init(struct reading *r, struct tables *tables, bool keys_only)
{
	*r = (struct reading){.tables = tables, .keys_only = keys_only};
}

void
reading_look(struct reading *r)
{
	r->step = READING_SCHEMA;
}

void
reading_begin(struct reading *r, bool ours)
{
	r->ours = ours;
	reading_again(r);
}

void
reading_again(struct reading *r)
{
	r->step = READING_BEGIN;
}

void
reading_undo(struct reading *r)
{
	r->step = READING_ROLLBACK;
}

/* ---- what to ask ---- */

static char *
keyed_statement(const struct reading *r, const struct config *config,
    char **keys)
{
	enum source s = (enum source)r->at;
	const struct want *w = &rounds_last(&r->rounds)->want[s];

	*keys = db_array(w->keys, w->count, true);
	return mem_strdup(source_keyed_query(config, s));
}

static char *
cursor_statement(const struct reading *r, const struct config *config)
{
	char *query = source_query(config, (enum source)r->at), *sql;

	sql = mem_printf("DECLARE policyd_feed_%d NO SCROLL CURSOR FOR %s",
	    r->at, query);
	free(query);
	return sql;
}

/* The schema may be upgraded while it is read. */
static char *
barrier_statement(const struct reading *r)
{
	return mem_printf("SELECT pg_notify('policyd_barrier', ''), %s, %s",
	    source_is_stale(), r->ours ? SCHEMA_VERSION : "NULL");
}

char *
reading_statement(const struct reading *r, const struct config *config,
    char **keys)
{
	*keys = NULL;
	switch (r->step) {
	case READING_SCHEMA:
		return mem_strdup(SCHEMA_IS_THERE);
	case READING_VERSION:
		return mem_printf("SELECT %s", SCHEMA_VERSION);
	case READING_BEGIN:
		return mem_strdup(
		    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
	case READING_DECLARE:
		return cursor_statement(r, config);
	case READING_KEYS:
		return keyed_statement(r, config, keys);
	case READING_FETCH:
		return mem_printf("FETCH FORWARD %d FROM policyd_feed_%d",
		    FETCH_ROWS, r->at);
	case READING_CLOSE:
		return mem_printf("CLOSE policyd_feed_%d", r->at);
	case READING_BARRIER:
		return barrier_statement(r);
	case READING_COMMIT:
		return mem_strdup("COMMIT");
	case READING_ROLLBACK:
		break;
	}
	return mem_strdup("ROLLBACK");
}

/* ---- what comes next ---- */

/* The next cursor, or the end. */
static void
fetch_next(struct reading *r, const struct config *config)
{
	enum source s;

	for (r->at++; r->at < SOURCES; r->at++)
		if (rounds_last(&r->rounds)->declared[r->at])
			break;
	if (r->at == SOURCES) {
		r->step = READING_BARRIER;
		return;
	}
	s = (enum source)r->at;
	rounds_drop_keys(&r->rounds, s);
	source_begin(config, r->tables, s);
	r->step = READING_FETCH;
}

static bool
is_to_be_read(const struct reading *r, const struct config *config,
    enum source s)
{
	const struct want *w = &rounds_last(&r->rounds)->want[s];

	return is_wanted(w) && (r->ours || s <= SOURCE_ALIAS) &&
	    (!w->whole || source_is_read(config, s));
}

/* The next source that is wanted: its keys, or a cursor for all of it. */
static void
lock_next(struct reading *r, const struct config *config)
{
	struct round *round = rounds_last(&r->rounds);

	for (r->at++; r->at < SOURCES; r->at++)
		if (is_to_be_read(r, config, (enum source)r->at))
			break;
	if (r->at == SOURCES) {
		r->at = -1;
		fetch_next(r, config);
		return;
	}
	round->declared[r->at] = round->want[r->at].whole;
	r->step = round->declared[r->at] ? READING_DECLARE : READING_KEYS;
}

static enum reading_said
take_schema(struct reading *r, const struct config *config,
    const PGresult *res)
{
	r->ours = PQgetvalue(res, 0, 0)[0] == 't';
	if (!r->ours && schema_is_needed(config))
		return READING_NO_SCHEMA;
	/* Else [lookup] reads a schema that is not ours. */
	r->step = r->ours ? READING_VERSION : READING_BEGIN;
	return READING_GOES_ON;
}

/* The step that follows, where this program knows the version. */
static enum reading_said
take_version(struct reading *r, const char *text, enum reading_step next)
{
	r->version = schema_version_of(text);
	if (r->ours && !schema_is_known(r->version))
		return READING_OTHER_SCHEMA;
	r->step = next;
	return READING_GOES_ON;
}

/* More than keys is wanted of a source, where that is not to be read. */
static enum reading_said
give_up(struct reading *r)
{
	reading_undo(r);
	return READING_TOO_MUCH;
}

static enum reading_said
begin_round(struct reading *r, const struct config *config,
    struct wants *wants)
{
	const struct round *round = rounds_add(&r->rounds, wants);

	r->at = -1;
	if (r->keys_only && is_any_whole(round->want))
		return give_up(r);
	lock_next(r, config);
	return READING_GOES_ON;
}

/* Takes the result.  Rows too many for one turn of the loop are read whole. */
static enum reading_said
take_keys(struct reading *r, const struct config *config, PGresult *res)
{
	struct round *round = rounds_last(&r->rounds);

	if (PQntuples(res) <= KEYED_ROWS_MAX || r->at == SOURCE_RULE) {
		round->rows[r->at] = res;
	} else {
		PQclear(res);
		want_whole(&round->want[r->at]);
		if (r->keys_only)
			return give_up(r);
		r->at--;
	}
	lock_next(r, config);
	return READING_GOES_ON;
}

static void
take_rows(struct reading *r, const PGresult *res)
{
	r->left_out += source_put(r->tables, (enum source)r->at, res);
	if (PQntuples(res) < FETCH_ROWS)
		r->step = READING_CLOSE;
}

static enum reading_said
take_barrier(struct reading *r, const PGresult *res)
{
	r->stale = PQgetvalue(res, 0, 1)[0] == 't';
	return take_version(r, PQgetvalue(res, 0, 2), READING_COMMIT);
}

enum reading_said
reading_answer(struct reading *r, const struct config *config,
    struct wants *wants, PGresult *res)
{
	enum reading_said said = READING_GOES_ON;

	switch (r->step) {
	case READING_SCHEMA:
		said = take_schema(r, config, res);
		break;
	case READING_VERSION:
		said = take_version(r, PQgetvalue(res, 0, 0), READING_BEGIN);
		break;
	case READING_BEGIN:
		said = begin_round(r, config, wants);
		break;
	case READING_DECLARE:
		lock_next(r, config);
		break;
	case READING_KEYS:
		return take_keys(r, config, res);
	case READING_FETCH:
		take_rows(r, res);
		break;
	case READING_CLOSE:
		fetch_next(r, config);
		break;
	case READING_BARRIER:
		said = take_barrier(r, res);
		break;
	case READING_COMMIT:
		said = READING_ROUND_OVER;
		break;
	case READING_ROLLBACK:
		said = READING_UNDONE;
		break;
	}
	PQclear(res);
	return said;
}

/* ---- where it fails ---- */

static bool
is_at_source(const struct reading *r)
{
	return r->step >= READING_DECLARE && r->step <= READING_CLOSE;
}

enum reading_refusal
reading_refusal(const struct reading *r, const char *sqlstate, bool impatient)
{
	struct str s = str_of(sqlstate);

	if (str_eq(s, STR("55P03")) && is_at_source(r) && impatient)
		return REFUSED_LOCKED;
	if (str_eq(s, STR("54000")) && r->step == READING_COMMIT)
		return REFUSED_QUEUE_FULL;
	if (str_eq(s, STR("57014")) && is_at_source(r))
		return REFUSED_SLOW;
	return REFUSED_ELSE;
}

struct str
reading_table(const struct reading *r)
{
	static const struct str names[SOURCES] = {STR_INIT("domains"),
	    STR_INIT("domains"), STR_INIT("addresses"), STR_INIT("addresses"),
	    STR_INIT("list_entry"), STR_INIT("rule")};

	return is_at_source(r) ? names[r->at] : STR("");
}

void
reading_clear(struct reading *r)
{
	rounds_clear(&r->rounds);
	if (!r->keys_only)
		tables_abandon(r->tables);
	*r = (struct reading){.tables = r->tables, .keys_only = r->keys_only,
	    .ours = r->ours};
}
