#include "mail/host.h"

#include "mail/cidr.h"

#include <libpsl.h>
#include <stdio.h>

static psl_ctx_t *suffixes;

/* ---- words ---- */

/*
 * What a run of letters in a name says.  LINE: it is an end user's, whatever
 * else is said.  MAYBE: it is one, unless a MAIL word says that this is what
 * the host is for.  Rented machines count as lines of their tenants.
 */
enum sign { LINE, MAYBE, MAIL, SIGNS };

enum where { WHOLE, HEAD, TAIL, PART };

static const struct {
	struct str text;
	enum where where;
	enum sign sign;
} words[] = {
    {STR_INIT("dyn"), WHOLE, LINE},
    {STR_INIT("dynip"), HEAD, LINE},
    {STR_INIT("dynami"), HEAD, LINE},
    {STR_INIT("dinami"), HEAD, LINE},
    {STR_INIT("dsl"), HEAD, LINE},
    {STR_INIT("dsl"), TAIL, LINE},
    {STR_INIT("adsl"), PART, LINE},
    {STR_INIT("dhcp"), PART, LINE},
    {STR_INIT("ppp"), HEAD, LINE},
    {STR_INIT("pppoe"), PART, LINE},
    {STR_INIT("dial"), WHOLE, LINE},
    {STR_INIT("dialin"), PART, LINE},
    {STR_INIT("dialup"), PART, LINE},
    {STR_INIT("dip"), WHOLE, LINE},
    {STR_INIT("isdn"), PART, LINE},
    {STR_INIT("bras"), WHOLE, LINE},
    {STR_INIT("cable"), HEAD, LINE},
    {STR_INIT("cable"), TAIL, LINE},
    {STR_INIT("kabel"), PART, LINE},
    {STR_INIT("catv"), PART, LINE},
    {STR_INIT("docsis"), PART, LINE},
    {STR_INIT("hfc"), WHOLE, LINE},
    {STR_INIT("cpe"), WHOLE, LINE},
    {STR_INIT("modem"), PART, LINE},
    {STR_INIT("bb"), WHOLE, LINE},
    {STR_INIT("broadband"), PART, LINE},
    {STR_INIT("bredband"), PART, LINE},
    {STR_INIT("ftth"), PART, LINE},
    {STR_INIT("fttb"), PART, LINE},
    {STR_INIT("fttx"), PART, LINE},
    {STR_INIT("gpon"), PART, LINE},
    {STR_INIT("wifi"), PART, LINE},
    {STR_INIT("wlan"), PART, LINE},
    {STR_INIT("wimax"), PART, LINE},
    {STR_INIT("hotspot"), PART, LINE},
    {STR_INIT("gprs"), PART, LINE},
    {STR_INIT("umts"), PART, LINE},
    {STR_INIT("lte"), WHOLE, LINE},
    {STR_INIT("cgn"), HEAD, LINE},
    {STR_INIT("resnet"), PART, LINE},
    {STR_INIT("residential"), PART, LINE},
    {STR_INIT("subscriber"), HEAD, LINE},
    {STR_INIT("unassigned"), PART, LINE},
    {STR_INIT("ipngn"), HEAD, LINE},
    {STR_INIT("ipbf"), HEAD, LINE},

    {STR_INIT("pool"), HEAD, MAYBE},
    {STR_INIT("pool"), TAIL, MAYBE},
    {STR_INIT("static"), PART, MAYBE},
    {STR_INIT("statik"), PART, MAYBE},
    {STR_INIT("estatic"), HEAD, MAYBE},
    {STR_INIT("sta"), WHOLE, MAYBE},
    {STR_INIT("fix"), WHOLE, MAYBE},
    {STR_INIT("fixed"), HEAD, MAYBE},
    {STR_INIT("business"), HEAD, MAYBE},
    {STR_INIT("biz"), WHOLE, MAYBE},
    {STR_INIT("cust"), HEAD, MAYBE},
    {STR_INIT("client"), HEAD, MAYBE},
    {STR_INIT("user"), HEAD, MAYBE},
    {STR_INIT("members"), WHOLE, MAYBE},
    {STR_INIT("subs"), WHOLE, MAYBE},
    {STR_INIT("abo"), WHOLE, MAYBE},
    {STR_INIT("home"), WHOLE, MAYBE},
    {STR_INIT("res"), WHOLE, MAYBE},
    {STR_INIT("fiber"), HEAD, MAYBE},
    {STR_INIT("fibre"), HEAD, MAYBE},
    {STR_INIT("fibra"), HEAD, MAYBE},
    {STR_INIT("mobile"), HEAD, MAYBE},
    {STR_INIT("wireless"), PART, MAYBE},
    {STR_INIT("nat"), WHOLE, MAYBE},
    {STR_INIT("vpn"), WHOLE, MAYBE},
    {STR_INIT("ip"), WHOLE, MAYBE},
    {STR_INIT("addr"), WHOLE, MAYBE},
    {STR_INIT("arpa"), WHOLE, MAYBE},
    {STR_INIT("rev"), WHOLE, MAYBE},
    {STR_INIT("revip"), HEAD, MAYBE},
    {STR_INIT("reverse"), HEAD, MAYBE},
    {STR_INIT("rdns"), WHOLE, MAYBE},
    {STR_INIT("vps"), HEAD, MAYBE},
    {STR_INIT("vds"), WHOLE, MAYBE},
    {STR_INIT("vm"), HEAD, MAYBE},
    {STR_INIT("vserver"), HEAD, MAYBE},
    {STR_INIT("kvm"), WHOLE, MAYBE},
    {STR_INIT("dedi"), HEAD, MAYBE},
    {STR_INIT("cloud"), WHOLE, MAYBE},
    {STR_INIT("compute"), WHOLE, MAYBE},
    {STR_INIT("instance"), WHOLE, MAYBE},

    {STR_INIT("mail"), PART, MAIL},
    {STR_INIT("smtp"), PART, MAIL},
    {STR_INIT("relay"), PART, MAIL},
    {STR_INIT("mx"), HEAD, MAIL},
    {STR_INIT("mta"), HEAD, MAIL},
    {STR_INIT("mta"), TAIL, MAIL},
    {STR_INIT("out"), WHOLE, MAIL},
    {STR_INIT("outbound"), PART, MAIL},
    {STR_INIT("outgoing"), PART, MAIL},
    {STR_INIT("sender"), HEAD, MAIL},
    {STR_INIT("send"), WHOLE, MAIL},
    {STR_INIT("delivery"), HEAD, MAIL},
    {STR_INIT("newsletter"), PART, MAIL},
    {STR_INIT("bounce"), HEAD, MAIL},
    {STR_INIT("esa"), WHOLE, MAIL},
    {STR_INIT("exchange"), WHOLE, MAIL},
    {STR_INIT("post"), WHOLE, MAIL},
};

