#include "policy/decide.h"

#include "base/log.h"
#include "base/mem.h"
#include "policy/check.h"

#include <stdlib.h>

struct policy {
	const struct config *config;
	const struct directory *directory;
	struct sessions *sessions;
	struct check_room room;
	struct log_limit odd_limit;
	struct log_limit unsafe_limit;
};

/* Bits of the attributes that a state cannot do without. */
#define NEEDS(a) (UINT64_C(1) << ATTR_##a)

/*
 * What happens at each SMTP state, in this order; the first stage that answers
 * ends it.  The last state is every other one.
 */
static const struct state {
	struct str name;
	uint64_t needs;
	stage_fn *stages[8];
} states[] = {
    {STR_INIT("RCPT"), NEEDS(client_address) | NEEDS(sender) | NEEDS(recipient),
	{stage_address, stage_session, stage_errors, stage_recipient,
	    stage_recipient_count, stage_accept}},
    {STR_INIT("DATA"), NEEDS(recipient_count), {stage_data, stage_pass}},
    {STR_INIT("END-OF-MESSAGE"), NEEDS(recipient_count),
	{stage_data, stage_pass}},
    {STR_INIT("VRFY"), NEEDS(recipient),
	{stage_vrfy, stage_address, stage_recipient, stage_pass}},
    {STR_INIT("EXPN"), NEEDS(recipient),
	{stage_expn, stage_address, stage_recipient, stage_expand,
	    stage_pass}},
    {STR_INIT(""), 0, {stage_pass}},
};
enum { STATES = sizeof(states) / sizeof(states[0]) };

static const struct state *
state_of(const struct request *r)
{
	for (int i = 0; i < STATES - 1; i++)
		if (str_eq(states[i].name, r->value[ATTR_protocol_state]))
			return &states[i];
	return &states[STATES - 1];
}

/* The first attribute that is missing, or ATTRIBUTES. */
static enum attribute
missing(const struct request *r, const struct state *state)
{
	uint64_t lack =
	    (state->needs | NEEDS(protocol_state)) & ~r->present;

	return lack == 0 ? ATTRIBUTES : (enum attribute)__builtin_ctzll(lack);
}

/* What is asked makes no sense: DUNNO is right, and somebody should know. */
static void
log_odd(struct policy *p, const struct request *r, double now, const char *what,
    struct str which)
{
	struct log_entry e;
	uint64_t suppressed;

	if (!log_allowed(&p->odd_limit, now, &suppressed))
		return;
	log_begin(&e, LOG_WARNING, what);
	log_str(&e, "which", which);
	log_str(&e, "state", r->value[ATTR_protocol_state]);
	log_str(&e, "client", r->value[ATTR_client_address]);
	if (suppressed > 0)
		log_int(&e, "suppressed", (int64_t)suppressed);
	log_end(&e);
}

static bool
makes_sense(struct policy *p, const struct request *r,
    const struct state *state, double now)
{
	enum attribute lacks;

	if (!str_eq(r->value[ATTR_request], STR("smtpd_access_policy"))) {
		log_odd(p, r, now, "no policy request",
		    r->value[ATTR_request]);
		return false;
	}
	lacks = missing(r, state);
	if (lacks != ATTRIBUTES) {
		log_odd(p, r, now, "an attribute is missing",
		    attribute_name(lacks));
		return false;
	}
	return true;
}

/*
 * The longest that Postfix may put before our text: the recipient, or with the
 * service in another restriction list the sender, the HELO name or the client.
 * It quotes addresses, which can double a '"' or '\'.
 */
static size_t
subject_len(const struct request *r)
{
	struct str recipient = r->value[ATTR_recipient];
	size_t lens[] = {
	    recipient.n,
	    r->value[ATTR_sender].n,
	    r->value[ATTR_helo_name].n,
	    r->value[ATTR_client_name].n + r->value[ATTR_client_address].n + 2,
	};
	size_t most = 0;

	for (size_t i = 0; i < recipient.n; i++)
		lens[0] += recipient.p[i] == '"' || recipient.p[i] == '\\';
	for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++)
		if (lens[i] > most)
			most = lens[i];
	return most;
}

