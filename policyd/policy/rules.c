#include "policy/check.h"

#include "base/log.h"
#include "mail/action.h"

/*
 * Step 2, the rules, and step 5, the script that they or [rcpt] set.
 */

/* ---- derived attributes ---- */

static struct str
domain_of(struct str address, char buf[DOMAIN_MAX_BYTES + 1])
{
	const char *at =
	    address.n > 0 ? memrchr(address.p, '@', address.n) : NULL;
	struct str domain;

	if (at == NULL)
		return STR("");
	domain = str_from(address, (size_t)(at - address.p) + 1);
	return domain_fold(domain, buf, &domain) ? domain : STR("");
}

static struct str
local_of(struct str address)
{
	const char *at =
	    address.n > 0 ? memrchr(address.p, '@', address.n) : NULL;

	return at == NULL ? address :
			    (struct str){address.p, (size_t)(at - address.p)};
}

static struct str
is_local(struct check *c)
{
	struct domain domain;

	check_split(c);
	return c->folded.n > 0 && directory_domain(c->tables->directory,
				      c->folded, &domain) ?
	    STR("yes") :
	    STR("no");
}

static struct str
client_of(struct check *c)
{
	struct host_options o = {
	    .pools = c->config->greylist.pools != 0,
	    .ipv4_prefix = (uint8_t)c->config->greylist.ipv4_prefix,
	    .ipv6_prefix = (uint8_t)c->config->greylist.ipv6_prefix,
	};

	return host_client(&o, check_value(c, ATTR_client_address),
	    check_value(c, ATTR_client_name), c->room->client);
}

struct str
check_derive(struct subject *s, int attribute)
{
	struct check *c = s->arg;

	switch (attribute) {
	case DERIVED_sender_domain:
		return domain_of(check_value(c, ATTR_sender),
		    c->room->sender_domain);
	case DERIVED_sender_localpart:
		return local_of(check_value(c, ATTR_sender));
	case DERIVED_recipient_domain:
		return domain_of(check_value(c, ATTR_recipient),
		    c->room->recipient_domain);
	case DERIVED_recipient_localpart:
		return local_of(check_value(c, ATTR_recipient));
	case DERIVED_recipient_is_local:
		return is_local(c);
	default:
		return client_of(c);
	}
}

/* ---- what a rule does that holds ---- */

static enum step
set(struct check *c, const struct rule *rule)
{
	enum setting s = rule->setting;

	if ((c->is_set >> s & 1) != 0)
		return STEP_NEXT; /* the first wins */
	c->is_set |= 1U << s;
	c->set[s] = rule->value;
	if (s == SETTING_SCRIPT) {
		struct sbuf b = sbuf_over(c->script, sizeof(c->script));

		if (!str_ieq(str_of(rule->argument), STR("none")))
			sbuf_add(&b, str_of(rule->argument));
	}
	/* Step 1 comes before the rules: it holds from the next request. */
	if (s == SETTING_ERRORS_TOTAL)
		check_set_errors_total(c, rule->value);
	return STEP_NEXT;
}

static enum step
answer(struct check *c, const struct rule *rule)
{
	struct str text = str_of(rule->argument);

	if (memchr(text.p, '{', text.n) != NULL)
		text = action_complete(subject_expand(&c->subject, text,
					   c->room->text,
					   sizeof(c->room->text)),
		    c->room->completed, sizeof(c->room->completed));
	return check_action(c, text, "rule");
}

/* Only for a recipient that step 3 will take: no other makes a row. */
static enum step
greylist(struct check *c)
{
	if (c->state != RULE_STATE_RCPT || check_recipient(c) != RECIPIENT_HERE)
		return STEP_NEXT;
	return check_greylist(c);
}

static enum step
apply(struct check *c, const struct rule *rule)
{
	switch (rule->verb) {
	case VERB_ANSWER:
		return answer(c, rule);
	case VERB_SET:
		return set(c, rule);
	case VERB_SCRIPT:
		return check_script(c, str_of(rule->argument));
	case VERB_GREYLIST:
		return greylist(c);
	case VERB_LIMIT:
		break; /* nothing yet: README.md says so */
	}
	return STEP_NEXT;
}

/* A rule on trial: told, but nothing is done. */
static void
log_shadow(const struct check *c, const struct rule *rule)
{
	struct log_entry e;

	log_begin(&e, LOG_INFO, "shadow rule");
	log_int(&e, "rule", rule->id);
	log_str(&e, "action", str_of(rule->action));
	log_str(&e, "state", check_value(c, ATTR_protocol_state));
	log_str(&e, "client", check_value(c, ATTR_client_address));
	log_str(&e, "sender", check_value(c, ATTR_sender));
	log_str(&e, "recipient", check_value(c, ATTR_recipient));
	log_end(&e);
}

static bool
holds(struct check *c, struct rule *rule)
{
	const struct condition *failed;
	bool held = rule_holds(rule, &c->subject, c->now, &failed);

	if (c->trace != NULL)
		c->trace->rule(c->trace->arg, rule, failed);
	else if (held)
		rule->hits++;
	return held;
}

enum step
stage_rules(struct check *c)
{
	struct rule_walk walk;
	struct rule *rule;

	/* The rule that asked for it is behind us, its answer is not. */
	if (c->greylist_state == GREYLIST_ANSWERED &&
	    check_greylist(c) == STEP_ANSWERED)
		return STEP_ANSWERED;
	rules_walk(c->tables->rules, c->state, &c->subject, &walk);
	if (c->trace != NULL)
		walk.all = true; /* those that the index rules out, too */
	if (c->walked)
		rules_walk_after(&walk, c->rule_priority, c->rule_id);
	c->rule_id = 0;
	while ((rule = rules_next(&walk)) != NULL) {
		enum step step;

		if (!holds(c, rule))
			continue;
		if (rule->shadow) {
			log_shadow(c, rule);
			continue;
		}
		c->walked = true;
		c->rule_priority = rule->priority;
		c->rule_id = rule->id;
		step = apply(c, rule);
		if (step != STEP_NEXT)
			return step;
		c->rule_id = 0;
	}
	return STEP_NEXT;
}

enum step
stage_script(struct check *c)
{
	struct str name = str_of(c->config->rcpt.script);

	if ((c->is_set >> SETTING_SCRIPT & 1) != 0)
		name = str_of(c->script);
	if (name.n == 0 || !c->is_local || c->script_state == SCRIPT_WENT_ON)
		return STEP_NEXT;
	return check_script(c, name);
}
