/*
 * check - what is wrong with the rules, said before a request finds out.
 *
 * Each enabled rule is read by the code that policyd reads it with.
 */

#include "base/str.h"
#include "ctl/ctl.h"
#include "tables/list.h"
#include "tables/rule.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { MESSAGE_MAX_BYTES = 2048 };

/* What was found, and who answers every request of a state. */
struct check {
	struct ctl *ctl;
	int wrong;
	int found;
	const char *answerer[RULE_STATES]; /* the number of a rule, or NULL */
};

static void
print_string(const char *s)
{
	putchar('"');
	for (; *s != '\0'; s++) {
		if (*s == '"' || *s == '\\')
			putchar('\\');
		putchar(*s);
	}
	putchar('"');
}

/* A warning is told, but fails nothing. */
static void __attribute__((format(printf, 4, 5)))
report(struct check *c, bool is_warning, const char *rule, const char *fmt, ...)
{
	char text[MESSAGE_MAX_BYTES];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (c->ctl->json) {
		printf("%s\n{\"rule\": %s, \"level\": \"%s\", \"message\": ",
		    c->found > 0 ? "," : "", rule,
		    is_warning ? "warning" : "error");
		print_string(text);
		putchar('}');
	} else {
		printf("rule %s: %s%s\n", rule, is_warning ? "warning: " : "",
		    text);
	}
	c->found++;
	c->wrong += !is_warning;
}

/* ---- each rule by itself ---- */

static void
check_condition(struct check *c, const char *rule, struct str text,
    struct lists *lists)
{
	struct str part = {"", 0};
	const char *why = condition_error(text, &part);
	struct condition *condition;

	if (why != NULL) {
		report(c, false, rule, "\"%.*s\" is no condition: %s: %.*s",
		    (int)text.n, text.p, why, (int)part.n, part.p);
		return;
	}
	condition = condition_new(text, lists);
	why = condition_regex_error(condition);
	if (why != NULL)
		report(c, false, rule,
		    "\"%.*s\" never holds: to PCRE2 it is no regular "
		    "expression: %s",
		    (int)text.n, text.p, why);
	condition_free(condition);
}

static bool
check_conditions(struct check *c)
{
	PGresult *result = ctl_query(c->ctl,
	    "SELECT id, condition FROM policyd.rule,"
	    " unnest(conditions) WITH ORDINALITY AS t (condition, n)"
	    " WHERE enabled ORDER BY priority, id, n",
	    0, NULL);
	struct lists *lists;

	if (result == NULL)
		return false;
	lists = lists_new();
	for (int i = 0; i < PQntuples(result); i++)
		check_condition(c, PQgetvalue(result, i, 0),
		    str_of(PQgetvalue(result, i, 1)), lists);
	lists_free(lists);
	PQclear(result);
	return true;
}

/* Those of a query: a rule and what is to be said of it. */
static bool
report_rows(struct check *c, bool is_warning, const char *sql)
{
	PGresult *result = ctl_query(c->ctl, sql, 0, NULL);

	if (result == NULL)
		return false;
	for (int i = 0; i < PQntuples(result); i++)
		report(c, is_warning, PQgetvalue(result, i, 0), "%s",
		    PQgetvalue(result, i, 1));
	PQclear(result);
	return true;
}

static const char LISTS[] =
    "SELECT id, format('the list \"%s\" has no entries: nothing is in it', list)"
    " FROM (SELECT DISTINCT priority, id, split_part(use, ':', 2) AS list"
    "  FROM policyd.rule, unnest(policyd.conditions_lists(conditions)) AS use"
    "  WHERE enabled) AS t"
    " WHERE NOT EXISTS (SELECT FROM policyd.list_entry AS e"
    "  WHERE e.list = t.list)"
    " ORDER BY priority, id, list";

