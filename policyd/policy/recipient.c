#include "policy/check.h"

/*
 * Step 3: the recipient.  Nothing here allocates or waits: the directory is in
 * memory.
 */

/* A refusal of this step: counts against the session, and is held back. */
static enum step
refuse(struct check *c, enum reply_name name)
{
	if (c->session != NULL) {
		session_refuse(c->session, c->recipient_key);
		c->hold_s = c->config->rcpt.errors_wait_s;
	}
	return check_reply(c, name);
}

static enum step
judge_address(struct check *c, enum address_state state,
    const struct address *a)
{
	if (state == ADDRESS_DEAD)
		return refuse(c, REPLY_unknown_user);
	if (state == ADDRESS_NONE &&
	    c->domain.recipients == RECIPIENTS_LISTED)
		return refuse(c, REPLY_unknown_user);
	if (state == ADDRESS_ALIVE && a->reply.n > 0)
		return check_action(c, a->reply, "address_reply");
	return STEP_NEXT;
}

enum step
stage_recipient(struct check *c)
{
	struct str recipient = check_value(c, ATTR_recipient), name;
	struct address a;
	enum address_state state;

	if (!address_split(recipient, &c->local, &c->domain_name))
		return refuse(c, REPLY_bad_address);
	if (!directory_ready(c->directory))
		return check_reply(c, REPLY_unavailable);
	c->is_local = domain_fold(c->domain_name, c->folded, &name) &&
	    directory_domain(c->directory, name, &c->domain);
	if (!c->is_local) {
		if (relay_allows(c->config->rcpt.relay, c->authenticated))
			return STEP_NEXT;
		return refuse(c, REPLY_relay_denied);
	}
	state = directory_address(c->directory, &c->domain, c->local,
	    str_of(c->config->rcpt.recipient_delimiter), (int64_t)c->now, &a);
	return judge_address(c, state, &a);
}
