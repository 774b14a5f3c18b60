#include "policy/check.h"

#include "base/hash.h"
#include "base/number.h"

#include <time.h>

/*
 * Steps 1, 4 and 7: what a session has had, what a message may have, and what
 * is remembered of a recipient that passes.
 */

/*
 * A session is one SMTP connection.  Where the port is not known (Postfix
 * before 3.0, XCLIENT), a message stands for it.
 */
static uint64_t
session_key(const struct check *c)
{
	struct str port = check_value(c, ATTR_client_port);

	if (port.n == 0 || str_eq(port, STR("unknown")))
		port = check_value(c, ATTR_instance);
	return hash_mix(hash_str(check_value(c, ATTR_client_address)),
	    hash_str(port));
}

static uint64_t
message_key(const struct check *c)
{
	struct str instance = check_value(c, ATTR_instance);

	return instance.n > 0 ? hash_str(instance) : 0;
}

void
check_session(struct check *c)
{
	c->session = sessions_get(c->sessions, c->session_key, c->now);
	session_message(c->session, c->message);
}

void
check_set_errors_total(struct check *c, int64_t total)
{
	/* States without one may be the first to ask about it. */
	if (c->session == NULL)
		session_set_errors_total(
		    sessions_get(c->sessions, session_key(c), c->now), total);
	else
		session_set_errors_total(c->session, total);
}

enum step
stage_session(struct check *c)
{
	c->message = message_key(c);
	c->session_key = session_key(c);
	check_session(c);
	return STEP_NEXT;
}

enum step
stage_errors(struct check *c)
{
	int64_t total = session_errors_total(c->session);

	if (total == -1)
		total = c->config->rcpt.errors_total;

	if (total > 0 && session_errors(c->session,
		hash_mix(c->message, c->recipient_key)) >= total) {
		session_end(c->session, c->now);
		return check_reply(c, REPLY_too_many_errors);
	}
	return STEP_NEXT;
}

/* Recipients that the message of this one may have. */
static uint32_t
limit_of(const struct check *c)
{
	int64_t limit = c->config->rcpt.max_recipients;

	if (c->is_local && c->domain.max_recipients > 0)
		limit = c->domain.max_recipients;
	return (uint32_t)check_setting(c, SETTING_MAX_RECIPIENTS, limit);
}

enum step
stage_recipient_count(struct check *c)
{
	/* Without an instance nobody can say what belongs to one message. */
	if (c->message != 0 &&
	    session_accepted(c->session) >= limit_of(c) &&
	    !session_has_accepted(c->session, c->recipient_key))
		return check_reply(c, REPLY_too_many_recipients);
	return STEP_NEXT;
}

enum step
stage_pass(struct check *c)
{
	if (c->is_local && c->domain.recipients == RECIPIENTS_VERIFY)
		return check_action(c, STR("reject_unverified_recipient"),
		    "verify");
	return check_action(c, STR("DUNNO"), "pass");
}

/* RFC 5322 3.3. */
static void
add_date(struct sbuf *b, double now)
{
	time_t t = (time_t)now;
	struct tm tm;
	char text[64];

	if (gmtime_r(&t, &tm) == NULL)
		return;
	strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S +0000", &tm);
	sbuf_add(b, str_of(text));
}

/* What was greylisted says so, once a message. */
static enum step
prepend(struct check *c)
{
	struct sbuf b = sbuf_over(c->room->text, sizeof(c->room->text));

	sbuf_addf(&b, "PREPEND X-Greylist: delayed %lld seconds by policyd-%s",
	    (long long)c->delayed_s, POLICYD_VERSION);
	sbuf_addf(&b, " at %s; ", c->hostname);
	add_date(&b, c->now);
	return check_action(c, sbuf_str(&b), "greylist_passed");
}

void
check_accepted(struct check *c)
{
	/* A rule's word ends the decision, and exempts from its limits. */
	if (c->session != NULL && c->message != 0)
		session_accept(c->session, c->recipient_key,
		    c->rule_id != 0 ? UINT32_MAX : limit_of(c));
}

enum step
stage_accept(struct check *c)
{
	/* Where Postfix is to probe, only its own restriction does. */
	if (c->delayed && c->config->greylist.header != 0 &&
	    c->domain.recipients != RECIPIENTS_VERIFY &&
	    session_delayed(c->session))
		return prepend(c);
	return stage_pass(c);
}

/*
 * recipient_count also counts those that RCPT never asked about.  A message
 * whose domains allow more than the default is held against what they allow,
 * unless a rule has just said how many it may have.
 */
enum step
stage_data(struct check *c)
{
	const struct session *s =
	    sessions_find(c->sessions, session_key(c), c->now);
	uint32_t theirs = s != NULL ? session_limit(s, message_key(c)) : 0;
	int64_t count, limit = c->config->rcpt.max_recipients;

	if (theirs > limit)
		limit = theirs;
	limit = check_setting(c, SETTING_MAX_RECIPIENTS, limit);
	if (number_parse(check_value(c, ATTR_recipient_count), &count) == 0 &&
	    count > limit)
		return check_reply(c, REPLY_too_many_recipients);
	return STEP_NEXT;
}
