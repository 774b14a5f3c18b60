#include "tables/want.h"

#include "config/config.h"

#include "tap.h"

#include <stdlib.h>

static char none[] = "", some[] = "SELECT x";

/* Queries of an administrator's take the place of our tables. */
enum custom { OURS, DOMAINS, ADDRESSES };

static struct config
config_with(enum custom custom)
{
	struct config c = {0};

	c.lookup.domains = custom == DOMAINS ? some : none;
	c.lookup.addresses = custom == ADDRESSES ? some : none;
	return c;
}

/* "address{bob@example.com} rule*" */
static const char *
text_of(const struct want of[SOURCES])
{
	static char buf[400];
	struct sbuf b = sbuf_over(buf, sizeof(buf));

	for (int s = 0; s < SOURCES; s++) {
		if (!is_wanted(&of[s]))
			continue;
		if (b.n > 0)
			sbuf_addc(&b, ' ');
		sbuf_add(&b, source_name((enum source)s));
		if (of[s].whole) {
			sbuf_addc(&b, '*');
			continue;
		}
		for (size_t i = 0; i < of[s].count; i++)
			sbuf_addf(&b, "%c%s", i == 0 ? '{' : ',',
			    of[s].keys[i]);
		sbuf_addc(&b, '}');
	}
	return buf;
}

#define ALL "domain* domain_alias* address* alias* list_entry* rule*"

static const struct {
	const char *payload;
	enum custom custom;
	const char *want;
} heard[] = {
    {"address:bob@example.com", OURS, "address{bob@example.com}"},
    {"address:@example.com", OURS, "address{@example.com}"},
    {"address", OURS, "address*"},
    {"address:", OURS, "address*"},
    {"alias:bob@example.com", OURS, "alias{bob@example.com}"},
    {"domain_alias:x.example", OURS, "domain_alias{x.example}"},
    {"list_entry:mail a:b@x", OURS, "list_entry{mail a:b@x}"},
    {"rule:7", OURS, "rule{7}"},
    {"rule", OURS, "rule*"},
    {"", OURS, ALL},
    {":", OURS, ALL},
    {":x", OURS, ALL},
    /* Anybody may notify of anything. */
    {"nothing", OURS, ""},
    {"nothing:x", OURS, ""},
    {"Address:x", OURS, ""},
    {"rule:x", OURS, ""},
    {"rule:-1", OURS, ""},
    {"rule:1 2", OURS, ""},
    /* A domain is one in both its spellings. */
    {"domain:b\xc3\xbc" "cher.example", OURS,
	"domain{b\xc3\xbc" "cher.example,xn--bcher-kva.example}"},
    {"address:x@xn--bcher-kva.example", OURS,
	"address{x@xn--bcher-kva.example,x@b\xc3\xbc" "cher.example}"},
    /* A query of the administrator's has no keys. */
    {"domain:example.com", DOMAINS, "domain*"},
    {"domain_alias:x.example", DOMAINS, "domain*"},
    {"address:bob@example.com", DOMAINS, "address{bob@example.com}"},
    {"alias:bob@example.com", ADDRESSES, "address*"},
    {"domain:example.com", ADDRESSES, "domain{example.com}"},
    {"rule:7", ADDRESSES, "rule{7}"},
};

static void
notifications(void)
{
	for (size_t i = 0; i < sizeof(heard) / sizeof(heard[0]); i++) {
		const struct config c = config_with(heard[i].custom);
		struct wants w = {0};

		wants_hear(&w, &c, heard[i].payload);
		is_str(text_of(w.of), heard[i].want, heard[i].payload);
		wants_clear(&w);
	}
}

static void
gathering(void)
{
	const struct config c = config_with(OURS);
	struct wants w = {0};

	wants_hear(&w, &c, "address:a@x");
	wants_hear(&w, &c, "address:b@x");
	wants_hear(&w, &c, "domain:x");
	is_str(text_of(w.of), "domain{x} address{a@x,b@x}", "keys gather");
	ok(!is_any_whole(w.of), "and nothing is wanted as a whole");
	wants_hear(&w, &c, "address");
	is_str(text_of(w.of), "domain{x} address*", "all of it has its keys");
	wants_hear(&w, &c, "address:c@x");
	is_str(text_of(w.of), "domain{x} address*", "also those that follow");
	ok(is_any_whole(w.of), "one is wanted as a whole");
	wants_clear(&w);
	is_str(text_of(w.of), "", "nothing any more");
	ok(!wants_any(&w), "at all");
}

/* What is locked stays, until somebody tells of it. */
static void
holding(void)
{
	const struct config c = config_with(OURS);
	struct want out[SOURCES];
	struct wants w = {0};

	wants_hear(&w, &c, "address:a@x");
	wants_hear(&w, &c, "rule:7");
	w.held[SOURCE_ADDRESS] = w.held[SOURCE_RULE] = true;
	ok(!wants_any(&w), "what is held cannot be had");
	wants_hear(&w, &c, "nothing:x");
	wants_hear(&w, &c, "rule:x");
	ok(!wants_any(&w), "what there is not releases nothing");
	wants_hear(&w, &c, "rule:8");
	ok(wants_any(&w), "somebody tells of one");
	wants_take(&w, out);
	is_str(text_of(out), "rule{7,8}", "that one is taken");
	is_str(text_of(w.of), "address{a@x}", "the other stays");
	for (int s = 0; s < SOURCES; s++)
		want_clear(&out[s]);
	wants_clear(&w);
	ok(w.held[SOURCE_ADDRESS], "it is held, wanted or not");
	wants_hear(&w, &c, "");
	wants_take(&w, out);
	is_str(text_of(out), ALL, "with all there is, it is held no longer");
	wants_clear(&w);
}

/* Keys without end become all of it. */
static void
too_many(void)
{
	enum { KEYS_MAX = 10000 };
	struct want w = {0}, other = {0};
	char key[20];

	for (int i = 0; i < KEYS_MAX; i++) {
		snprintf(key, sizeof(key), "k%d", i);
		want_key(&w, str_of(key));
	}
	ok(!w.whole && w.count == KEYS_MAX, "%d keys", KEYS_MAX);
	want_key(&other, STR("one"));
	want_also(&other, &w);
	ok(other.whole && other.count == 0, "with another's it is one too many");
	want_key(&w, STR("one more"));
	ok(w.whole && w.count == 0, "one too many");
	want_clear(&w);
	want_also(&w, &other);
	ok(w.whole, "all of it, as the other");
}

int
main(void)
{
	notifications();
	gathering();
	holding();
	too_many();
	return tap_done();
}