static bool
fits(struct str run, struct str word, enum where where)
{
	size_t at = 0, last;

	if (run.n < word.n || (where == WHOLE && run.n > word.n))
		return false;
	last = run.n - word.n;
	if (where == TAIL)
		at = last;
	else if (where == HEAD)
		last = 0;
	for (; at <= last; at++)
		if (run.p[at] == word.p[0] &&
		    memcmp(run.p + at, word.p, word.n) == 0)
			return true;
	return false;
}

/* Which signs stand in a name, each as where the last of them begins, from 1. */
static void
look_for_words(struct str name, size_t last[SIGNS])
{
	size_t n;

	for (size_t i = 0; i < name.n; i += n) {
		struct str run = {name.p + i, 0};

		while (i + run.n < name.n && run.p[run.n] >= 'a' &&
		    run.p[run.n] <= 'z')
			run.n++;
		n = run.n + (run.n == 0);
		for (size_t w = 0; run.n > 1 &&
		    w < sizeof(words) / sizeof(words[0]); w++)
			if (fits(run, words[w].text, words[w].where))
				last[words[w].sign] = i + 1;
	}
}

/* ---- the address in a name ---- */

/* A name without what separates digits; at[i] is where c[i] was. */
struct squeezed {
	char c[DOMAIN_MAX_BYTES];
	uint8_t at[DOMAIN_MAX_BYTES];
	size_t n;
	size_t run; /* the longest one of decimal digits in the name itself */
};

static bool
is_separator(char c)
{
	return c == '-' || c == '.' || c == '_';
}

static void
squeeze(struct str name, struct squeezed *s)
{
	size_t run = 0;

	s->n = s->run = 0;
	for (size_t i = 0; i < name.n; i++) {
		run = name.p[i] >= '0' && name.p[i] <= '9' ? run + 1 : 0;
		if (run > s->run)
			s->run = run;
		if (is_separator(name.p[i]))
			continue;
		s->c[s->n] = name.p[i];
		s->at[s->n++] = (uint8_t)i;
	}
}

