#include "policy/check.h"

#include "base/hash.h"
#include "mail/sender.h"
#include "policy/hosts.h"

/*
 * Step 6: greylisting, of recipients that exist; and the rule action that asks
 * for it earlier.  What is remembered of whom is greylist.c's.
 */

/* A rule, the address, its domain, the configuration: the first that says. */
static bool
is_wanted(const struct check *c)
{
	int64_t on = c->config->greylist.enabled;

	if (c->domain.greylist != UNSET)
		on = c->domain.greylist == YES;
	if (c->address_greylist != UNSET)
		on = c->address_greylist == YES;
	return check_setting(c, SETTING_GREYLIST, on) != 0;
}

/* ---- who, from whom, to whom ---- */

static struct host_options
host_options(const struct check *c)
{
	return (struct host_options){
	    .pools = c->config->greylist.pools != 0,
	    .ipv4_prefix = (uint8_t)c->config->greylist.ipv4_prefix,
	    .ipv6_prefix = (uint8_t)c->config->greylist.ipv6_prefix,
	};
}

static bool
is_plain(char c)
{
	return c >= ' ' && c <= '~';
}

/* As a column of PostgreSQL and a notification take it. */
static struct str
clean(struct str s, char *buf, size_t size)
{
	struct sbuf b = sbuf_over(buf, size);

	for (size_t i = 0, len; i < s.n; i += len) {
		for (len = 0; i + len < s.n && is_plain(s.p[i + len]); len++)
			;
		if (len == 0)
			len = utf8_printable_len(s.p + i, s.n - i);
		/* Half a character would be refused by PostgreSQL. */
		if (len > 1 && !is_plain(s.p[i]) && b.n + len >= b.cap)
			break;
		if (len == 0) {
			sbuf_addc(&b, '?');
			len = 1;
		} else {
			sbuf_add(&b, (struct str){s.p + i, len});
		}
	}
	return sbuf_str(&b);
}

static struct str
client_text(const struct check *c, struct str name, char *buf)
{
	char raw[HOST_CLIENT_MAX_BYTES];
	struct host_options o = host_options(c);
	struct str text = clean(host_client(&o,
				    check_value(c, ATTR_client_address), name,
				    raw),
	    buf, HOST_CLIENT_MAX_BYTES);

	if (text.n == 0)
		return STR("unknown");
	for (size_t i = 0; i < text.n; i++)
		if (buf[i] == ' ')
			buf[i] = '_';
	return text;
}

static void
spell(struct sighting *s)
{
	const struct check *c = s->arg;

	if (s->client_text.n > 0)
		return;
	s->client_text = client_text(c, check_value(c, ATTR_client_name),
	    c->room->client_text);
	s->network_text = client_text(c, STR(""), c->room->network_text);
}

static void
find_client(struct check *c, struct sighting *s)
{
	struct host_options o = host_options(c);
	uint64_t key =
	    hash_mix(hash_mix(hash_str(check_value(c, ATTR_client_address)),
			 hash_str(check_value(c, ATTR_client_name))),
		hash(&o, sizeof(o)));
	struct host_known *known = hosts_at(c->hosts, key);

	if (known->key != key) {
		spell(s);
		*known = (struct host_known){key, hash_str(s->client_text),
		    hash_str(s->network_text)};
	}
	s->client = known->client;
	s->network = known->network;
}

static void
describe(struct check *c, struct sighting *s)
{
	struct sbuf pair = sbuf_over(c->room->pair, sizeof(c->room->pair));
	char sender[SENDER_MAX_BYTES + 1];
	char recipient[ADDRESS_MAX_BYTES + 1];
	size_t n;

	*s = (struct sighting){.spell = spell, .arg = c};
	sbuf_add(&pair, sender_fold(check_value(c, ATTR_sender),
			    check_value(c, ATTR_recipient), sender));
	n = pair.n;
	sbuf_addc(&pair, ' ');
	sbuf_add(&pair, clean(c->folded_recipient, recipient,
			    sizeof(recipient)));
	s->sender = (struct str){pair.p, n};
	s->recipient = str_from(sbuf_str(&pair), n + 1);
	s->pair = hash_str(sbuf_str(&pair));
	find_client(c, s);
	s->counted = session_try(c->session, hash_mix(s->client, s->pair));
}

/* ---- the answer ---- */

static enum step
apply(struct check *c, const struct greylist_answer *a)
{
	switch (a->word) {
	case GREYLIST_WAIT:
		c->seconds = a->seconds;
		return check_reply(c, REPLY_greylisted);
	case GREYLIST_PASS:
		c->delayed = true;
		c->delayed_s = a->seconds;
		break;
	case GREYLIST_KNOWN:
	case GREYLIST_CLIENT:
	case GREYLIST_FULL:
		break;
	}
	return STEP_NEXT;
}

static void
on_answer(void *arg, const struct greylist_answer *answer)
{
	struct check *c = arg;

	c->room->greylist_answer = *answer;
	c->greylist_state = GREYLIST_ANSWERED;
	check_resume(c);
}

static enum step
trace(struct check *c)
{
	struct greylist_answer a = {GREYLIST_CLIENT, 0};

	describe(c, &c->room->sighting);
	spell(&c->room->sighting);
	c->trace->greylist(c->trace->arg, &c->room->sighting, &a);
	c->room->greylist_answer = a;
	return apply(c, &a);
}

enum step
check_greylist(struct check *c)
{
	struct greylist_answer *a = &c->room->greylist_answer;

	if (c->greylist_state == GREYLIST_DONE || c->authenticated ||
	    !c->is_local || c->session == NULL)
		return STEP_NEXT;
	if (c->trace != NULL) {
		c->greylist_state = GREYLIST_DONE;
		return trace(c);
	}
	if (c->greylist_state == GREYLIST_UNASKED) {
		describe(c, &c->room->sighting);
		if (!greylist_ask(c->greylist, &c->room->sighting, a,
			&c->room->greylist_waiter, on_answer, c)) {
			c->greylist_state = GREYLIST_WAITING;
			return STEP_WAITING;
		}
	}
	c->greylist_state = GREYLIST_DONE;
	return apply(c, a);
}

bool
check_greylisted(struct check *c, struct str *word, struct str *client)
{
	static const struct str words[] = {
	    [GREYLIST_WAIT] = STR_INIT("wait"),
	    [GREYLIST_PASS] = STR_INIT("pass"),
	    [GREYLIST_KNOWN] = STR_INIT("known"),
	    [GREYLIST_CLIENT] = STR_INIT("client"),
	    [GREYLIST_FULL] = STR_INIT("full"),
	};

	if (c->greylist_state != GREYLIST_DONE)
		return false;
	spell(&c->room->sighting);
	*word = words[c->room->greylist_answer.word];
	*client = c->room->sighting.client_text;
	return true;
}

enum step
stage_greylist(struct check *c)
{
	return is_wanted(c) ? check_greylist(c) : STEP_NEXT;
}
