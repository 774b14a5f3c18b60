#include "policy/decide.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "policy/check.h"
#include "policy/hosts.h"
#include "policy/script.h"

#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

struct waiting;

/*
 * Postfix hangs up after 100 s, and asks once more.  Neither scripts one after
 * the other, nor an answer that is held back behind them, take longer.
 */
static const double WAIT_MAX_S = 80;

struct policy {
	const struct config *config;
	struct tables *tables;
	struct sessions *sessions;
	struct scripts *scripts;
	struct hosts *hosts;
	struct greylist *greylist;
	struct waiting *spare; /* one that is not in use, nearly always */
	char hostname[HOST_NAME_MAX + 1];
	struct log_limit odd_limit;
	struct log_limit unsafe_limit;
	uint64_t answers[ACTION_MEANINGS];
	uint64_t closed;
	uint64_t replies[REPLIES];
};

/* A check and all that it needs while it waits. */
struct waiting {
	struct check check; /* first: a check is one of these */
	struct request request;
	struct check_room room;
	const struct state *state;
	decide_done_fn *done;
	void *arg;
};

/* Bits of the attributes that a state cannot do without. */
#define NEEDS(a) (UINT64_C(1) << ATTR_##a)
#define STAGE(name) {stage_##name, #name}

/*
 * What happens at each SMTP state, in this order; the first stage that answers
 * ends it.  The last state is every other one.
 */
