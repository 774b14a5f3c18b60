#ifndef POLICYD_DECIDE_H
#define POLICYD_DECIDE_H

/*
 * decide - a request in, an answer out.
 *
 * Floor 5; uses base, mail, config, tables.  Runs the stages of the request's
 * SMTP state in the order of one table, until one answers.  One that has to ask
 * PostgreSQL waits, and the walk goes on from there.
 */

#include "config/config.h"
#include "mail/action.h"
#include "mail/request.h"
#include "policy/greylist.h"

struct check;
struct check_trace;
struct ev_loop;
struct policy;
struct tables;

/* What was answered since the start, and what it takes; for policyctl status. */
struct policy_status {
	uint64_t answers[ACTION_MEANINGS];
	uint64_t closed; /* without an answer */
	uint64_t replies[REPLIES]; /* of those, policyd's own */
	uint32_t sessions;
	struct greylist_status greylist;
	struct db_count db; /* all of its connections */
};

struct answer {
	size_t n;      /* bytes of wire; 0: close without a reply */
	double hold_s; /* keep it back for so long, without holding up others */
	char wire[ACTION_WIRE_MAX_BYTES];
};

/* answer is borrowed until the function returns. */
typedef void decide_done_fn(void *arg, const struct answer *answer);

/*
 * Borrows all.  loop is NULL for a policy that is only asked
 * decide_traced().
 */
struct policy *policy_new(struct ev_loop *loop, const struct config *config,
    struct tables *tables);

/* NULL is allowed.  No check may be waiting any more. */
void policy_free(struct policy *p);

/* Of a policy with a loop. */
struct policy_status policy_status(const struct policy *p);

/*
 * Nobody asks any more: write what PostgreSQL has yet to hear, in at most
 * max_s.  Runs the loop.
 */
void policy_drain(struct policy *p, double max_s);

/* Go on with another config; the one before is not looked at again. */
void policy_reconfigure(struct policy *p, const struct config *config);

/*
 * now: seconds since 1970.  NULL: *out is the answer.  Else the check waits,
 * and done is called once with the answer, from the loop, unless
 * decide_cancel() was called before; the bytes that request's slices borrow
 * must stay where they are until then.
 */
struct check *decide(struct policy *p, const struct request *request,
    double now, struct answer *out, decide_done_fn *done, void *arg);

void decide_cancel(struct check *c);

/* What it waits for is not waited for any longer: the answer is `unavailable`. */
void decide_give_up(struct check *c, struct answer *out);

/*
 * The same, told step by step, all rules included; nothing is counted, and a
 * script is told, not called.
 */
void decide_traced(struct policy *p, const struct request *request, double now,
    const struct check_trace *trace, struct answer *out);

#endif
