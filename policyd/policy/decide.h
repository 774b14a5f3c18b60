#ifndef POLICYD_DECIDE_H
#define POLICYD_DECIDE_H

/*
 * decide - a request in, an answer out.
 *
 * Floor 5; uses base, mail, config, tables.  Runs the stages of the request's
 * SMTP state in the order of one table, until one answers.
 */

#include "mail/action.h"
#include "mail/request.h"

struct config;
struct directory;
struct policy;

struct answer {
	size_t n;      /* bytes of wire; 0: close without a reply */
	double hold_s; /* keep it back for so long, without holding up others */
	char wire[ACTION_WIRE_MAX_BYTES];
};

/* Borrows both; the directory is asked at every request. */
struct policy *policy_new(const struct config *config,
    const struct directory *directory);

/* NULL is allowed. */
void policy_free(struct policy *p);

/* Go on with another config; the one before is not looked at again. */
void policy_reconfigure(struct policy *p, const struct config *config);

/* now: seconds since 1970.  Always fills in *out. */
void decide(struct policy *p, const struct request *request, double now,
    struct answer *out);

#endif