/* Each of these returns where the writing ends in the name, or 0. */

static size_t
find_squeezed(const struct squeezed *s, const char *digits, size_t n)
{
	const char *p = memmem(s->c, s->n, digits, n);

	return p != NULL ? (size_t)s->at[(size_t)(p - s->c) + n - 1] + 1 : 0;
}

static int
digit(char c, unsigned base)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return base == 16 && c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The numbers, padded or not, with one byte that is no digit between them. */
static size_t
match_numbers(struct str name, size_t at, unsigned base, const unsigned *want,
    size_t count)
{
	for (size_t k = 0; k < count; k++) {
		unsigned v = 0;
		size_t start;

		at += k > 0;
		start = at;
		for (; at < name.n && at - start < 5 &&
		    digit(name.p[at], base) >= 0; at++)
			v = v * base + (unsigned)digit(name.p[at], base);
		if (at == start || v != want[k] ||
		    (at < name.n && digit(name.p[at], base) >= 0))
			return 0;
	}
	return at;
}

static size_t
find_numbers(struct str name, unsigned base, const unsigned *want,
    size_t count)
{
	for (size_t i = 0; i < name.n; i++) {
		size_t end = 0;

		if (digit(name.p[i], base) >= 0 &&
		    (i == 0 || digit(name.p[i - 1], base) < 0))
			end = match_numbers(name, i, base, want, count);
		if (end > 0)
			return end;
	}
	return 0;
}

/* A run of decimal digits that is no longer than that. */
static size_t
find_run(struct str name, const char *digits)
{
	size_t n = strlen(digits);

	for (size_t i = 0, end; i < name.n; i = end + 1) {
		end = i;
		while (end < name.n && digit(name.p[end], 10) >= 0)
			end++;
		if (end - i == n && memcmp(name.p + i, digits, n) == 0)
			return end;
	}
	return 0;
}

/* Four octets without anything between them, or as one number. */
static size_t
find_joined(struct str name, const unsigned o[4])
{
	char text[16];
	size_t end;

	snprintf(text, sizeof(text), "%u%u%u%u", o[0], o[1], o[2], o[3]);
	if ((end = find_run(name, text)) != 0)
		return end;
	snprintf(text, sizeof(text), "%03u%03u%03u%03u", o[0], o[1], o[2],
	    o[3]);
	if ((end = find_run(name, text)) != 0)
		return end;
	snprintf(text, sizeof(text), "%u",
	    o[0] << 24 | o[1] << 16 | o[2] << 8 | o[3]);
	return find_run(name, text);
}

/* Four octets written in that order, or three side by side. */
static size_t
find_octets(struct str name, const struct squeezed *s, const unsigned o[4])
{
	char text[16];
	size_t end;

	for (unsigned base = 10; base <= 16; base += 6)
		if ((end = find_numbers(name, base, o, 3)) != 0 ||
		    (end = find_numbers(name, base, o + 1, 3)) != 0)
			return end;
	if (s->run >= 4 && (end = find_joined(name, o)) != 0)
		return end;
	snprintf(text, sizeof(text), "%02x%02x%02x%02x", o[0], o[1], o[2],
	    o[3]);
	return find_squeezed(s, text, 8);
}

static size_t
find_v4(struct str name, const struct squeezed *s, const struct cidr *c)
{
	unsigned o[4], back[4];
	size_t end;

	for (size_t i = 0; i < 4; i++)
		o[i] = back[3 - i] = c->bytes[i];
	end = find_octets(name, s, o);
	return end > 0 ? end : find_octets(name, s, back);
}

