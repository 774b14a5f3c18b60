#ifndef POLICYD_SCRIPT_H
#define POLICYD_SCRIPT_H

/*
 * script - policy functions in SQL: policyd_script.NAME(request jsonb).
 *
 * Floor 6; uses base, mail, config, db, tables.  They run on connections of
 * their own, under query_timeout at both ends.
 */

#include "base/str.h"
#include "db/session.h"

struct config;
struct ev_loop;
struct script_call;
struct scripts;
struct subject;

enum script_result {
	SCRIPT_GO_ON,  /* it returned NULL */
	SCRIPT_ANSWER, /* its text is the action */
	SCRIPT_FAILED, /* an error, a timeout, no database: logged */
};

/* text is borrowed until the function returns. */
typedef void script_done_fn(void *arg, enum script_result result,
    struct str text);

struct scripts *scripts_new(struct ev_loop *loop, const struct config *config);

/* NULL is allowed.  Scripts under way fail at once. */
void scripts_free(struct scripts *s);

void scripts_reconfigure(struct scripts *s, const struct config *config);

/* Add its connections to those counted. */
void scripts_count(const struct scripts *s, struct db_count *count);

/*
 * Call the function with the subject's request.  done is called once, from the
 * loop; NULL if it cannot be called now (logged), and done never comes.  It may
 * take query_timeout, and not longer than max_s.
 */
struct script_call *script_call(struct scripts *s, struct str name,
    struct subject *subject, double max_s, script_done_fn *done, void *arg);

/* done will not be called. */
void script_cancel(struct script_call *call);

#endif
