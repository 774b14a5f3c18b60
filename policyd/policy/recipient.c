#include "policy/check.h"

#include "base/hash.h"

/*
 * Step 3: the recipient.  Nothing here allocates or waits: the directory is in
 * memory.
 */

/* A refusal of this step: counts against the session, and is held back. */
static enum step
refuse(struct check *c, enum reply_name name)
{
	if (c->session != NULL) {
		session_refuse(c->session,
		    hash_mix(c->message, c->recipient_key));
		c->hold_s = (double)check_setting(c, SETTING_ERRORS_WAIT,
				(int64_t)(c->config->rcpt.errors_wait_s *
				    1000)) / 1000;
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

static uint64_t
hash_str(struct str s)
{
	return hash(s.p, s.n);
}

void
check_split(struct check *c)
{
	struct str recipient = check_value(c, ATTR_recipient), local;
	char buf[LOCAL_MAX_BYTES + 1];

	if (c->split)
		return;
	c->split = true;
	c->is_address = address_split(recipient, &c->local, &c->domain_name);
	c->recipient_key = hash_str(recipient);
	/* Equal recipients are equal however they are written. */
	if (c->is_address && domain_fold(c->domain_name, c->room->folded,
				 &c->folded) &&
	    local_fold(c->local, c->config->rcpt.fold_local_part, buf, &local))
		c->recipient_key =
		    hash_mix(hash_str(local), hash_str(c->folded));
}

/* Never answers: what cannot be taken apart is refused in its turn. */
enum step
stage_address(struct check *c)
{
	check_split(c);
	return STEP_NEXT;
}

enum step
stage_recipient(struct check *c)
{
	struct address a;
	enum address_state state;

	if (!c->is_address)
		return refuse(c, REPLY_bad_address);
	if (!directory_ready(c->tables->directory))
		return check_reply(c, REPLY_unavailable);
	c->is_local = c->folded.n > 0 &&
	    directory_domain(c->tables->directory, c->folded, &c->domain);
	if (!c->is_local) {
		if (relay_allows(check_setting(c, SETTING_RELAY,
				      c->config->rcpt.relay),
			c->authenticated))
			return STEP_NEXT;
		return refuse(c, REPLY_relay_denied);
	}
	state = directory_address(c->tables->directory, &c->domain, c->local,
	    str_of(c->config->rcpt.recipient_delimiter), (int64_t)c->now, &a);
	return judge_address(c, state, &a);
}