static const struct state {
	struct str name;
	uint64_t needs;
	struct {
		stage_fn *run;
		const char *name;
	} stages[10];
} states[] = {
    {STR_INIT("RCPT"), NEEDS(client_address) | NEEDS(sender) | NEEDS(recipient),
	{STAGE(address), STAGE(session), STAGE(errors), STAGE(rules),
	    STAGE(recipient), STAGE(recipient_count), STAGE(script),
	    STAGE(greylist), STAGE(accept)}},
    {STR_INIT("DATA"), NEEDS(recipient_count),
	{STAGE(rules), STAGE(data), STAGE(pass)}},
    {STR_INIT("END-OF-MESSAGE"), NEEDS(recipient_count),
	{STAGE(rules), STAGE(data), STAGE(pass)}},
    {STR_INIT("VRFY"), NEEDS(recipient),
	{STAGE(address), STAGE(rules), STAGE(vrfy), STAGE(recipient),
	    STAGE(pass)}},
    {STR_INIT("EXPN"), NEEDS(recipient),
	{STAGE(address), STAGE(rules), STAGE(expn), STAGE(recipient),
	    STAGE(expand), STAGE(pass)}},
    {STR_INIT(""), 0, {STAGE(rules), STAGE(pass)}},
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

/* Why it makes no sense, and what is wrong with it; NULL: it does. */
static const char *
odd(const struct request *r, const struct state *state, struct str *which)
{
	enum attribute lacks = missing(r, state);

	*which = r->value[ATTR_request];
	if (!str_eq(*which, STR("smtpd_access_policy")))
		return "no policy request";
	if (lacks == ATTRIBUTES)
		return NULL;
	*which = attribute_name(lacks);
	return "an attribute is missing";
}

/* The answer to what makes no sense; true: it is given. */
static bool
answer_odd(struct waiting *w)
{
	struct check *c = &w->check;
	struct str which;
	const char *what = odd(c->request, w->state, &which);

	if (what == NULL)
		return false;
	if (c->trace != NULL)
		c->trace->odd(c->trace->arg, what, which);
	else
		log_odd(c->policy, c->request, c->now, what, which);
	check_action(c, STR("DUNNO"), "no_question");
	return true;
}

/* Postfix quotes addresses, and then doubles each '"' and '\' in them. */
static size_t
quoted_len(struct str address)
{
	size_t n = address.n;

	for (size_t i = 0; i < address.n; i++)
		n += address.p[i] == '"' || address.p[i] == '\\';
	return n;
}

/*
 * The longest that Postfix may put before our text: the recipient, or with the
 * service in another restriction list the sender, the HELO name, the client or
 * what ETRN is for.
 */
static size_t
subject_len(const struct request *r)
{
	const size_t lens[] = {
	    quoted_len(r->value[ATTR_recipient]),
	    quoted_len(r->value[ATTR_sender]),
	    r->value[ATTR_helo_name].n,
	    r->value[ATTR_client_name].n + r->value[ATTR_client_address].n + 2,
	    r->value[ATTR_etrn_domain].n,
	};
	size_t most = 0;

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

/* One of [reply]. */
static void
write_own(struct policy *p, const struct check *c, struct sbuf *b)
{
	const struct request *r = c->request;
	char seconds[32];
	const struct action_placeholder with[] = {
	    {STR("recipient"), r->value[ATTR_recipient]},
	    {STR("domain"), c->domain_name},
	    {STR("sender"), r->value[ATTR_sender]},
	    {STR("client"), r->value[ATTR_client_address]},
	    {STR("seconds"), {seconds,
		(size_t)snprintf(seconds, sizeof(seconds), "%lld",
		    (long long)c->seconds)}},
	};

	if (!action_format(b, c->action, with, sizeof(with) / sizeof(with[0]),
		subject_len(r), fallback(c->config)))
		log_unsafe(p, c);
}

/* What is left of WAIT_MAX_S, the time that this check may take. */
static double
time_left(const struct check *c)
{
	return c->since == 0 ? WAIT_MAX_S : c->since + WAIT_MAX_S - clock_s();
}

/* How long the answer is held back. */
static double
hold_of(const struct check *c)
{
	double left_s = c->hold_s > 0 ? time_left(c) : 0;

	if (left_s < 0)
		left_s = 0;
	return c->hold_s < left_s ? c->hold_s : left_s;
}

/* The one way an answer gets on the wire. */
static void
write_answer(struct policy *p, const struct check *c, struct answer *out)
{
	struct sbuf b = sbuf_over(out->wire, sizeof(out->wire));

	out->hold_s = hold_of(c);
	out->n = 0;
	if (c->is_own && str_ieq(c->action, STR("close")))
		return;
	if (c->positive)
		action_format_positive(&b, c->action);
	else if (c->is_own)
		write_own(p, c, &b);
	else if (!action_format(&b, c->action, NULL, 0,
		     subject_len(c->request), fallback(c->config)))
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

static bool
refuses(enum action_meaning meaning)
{
	return meaning == MEANS_DEFERS || meaning == MEANS_REJECTS;
}

static void
log_decision(struct check *c, const struct answer *a,
    enum action_meaning meaning)
{
	enum log_decisions which = (enum log_decisions)c->config->log.decisions;
	const struct request *r = c->request;
	struct str word, client;
	struct log_entry e;

	if (which == DECISIONS_NONE ||
	    (which == DECISIONS_REJECTS && a->n > 0 && !refuses(meaning)))
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
	if (c->rule_id != 0)
		log_int(&e, "rule", c->rule_id);
	if (check_greylisted(c, &word, &client)) {
		log_str(&e, "greylist", word);
		log_str(&e, "greylist_client", client);
	}
	if (a->hold_s > 0)
		log_real(&e, "held_s", a->hold_s);
	log_end(&e);
}

/* ---- from the first stage to the answer ---- */

static void
count(struct check *c, const struct answer *a, enum action_meaning meaning)
{
	struct policy *p = c->policy;

	if (a->n == 0)
		p->closed++;
	else
		p->answers[meaning]++;
	if (c->is_own)
		p->replies[c->own]++;
}

static void
finish(struct waiting *w, struct answer *out)
{
	enum action_meaning meaning;

	write_answer(w->check.policy, &w->check, out);
	if (w->check.trace != NULL)
		return;
	meaning = action_meaning(bare(out));
	if (out->n > 0 && !refuses(meaning))
		check_accepted(&w->check);
	count(&w->check, out, meaning);
	log_decision(&w->check, out, meaning);
}

/* true: it is answered; false: it waits. */
static bool
run(struct waiting *w)
{
	struct check *c = &w->check;

	for (;; c->stage++) {
		enum step step = w->state->stages[c->stage].run(c);

		if (c->trace != NULL)
			c->trace->stage(c->trace->arg,
			    w->state->stages[c->stage].name, step);
		if (step != STEP_NEXT)
			return step == STEP_ANSWERED;
		c->script_state = SCRIPT_NONE;
	}
}

static struct waiting *
take(struct policy *p)
{
	struct waiting *w = p->spare;

	p->spare = NULL;
	return w != NULL ? w : mem_alloc(sizeof(*w));
}

static void
give_back(struct policy *p, struct waiting *w)
{
	if (p->spare == NULL)
		p->spare = w;
	else
		free(w);
}

static void
begin(struct waiting *w, struct policy *p, const struct request *request,
    double now)
{
	struct check *c = &w->check;

	w->state = state_of(request);
	*c = (struct check){
	    .policy = p,
	    .config = p->config,
	    .tables = p->tables,
	    .sessions = p->sessions,
	    .hosts = p->hosts,
	    .greylist = p->greylist,
	    .request = request,
	    .now = now,
	    .hostname = p->hostname,
	    .authenticated = request->value[ATTR_sasl_username].n > 0,
	    .state = rule_state_named(request->value[ATTR_protocol_state]),
	    .room = &w->room,
	};
	c->subject.request = request;
	c->subject.derive = check_derive;
	c->subject.arg = c;
}

struct check *
decide(struct policy *p, const struct request *request, double now,
    struct answer *out, decide_done_fn *done, void *arg)
{
	struct waiting *w = take(p);

	begin(w, p, request, now);
	if (!answer_odd(w) && !run(w)) {
		/* The caller's struct may go; what it borrows from stays. */
		w->request = *request;
		w->check.request = w->check.subject.request = &w->request;
		w->done = done;
		w->arg = arg;
		return &w->check;
	}
	finish(w, out);
	give_back(p, w);
	return NULL;
}

void
decide_traced(struct policy *p, const struct request *request, double now,
    const struct check_trace *trace, struct answer *out)
{
	struct waiting *w = take(p);

	begin(w, p, request, now);
	w->check.trace = trace;
	if (!answer_odd(w))
		run(w);
	finish(w, out);
	give_back(p, w);
}

static void
stop_waiting(struct waiting *w)
{
	if (w->check.script_call != NULL)
		script_cancel(w->check.script_call);
	if (w->check.greylist_state == GREYLIST_WAITING)
		greylist_cancel(&w->room.greylist_waiter);
}

void
decide_cancel(struct check *c)
{
	struct waiting *w = (struct waiting *)c;

	stop_waiting(w);
	give_back(c->policy, w);
}

/* ---- waiting ---- */

/* Meanwhile settings, tables and sessions may have changed. */
static void
refresh(struct check *c)
{
	c->config = c->policy->config;
	if (c->session != NULL)
		check_session(c);
}

static void
finish_waiting(struct waiting *w)
{
	decide_done_fn *done = w->done;
	void *arg = w->arg;
	struct answer a;

	finish(w, &a);
	give_back(w->check.policy, w);
	done(arg, &a);
}

void
check_resume(struct check *c)
{
	struct waiting *w = (struct waiting *)c;

	refresh(c);
	if (run(w))
		finish_waiting(w);
}

void
decide_give_up(struct check *c, struct answer *out)
{
	struct waiting *w = (struct waiting *)c;

	stop_waiting(w);
	refresh(c);
	check_reply(c, REPLY_unavailable);
	finish(w, out);
	give_back(c->policy, w);
}

static void
on_script(void *arg, enum script_result result, struct str text)
{
	struct check *c = arg;

	c->script_call = NULL;
	if (result == SCRIPT_GO_ON) {
		c->script_state = SCRIPT_WENT_ON;
		check_resume(c);
		return;
	}
	refresh(c);
	if (result == SCRIPT_ANSWER)
		check_action(c, text, "script");
	else
		check_reply(c, REPLY_unavailable);
	finish_waiting((struct waiting *)c);
}

enum step
check_script(struct check *c, struct str name)
{
	double left_s = time_left(c);

	if (c->trace != NULL) {
		c->trace->script(c->trace->arg, name);
		return STEP_NEXT;
	}
	if (c->since == 0)
		c->since = clock_s();
	if (left_s > 0)
		c->script_call = script_call(c->policy->scripts, name,
		    &c->subject, left_s, on_script, c);
	if (c->script_call == NULL)
		return check_reply(c, REPLY_unavailable);
	c->script_state = SCRIPT_WAITING;
	return STEP_WAITING;
}

/* ---- life ---- */

struct policy *
policy_new(struct ev_loop *loop, const struct config *config,
    struct tables *tables)
{
	struct policy *p = mem_zalloc(sizeof(*p));

	p->config = config;
	p->tables = tables;
	p->sessions = sessions_new();
	p->hosts = hosts_new();
	if (gethostname(p->hostname, sizeof(p->hostname)) == -1)
		strcpy(p->hostname, "localhost");
	p->hostname[HOST_NAME_MAX] = '\0';
	if (loop != NULL) {
		p->scripts = scripts_new(loop, config);
		p->greylist = greylist_new(loop, config);
	}
	return p;
}

void
policy_free(struct policy *p)
{
	if (p == NULL)
		return;
	scripts_free(p->scripts);
	greylist_free(p->greylist);
	sessions_free(p->sessions);
	hosts_free(p->hosts);
	free(p->spare);
	free(p);
}

void
policy_reconfigure(struct policy *p, const struct config *config)
{
	p->config = config;
	scripts_reconfigure(p->scripts, config);
	greylist_reconfigure(p->greylist, config);
}

struct policy_status
policy_status(const struct policy *p)
{
	struct policy_status s = {
	    .closed = p->closed,
	    .sessions = sessions_count(p->sessions),
	    .greylist = greylist_status(p->greylist),
	};

	memcpy(s.answers, p->answers, sizeof(s.answers));
	memcpy(s.replies, p->replies, sizeof(s.replies));
	s.db = s.greylist.db;
	scripts_count(p->scripts, &s.db);
	return s;
}

void
policy_drain(struct policy *p, double max_s)
{
	greylist_drain(p->greylist, max_s);
}