static const char SCRIPTS[] =
    "SELECT id, CASE WHEN script IS NULL"
    "  THEN format('there is no function policyd_script.%s(request jsonb)', name)"
    "  ELSE format('policyd_script.%s does not return text', name) END"
    " FROM (SELECT *, to_regprocedure('policyd_script.' || name || '(jsonb)')"
    "  AS script"
    "  FROM (SELECT priority, id, substring(action"
    "   FROM '^(?:[Ss][Ee][Tt] +)?[Ss][Cc][Rr][Ii][Pp][Tt] +([a-z0-9_]+)$')"
    "   AS name"
    "   FROM policyd.rule WHERE enabled) AS named"
    "  WHERE name IS NOT NULL AND name <> 'none') AS scripts"
    " LEFT JOIN pg_proc ON pg_proc.oid = script"
    " WHERE script IS NULL OR prorettype <> 'text'::regtype"
    " ORDER BY priority, id";

/* The rules come before the relay check: nothing stops a stranger then. */
static const char PERMITS[] =
    "SELECT id, format('%s lets a stranger through before relaying is "
    "decided', action)"
    " FROM policyd.rule"
    " WHERE enabled AND NOT shadow AND coalesce(state, 'RCPT') IN ('RCPT', 'ANY')"
    " AND lower(substring(action FROM '^[^ ,]+')) IN ('ok', 'permit', 'relay')"
    " AND NOT EXISTS (SELECT FROM unnest(conditions) AS condition"
    "  WHERE lower(condition) ~ '^ *(sasl_username +is +not +empty"
    "|client_address *(=|in )|recipient_is_local *= *yes)')"
    " ORDER BY priority, id";

/* ---- one after the other ---- */

/* Does this action end the decision, whoever asks? */
static bool
answers(struct str action)
{
	static const struct str ours[] = {STR_INIT("set"), STR_INIT("script"),
	    STR_INIT("limit"), STR_INIT("greylist")};
	struct str word = str_word(&action);

	for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
		if (str_ieq(ours[i], word))
			return false;
	return true;
}

/* The rule that answers all that this one could be asked; NULL: none does. */
static const char *
answered_by(const struct check *c, const char *state)
{
	if (strcmp(state, "ANY") != 0)
		return c->answerer[rule_state_named(str_of(state))];
	for (int s = 0; s < RULE_STATES; s++)
		if (c->answerer[s] == NULL)
			return NULL;
	return c->answerer[RULE_STATE_RCPT];
}

static void
note_answerer(struct check *c, const char *state, const char *rule)
{
	for (int s = 0; s < RULE_STATES; s++)
		if (c->answerer[s] == NULL &&
		    (strcmp(state, "ANY") == 0 ||
			rule_state_named(str_of(state)) == (enum rule_state)s))
			c->answerer[s] = rule;
}

static bool
check_order(struct check *c)
{
	PGresult *result = ctl_query(c->ctl,
	    "SELECT id, coalesce(state, 'RCPT'), action,"
	    " conditions = '{}' AND NOT shadow"
	    " FROM policyd.rule WHERE enabled ORDER BY priority, id",
	    0, NULL);

	if (result == NULL)
		return false;
	for (int i = 0; i < PQntuples(result); i++) {
		const char *rule = PQgetvalue(result, i, 0);
		const char *state = PQgetvalue(result, i, 1);
		struct str action = str_of(PQgetvalue(result, i, 2)), part;
		const char *before = answered_by(c, state);
		const char *why = rule_action_error(action, &part);

		if (why != NULL)
			report(c, false, rule, "\"%s\" is no action: %s: %.*s",
			    action.p, why, (int)part.n, part.p);
		if (before != NULL)
			report(c, false, rule,
			    "it never runs: rule %s answers always", before);
		if (PQgetvalue(result, i, 3)[0] == 't' && answers(action))
			note_answerer(c, state, rule);
	}
	PQclear(result);
	return true;
}

/* ---- the command ---- */

enum ctl_status
check_rules(struct ctl *ctl, const struct table *table,
    const struct values *values)
{
	struct check c = {.ctl = ctl};
	bool done;

	(void)table, (void)values;
	if (ctl->json)
		putchar('[');
	done = check_conditions(&c) && check_order(&c) &&
	    report_rows(&c, false, LISTS) && report_rows(&c, false, SCRIPTS) &&
	    report_rows(&c, true, PERMITS);
	if (ctl->json)
		puts("\n]");
	else if (done && c.found == 0)
		puts("nothing is wrong with the rules");
	return done && c.wrong == 0 ? CTL_YES : CTL_NO;
}
