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

void
check_split(struct check *c)
{
	struct str recipient = check_value(c, ATTR_recipient), local;
	struct sbuf b;
	char buf[LOCAL_MAX_BYTES + 1];

	if (c->split)
		return;
	c->split = true;
	c->is_address = address_split(recipient, &c->local, &c->domain_name);
	c->folded_recipient = recipient;
	/* Equal recipients are equal however they are written. */
	if (c->is_address && domain_fold(c->domain_name, c->room->folded,
				 &c->folded) &&
	    local_fold(c->local, c->config->rcpt.fold_local_part, buf,
		&local)) {
		b = sbuf_over(c->room->recipient,
		    sizeof(c->room->recipient));
		sbuf_add(&b, local);
		sbuf_addc(&b, '@');
		sbuf_add(&b, c->folded);
		c->folded_recipient = sbuf_str(&b);
	}
	c->recipient_key = hash_str(c->folded_recipient);
}

/* Never answers: what cannot be taken apart is refused in its turn. */
enum step
stage_address(struct check *c)
{
	check_split(c);
	return STEP_NEXT;
}

static enum recipient_word
find_address(struct check *c)
{
	struct address a = {UNSET, {NULL, 0}};
	enum address_state state =
	    directory_address(c->tables->directory, &c->domain, c->local,
		str_of(c->config->rcpt.recipient_delimiter), (int64_t)c->now,
		&a);

	c->address_greylist = UNSET;
	if (state == ADDRESS_DEAD || (state == ADDRESS_NONE &&
		c->domain.recipients == RECIPIENTS_LISTED))
		return RECIPIENT_UNKNOWN;
	if (state != ADDRESS_ALIVE)
		return RECIPIENT_HERE;
	c->address_greylist = a.greylist;
	c->address_reply = a.reply;
	return a.reply.n > 0 ? RECIPIENT_REPLY : RECIPIENT_HERE;
}

enum recipient_word
check_recipient(struct check *c)
{
	check_split(c);
	if (!c->is_address)
		return RECIPIENT_BAD;
	if (!directory_ready(c->tables->directory))
		return RECIPIENT_UNAVAILABLE;
	c->is_local = c->folded.n > 0 &&
	    directory_domain(c->tables->directory, c->folded, &c->domain);
	if (c->is_local)
		return find_address(c);
	if (relay_allows(check_setting(c, SETTING_RELAY,
			      c->config->rcpt.relay),
		c->authenticated))
		return RECIPIENT_RELAYED;
	return RECIPIENT_DENIED;
}

enum step
stage_recipient(struct check *c)
{
	switch (check_recipient(c)) {
	case RECIPIENT_RELAYED:
	case RECIPIENT_HERE:
		break;
	case RECIPIENT_REPLY:
		return check_action(c, c->address_reply, "address_reply");
	case RECIPIENT_BAD:
		return refuse(c, REPLY_bad_address);
	case RECIPIENT_UNKNOWN:
		return refuse(c, REPLY_unknown_user);
	case RECIPIENT_DENIED:
		return refuse(c, REPLY_relay_denied);
	case RECIPIENT_UNAVAILABLE:
		return check_reply(c, REPLY_unavailable);
	}
	return STEP_NEXT;
}
