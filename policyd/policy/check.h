#ifndef POLICYD_CHECK_H
#define POLICYD_CHECK_H

/*
 * check - one request on its way through the stages.
 *
 * Floor 5; uses base, mail, config, tables.  A stage looks at the check and
 * either answers it or leaves it to the next; decide.c has the order.
 */

#include "config/config.h"
#include "mail/address.h"
#include "mail/request.h"
#include "policy/session.h"
#include "tables/directory.h"

struct check {
	const struct config *config;
	const struct directory *directory;
	struct sessions *sessions;
	const struct request *request;
	double now; /* seconds since 1970 */
	bool authenticated;

	/* Found on the way, by the stage that says so. */
	struct session *session; /* session: NULL in states without one */
	uint64_t message;        /* session: 0 without an instance */
	uint64_t recipient_key;  /* address: equal for equal recipients */
	bool is_address;         /* address: the recipient is usable */
	struct str local;        /* address: its two halves, as they came */
	struct str domain_name;
	struct str folded;       /* address: the domain as tables have it */
	bool is_local;           /* recipient */
	struct domain domain;    /* recipient: where it is local */
	uint32_t limit;          /* message: recipients a message may have */

	/* The answer. */
	const char *reason;  /* a word for the log */
	struct str action;   /* borrowed from config or tables */
	bool is_own;         /* one of [reply]: placeholders, may be `close` */
	bool positive;       /* 250 for EXPN, with the text in `text` */
	double hold_s;       /* to be held back for so long */

	/* Room for what the above borrows; never cleared. */
	struct check_room *room;
};

struct check_room {
	char folded[DOMAIN_MAX_BYTES + 1];
	char text[512];
};

enum step {
	STEP_NEXT,     /* the next stage may answer */
	STEP_ANSWERED, /* action and reason are set */
};

typedef enum step stage_fn(struct check *c);

static inline struct str
check_value(const struct check *c, enum attribute a)
{
	return c->request->value[a];
}

/* Answer with one of [reply]. */
static inline enum step
check_reply(struct check *c, enum reply_name name)
{
	c->reason = reply_key(name).p;
	c->action = str_of(c->config->reply[name]);
	c->is_own = true;
	return STEP_ANSWERED;
}

/* Answer with an action of the administrator's. */
static inline enum step
check_action(struct check *c, struct str action, const char *reason)
{
	c->reason = reason;
	c->action = action;
	return STEP_ANSWERED;
}

/* ---- the stages ---- */

stage_fn stage_address;         /* recipient.c: take it apart */
stage_fn stage_session;         /* message.c: find it */
stage_fn stage_errors;          /* has it had too many refusals? */
stage_fn stage_recipient;       /* recipient.c: is it somebody here? */
stage_fn stage_recipient_count; /* too many for this message? */
stage_fn stage_accept;          /* RCPT: remember, and DUNNO */
stage_fn stage_data;            /* DATA: too many after all? */
stage_fn stage_vrfy;            /* lookup.c: may this client? */
stage_fn stage_expn;
stage_fn stage_expand;
stage_fn stage_pass;            /* DUNNO */

#endif
