#include "policy/check.h"

#include "mail/action.h"

/* VRFY and EXPN: who may ask, and what EXPN tells. */

enum step
stage_vrfy(struct check *c)
{
	if (relay_allows(check_setting(c, SETTING_VRFY, c->config->lookup.vrfy),
		c->authenticated))
		return STEP_NEXT;
	return check_reply(c, REPLY_vrfy_disabled);
}

enum step
stage_expn(struct check *c)
{
	if (relay_allows(check_setting(c, SETTING_EXPN, c->config->lookup.expn),
		c->authenticated))
		return STEP_NEXT;
	return check_reply(c, REPLY_expn_disabled);
}

enum step
stage_expand(struct check *c)
{
	struct sbuf b =
	    sbuf_over(c->room->text, ACTION_POSITIVE_MAX_BYTES + 1);

	_Static_assert(ACTION_POSITIVE_MAX_BYTES < sizeof(c->room->text),
	    "all that can be told has room");
	if (!c->is_local)
		return STEP_NEXT;
	directory_expand(c->tables->directory, &c->domain, c->local,
	    str_of(c->config->rcpt.recipient_delimiter),
	    check_value(c, ATTR_recipient), (int64_t)c->now, &b);
	c->positive = true;
	return check_action(c, sbuf_str(&b), "expand");
}