/* Half an address is enough: a network of 64 bits, or the host in it. */
static size_t
find_v6(struct str name, const struct squeezed *s, const struct cidr *c)
{
	enum { NIBBLES = 32, GROUPS = 8 };
	char there[NIBBLES + 1], back[NIBBLES], buf[CIDR_TEXT_MAX_BYTES];
	unsigned group[GROUPS];
	struct str text = cidr_format(c, buf);
	size_t end;

	for (size_t i = 0; i < NIBBLES / 2; i++)
		snprintf(there + 2 * i, 3, "%02x", c->bytes[i]);
	for (size_t i = 0; i < NIBBLES; i++)
		back[i] = there[NIBBLES - 1 - i];
	for (size_t i = 0; i < GROUPS; i++)
		group[i] = (unsigned)c->bytes[2 * i] << 8 |
		    c->bytes[2 * i + 1];
	for (size_t i = 0; i < NIBBLES; i += NIBBLES / 2)
		if ((end = find_squeezed(s, there + i, NIBBLES / 2)) != 0 ||
		    (end = find_squeezed(s, back + i, NIBBLES / 2)) != 0 ||
		    (end = find_numbers(name, 16, group + i / 4, 4)) != 0)
			return end;
	for (size_t i = 0; i < text.n; i++)
		if (buf[i] == ':')
			buf[i] = '-';
	text.p = memmem(name.p, name.n, text.p, text.n);
	return text.p != NULL ? (size_t)(text.p - name.p) + text.n : 0;
}

static bool
ends_like(struct str name, const struct cidr *c)
{
	unsigned o[2] = {c->bytes[2], c->bytes[3]}, back[2] = {o[1], o[0]};

	return c->family == 4 && (find_numbers(name, 10, o, 2) != 0 ||
	    find_numbers(name, 10, back, 2) != 0);
}

/* ---- the judgement ---- */

/*
 * `name` is what stands before the registrable domain.  Big senders write
 * addresses into the names of their hosts too, but then the labels behind say
 * what those are for: 192-0-2-1.outmail.example.com.
 */
static bool
is_line(struct str name, struct str domain, const struct cidr *c)
{
	size_t in_name[SIGNS] = {0}, in_domain[SIGNS] = {0}, end;
	struct squeezed s;

	look_for_words(name, in_name);
	if (in_name[LINE] > 0)
		return true;
	squeeze(name, &s);
	end = (c->family == 4 ? find_v4 : find_v6)(name, &s, c);
	if (end > 0)
		return in_name[MAIL] <= end ||
		    memchr(name.p + end, '.', in_name[MAIL] - 1 - end) == NULL;
	if (in_name[MAIL] > 0)
		return false;
	look_for_words(domain, in_domain);
	return in_domain[MAIL] == 0 &&
	    (in_name[MAYBE] > 0 || ends_like(name, c));
}

/* Is it a host's name?  An IP address is none, nor has one an empty label. */
static bool
is_name(struct str name)
{
	bool numeric = true; /* the last label */
	char before = '.';

	for (size_t i = 0; i < name.n; before = name.p[i++]) {
		char c = name.p[i];

		if (c == '.' && before == '.')
			return false;
		if (c == '.')
			numeric = true;
		else if (c < '0' || c > '9')
			numeric = false;
		if ((c < 'a' || c > 'z') && (c < '0' || c > '9') &&
		    !is_separator(c))
			return false;
	}
	return !numeric;
}

/* Its registrable domain, in buf; empty: it is none, or an end user's line. */
static struct str
pool_of(struct str client_name, const struct cidr *c,
    char buf[HOST_CLIENT_MAX_BYTES])
{
	struct str name, none = STR("");
	const char *domain;
	size_t before;

	if (suffixes == NULL || !domain_fold(client_name, buf, &name) ||
	    !is_name(name))
		return none;
	buf[name.n] = '\0';
	domain = psl_registrable_domain(suffixes, buf);
	if (domain == NULL)
		return none;
	before = (size_t)(domain - buf);
	if (before > 0 && is_line((struct str){buf, before - 1},
	    str_from(name, before), c))
		return none;
	return str_from(name, before);
}

bool
host_init(void)
{
	host_done();
	suffixes = psl_latest(NULL);
	return suffixes != NULL;
}

void
host_done(void)
{
	psl_free(suffixes);
	suffixes = NULL;
}

struct str
host_client(const struct host_options *o, struct str client_address,
    struct str client_name, char buf[HOST_CLIENT_MAX_BYTES])
{
	struct str client = STR("");
	struct cidr c, net;

	if (cidr_parse(client_address, &c) != NULL) {
		struct sbuf b = sbuf_over(buf, HOST_CLIENT_MAX_BYTES);

		for (size_t i = 0; i < client_address.n; i++)
			sbuf_addc(&b, ascii_lower(client_address.p[i]));
		return sbuf_str(&b);
	}
	if (o->pools)
		client = pool_of(client_name, &c, buf);
	if (client.n > 0)
		return client;
	cidr_mask(&c, c.family == 4 ? o->ipv4_prefix : o->ipv6_prefix, &net);
	return cidr_format(&net, buf);
}
