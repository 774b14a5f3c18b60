#ifndef POLICYD_CHECK_H
#define POLICYD_CHECK_H

/*
 * check - one request on its way through the stages.
 *
 * Floor 6; uses base, mail, config, tables.  A stage looks at the check and
 * answers it, leaves it to the next, or waits; decide.c has the order.
 */

#include "config/config.h"
#include "mail/address.h"
#include "mail/host.h"
#include "mail/sender.h"
#include "policy/greylist.h"
#include "policy/session.h"
#include "tables/directory.h"
#include "tables/rule.h"
#include "tables/tables.h"

struct hosts;
struct policy;
struct script_call;

enum step {
	STEP_NEXT,     /* the next stage may answer */
	STEP_ANSWERED, /* action and reason are set */
	STEP_WAITING,  /* check_resume() follows, from the loop */
};

/* What a script that a stage waited for came back with. */
enum script_state {
	SCRIPT_NONE,    /* none was called by this stage */
	SCRIPT_WAITING,
	SCRIPT_WENT_ON, /* it had nothing to say */
};

/* How far greylisting is: asked at most once a request. */
enum greylist_state {
	GREYLIST_UNASKED,
	GREYLIST_WAITING,
	GREYLIST_ANSWERED, /* in the room */
	GREYLIST_DONE,     /* and heeded */
};

/* For policyctl explain: told of each step, where not NULL. */
struct check_trace {
	void (*rule)(void *arg, const struct rule *rule,
	    const struct condition *failed);
	void (*script)(void *arg, struct str name);
	/* What would greylisting say?  Asked by the teller's own means. */
	void (*greylist)(void *arg, const struct sighting *s,
	    struct greylist_answer *out);
	void (*stage)(void *arg, const char *name, enum step step);
	/* It is no question: the one thing told then. */
	void (*odd)(void *arg, const char *what, struct str which);
	void *arg;
};

struct check {
	struct policy *policy;
	const struct config *config;
	struct tables *tables;
	struct sessions *sessions;
	struct hosts *hosts;
	struct greylist *greylist; /* NULL where it is told, not asked */
	const struct request *request;
	double now; /* seconds since 1970 */
	const char *hostname;
	bool authenticated;
	enum rule_state state;
	const struct check_trace *trace;

	/* Found on the way, by the stage that says so. */
	uint64_t session_key;
	struct session *session; /* session: NULL in states without one */
	uint64_t message;        /* session: 0 without an instance */
	uint64_t recipient_key;  /* address: equal for equal recipients */
	bool split;              /* address: the recipient was taken apart */
	bool is_address;         /* address: the recipient is usable */
	struct str local;        /* address: its two halves, as they came */
	struct str domain_name;
	struct str folded;       /* address: the domain as tables have it */
	struct str folded_recipient; /* address: all of it as tables have it */
	bool is_local;           /* recipient */
	struct domain domain;    /* recipient: where it is local */
	enum tristate address_greylist; /* recipient: as its row says */
	struct str address_reply;       /* recipient: as its row says */

	/* Rules: what they see, where they are, and what they set. */
	struct subject subject;
	bool walked;             /* rules before this one are behind us */
	int64_t rule_priority;
	int64_t rule_id;         /* the rule that answers, too; 0: none */
	uint32_t is_set;         /* bits of enum setting */
	int64_t set[SETTINGS];
	char script[64];         /* of `set script`; empty: none */

	/* Greylisting: grey.c. */
	enum greylist_state greylist_state;
	bool delayed;      /* by this request it passes */
	int64_t delayed_s; /* after so long */
	int64_t seconds;   /* or it waits for so long still */

	/* Waiting: decide.c. */
	int stage;
	enum script_state script_state;
	struct script_call *script_call;
	double since; /* when it waited first, by clock_s(); 0: it has not */

	/* The answer. */
	const char *reason;  /* a word for the log */
	struct str action;   /* borrowed until it is written */
	bool is_own;         /* one of [reply]: placeholders, may be `close` */
	enum reply_name own; /* which */
	bool positive;       /* 250 for EXPN */
	double hold_s;       /* to be held back for so long */