static struct str
fallback(const struct config *c)
{
	struct str own = str_of(c->reply[REPLY_unavailable]);

	/* With `close` or placeholders in it, it is none. */
	if (str_ieq(own, STR("close")) || memchr(own.p, '{', own.n) != NULL)
		return STR("DEFER_IF_PERMIT 4.3.0 Temporarily unavailable");
	return own;
}

static void
log_unsafe(struct policy *p, const struct check *c)
{
	struct log_entry e;
	uint64_t suppressed;

	if (!log_allowed(&p->unsafe_limit, c->now, &suppressed))
		return;
	log_begin(&e, LOG_ERR, "an action that is not safe was replaced");
	log_str(&e, "action", c->action);
	log_str(&e, "reason", str_of(c->reason));
	log_end(&e);
}

/* The one way an answer gets on the wire. */
static void
write_answer(struct policy *p, const struct check *c, struct answer *out)
{
	struct sbuf b = sbuf_over(out->wire, sizeof(out->wire));
	const struct request *r = c->request;
	const struct action_placeholder with[] = {
	    {STR("recipient"), r->value[ATTR_recipient]},
	    {STR("domain"), c->domain_name},
	    {STR("sender"), r->value[ATTR_sender]},
	    {STR("client"), r->value[ATTR_client_address]},
	    {STR("seconds"), STR("0")},
	};

	out->hold_s = c->hold_s;
	out->n = 0;
	if (c->is_own && str_ieq(c->action, STR("close")))
		return;
	if (c->positive)
		action_format_positive(&b, c->action);
	else if (!action_format(&b, c->action, with,
		     c->is_own ? sizeof(with) / sizeof(with[0]) : 0,
		     subject_len(r), fallback(c->config)))
		log_unsafe(p, c);
	out->n = b.n;
}

/* "action=…\n\n" without its frame. */
static struct str
bare(const struct answer *a)
{
	static const size_t head = sizeof("action=") - 1, tail = 2;

	if (a->n == 0)
		return STR("close");
	return (struct str){a->wire + head, a->n - head - tail};
}

static void
log_decision(const struct check *c, const struct answer *a)
{
	enum log_decisions which = (enum log_decisions)c->config->log.decisions;
	const struct request *r = c->request;
	struct log_entry e;

	if (which == DECISIONS_NONE ||
	    (which == DECISIONS_REJECTS && a->n > 0 &&
		!action_refuses(bare(a))))
		return;
	log_begin(&e, LOG_INFO, "decision");
	log_str(&e, "action", bare(a));
	log_str(&e, "reason", str_of(c->reason));
	log_str(&e, "state", r->value[ATTR_protocol_state]);
	log_str(&e, "client", r->value[ATTR_client_address]);
	log_str(&e, "client_name", r->value[ATTR_client_name]);
	log_str(&e, "sender", r->value[ATTR_sender]);
	log_str(&e, "recipient", r->value[ATTR_recipient]);
	if (c->authenticated)
		log_str(&e, "sasl_username", r->value[ATTR_sasl_username]);
	log_str(&e, "instance", r->value[ATTR_instance]);
	if (a->hold_s > 0)
		log_real(&e, "held_s", a->hold_s);
	log_end(&e);
}

void
decide(struct policy *p, const struct request *request, double now,
    struct answer *out)
{
	const struct state *state = state_of(request);
	struct check c = {
	    .config = p->config,
	    .directory = p->directory,
	    .sessions = p->sessions,
	    .request = request,
	    .now = now,
	    .room = &p->room,
	    .authenticated = request->value[ATTR_sasl_username].n > 0,
	};

	if (!makes_sense(p, request, state, now))
		check_action(&c, STR("DUNNO"), "no_question");
	else
		for (int i = 0; state->stages[i](&c) == STEP_NEXT; i++)
			continue;
	write_answer(p, &c, out);
	log_decision(&c, out);
}

struct policy *
policy_new(const struct config *config, const struct directory *directory)
{
	struct policy *p = mem_zalloc(sizeof(*p));

	p->config = config;
	p->directory = directory;
	p->sessions = sessions_new();
	return p;
}

void
policy_free(struct policy *p)
{
	if (p == NULL)
		return;
	sessions_free(p->sessions);
	free(p);
}

void
policy_reconfigure(struct policy *p, const struct config *config)
{
	p->config = config;
}
