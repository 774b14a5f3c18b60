#ifndef POLICYD_RULE_H
#define POLICYD_RULE_H

/*
 * rule - the administrator's rules, compiled, and which of them can apply to a
 * request at all.
 *
 * Floor 5; uses base, mail, tables.  Written by feed alone, between two
 * requests.  A request walks, in order, only the rules that an index cannot
 * rule out: of ten thousand that each speak of one domain, sender, network or
 * login, the few that speak of its own.
 */

#include "tables/condition.h"

struct rules;

/* What a rule may set for the steps after it; first one wins. */
enum setting {
	SETTING_RELAY,
	SETTING_MAX_RECIPIENTS,
	SETTING_SCRIPT,
	SETTING_GREYLIST,
	SETTING_VRFY,
	SETTING_EXPN,
	SETTING_ERRORS_TOTAL,
	SETTING_ERRORS_WAIT, /* ms */
	SETTINGS
};

enum rule_verb {
	VERB_ANSWER, /* a Postfix action: ends the decision */
	VERB_SET,
	VERB_SCRIPT,
	VERB_LIMIT,
	VERB_GREYLIST,
};

struct rule {
	int64_t id;
	int64_t priority;
	uint32_t states; /* bits of enum rule_state */
	bool enabled;
	bool shadow;
	enum rule_verb verb;
	enum setting setting;  /* VERB_SET */
	int64_t value;         /* VERB_SET, but for script */
	char *argument;        /* of set script, script, limit; else the action */
	struct condition **conditions;
	size_t count;
	char *action;          /* as it was written */
	char *state;
	/* Counted when it held: for status and top. */
	uint64_t hits;
};

enum rule_state {
	RULE_STATE_CONNECT,
	RULE_STATE_EHLO,
	RULE_STATE_HELO,
	RULE_STATE_MAIL,
	RULE_STATE_RCPT,
	RULE_STATE_DATA,
	RULE_STATE_END_OF_MESSAGE,
	RULE_STATE_VRFY,
	RULE_STATE_ETRN,
	RULE_STATE_EXPN,
	RULE_STATE_OTHER, /* one that Postfix may have one day: rules for ANY */
	RULE_STATES
};

/* The state of that name, or RULE_STATE_OTHER. */
enum rule_state rule_state_named(struct str name);

/* NULL if it is an action that a rule may have; else what is wrong with it. */
const char *rule_action_error(struct str text, struct str *part);

struct str setting_name(enum setting s);

/* ---- asked by a request ---- */

enum { WALK_LISTS = 48 };

/* Good until the rules change. */
struct rule_walk {
	const struct rule_index *index; /* NULL: the state has no rules */
	uint32_t from;  /* candidates before this place are behind us */
	bool all;       /* too many lists: every rule is a candidate */
	uint32_t count;
	struct {
		const uint32_t *p, *end;
	} list[WALK_LISTS];
};

/* Begin to walk the rules of the state; or go on behind a rule of old. */
void rules_walk(const struct rules *r, enum rule_state state,
    struct subject *s, struct rule_walk *walk);
void rules_walk_after(struct rule_walk *walk, int64_t priority, int64_t id);

/* The next candidate in order, or NULL.  Whether it holds is to be asked. */
struct rule *rules_next(struct rule_walk *walk);

/*
 * Do all conditions hold?  *failed is the first that does not, if not NULL.  A
 * regular expression that hits its bound is told once a minute, with the rule.
 */
bool rule_holds(const struct rule *rule, struct subject *s, double now,
    const struct condition **failed);

/* ---- written by feed ---- */

/* The lists are borrowed. */
struct rules *rules_new(struct lists *lists);
void rules_free(struct rules *r);

void rules_begin(struct rules *r);
void rules_swap(struct rules *r);
void rules_abandon(struct rules *r);

/* Between the two, rules go to the table that answers all the same. */
void rules_pause(struct rules *r);
void rules_resume(struct rules *r);

struct rule_row {
	int64_t id, priority;
	struct str state; /* empty: RCPT */
	struct str conditions; /* each with RULE_SEPARATOR behind it */
	struct str action;
	bool shadow, enabled;
};

#define RULE_SEPARATOR '\1'

/* false, and *why, if the row is none: it is left out. */
bool rules_put(struct rules *r, const struct rule_row *row, const char **why);
void rules_forget(struct rules *r, int64_t id);

/* Log that a row is none. */
void rule_left_out(int64_t id, const char *why);

/* Put what was changed in the table that answers in force. */
void rules_ready(struct rules *r);

/* ---- copied to disk and back: tables/copy.h ---- */

struct strtab;

/* The rules that answer, as a table of bytes; the caller frees it. */
struct strtab *rules_part(const struct rules *r);

/*
 * false: the record is none of a rule.  One that whoever wrote the copy took
 * for a rule, and this program does not, is left out, as it is when it comes
 * from PostgreSQL.
 */
bool rules_restore(struct rules *r, struct str key, struct str value);

size_t rules_count(const struct rules *r);

/* All rules by id, for check and list: NULL behind the last. */
const struct rule *rules_at(const struct rules *r, size_t i);

#endif