	/* Room for what the above borrows; never cleared. */
	struct check_room *room;
};

struct check_room {
	char folded[DOMAIN_MAX_BYTES + 1];
	char sender_domain[DOMAIN_MAX_BYTES + 1];
	char recipient_domain[DOMAIN_MAX_BYTES + 1];
	char client[HOST_CLIENT_MAX_BYTES];
	char text[1024];
	char completed[64];
	char recipient[ADDRESS_MAX_BYTES + 1];

	/* What greylisting waits with. */
	char pair[SENDER_MAX_BYTES + 1 + ADDRESS_MAX_BYTES + 1];
	char client_text[HOST_CLIENT_MAX_BYTES];
	char network_text[HOST_CLIENT_MAX_BYTES];
	struct sighting sighting;
	struct greylist_waiter greylist_waiter;
	struct greylist_answer greylist_answer;
};

/* What step 3 makes of a recipient. */
enum recipient_word {
	RECIPIENT_RELAYED, /* not local, and allowed */
	RECIPIENT_HERE,
	RECIPIENT_REPLY, /* it has an answer of its own: address_reply */
	RECIPIENT_BAD,
	RECIPIENT_UNKNOWN,
	RECIPIENT_DENIED,
	RECIPIENT_UNAVAILABLE, /* nobody can say now */
};

typedef enum step stage_fn(struct check *c);

static inline struct str
check_value(const struct check *c, enum attribute a)
{
	return c->request->value[a];
}

/* What a rule set it to, else what is configured. */
static inline int64_t
check_setting(const struct check *c, enum setting s, int64_t configured)
{
	return (c->is_set >> s & 1) != 0 ? c->set[s] : configured;
}

/* Answer with one of [reply]. */
static inline enum step
check_reply(struct check *c, enum reply_name name)
{
	c->reason = reply_key(name).p;
	c->action = str_of(c->config->reply[name]);
	c->is_own = true;
	c->own = name;
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

/* recipient.c: take the recipient apart, where that was not done yet. */
void check_split(struct check *c);

/* message.c: find the session (again), and the message in it. */
void check_session(struct check *c);

/* message.c: `set errors_total`, which holds from the next request. */
void check_set_errors_total(struct check *c, int64_t total);

/*
 * message.c: the answer does not refuse the recipient: it counts as one of its
 * message, whoever gave it.
 */
void check_accepted(struct check *c);

/*
 * decide.c: call a script and wait for it.  When it has nothing to say, the
 * stage is called again with SCRIPT_WENT_ON.
 */
enum step check_script(struct check *c, struct str name);

/* decide.c: what a stage waited for is here; from the loop alone. */
void check_resume(struct check *c);

/* recipient.c: is it somebody here?  What step 3 says, without counting. */
enum recipient_word check_recipient(struct check *c);

/*
 * grey.c: is it greylisted?  Whether it should be asked at all is the
 * caller's to say.  A stage that waited for it calls it again.
 */
enum step check_greylist(struct check *c);

/* For the log: what greylisting made of it, and of whom; false: not asked. */
bool check_greylisted(struct check *c, struct str *word, struct str *client);

/* ---- the stages ---- */

stage_fn stage_address;         /* recipient.c: take it apart */
stage_fn stage_session;         /* message.c: find it */
stage_fn stage_errors;          /* has it had too many refusals? */
stage_fn stage_rules;           /* rules.c */
stage_fn stage_recipient;       /* recipient.c: is it somebody here? */
stage_fn stage_recipient_count; /* message.c: too many for this message? */
stage_fn stage_script;          /* rules.c: the function set for it */
stage_fn stage_greylist;        /* grey.c: has it been tried before? */
stage_fn stage_accept;          /* RCPT: the header, or DUNNO */
stage_fn stage_data;            /* DATA: too many after all? */
stage_fn stage_vrfy;            /* lookup.c: may this client? */
stage_fn stage_expn;
stage_fn stage_expand;
stage_fn stage_pass;            /* DUNNO */

/* rules.c: what a derived attribute is, for struct subject. */
struct str check_derive(struct subject *s, int attribute);

#endif
