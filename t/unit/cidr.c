#include "mail/cidr.h"

#include "tap.h"

#include <stdlib.h>
#include <time.h>

static const struct {
	const char *text, *want; /* NULL: it is none */
} texts[] = {
    {"192.0.2.1", "192.0.2.1"},
    {"0.0.0.0", "0.0.0.0"},
    {"255.255.255.255", "255.255.255.255"},
    {"192.0.2.1/32", "192.0.2.1"},
    {"192.0.2.0/24", "192.0.2.0/24"},
    {"192.0.2.128/25", "192.0.2.128/25"},
    {"0.0.0.0/0", "0.0.0.0/0"},
    {"128.0.0.0/1", "128.0.0.0/1"},
    {"2001:db8::1", "2001:db8::1"},
    {"2001:DB8:0:0:0:0:0:1", "2001:db8::1"},
    {"2001:0db8:0000:0001:0000:0000:0000:0001", "2001:db8:0:1::1"},
    {"2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"},
    {"2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"},
    {"2001:db8::/32", "2001:db8::/32"},
    {"2001:db8::1/128", "2001:db8::1"},
    {"::/0", "::/0"},
    {"::", "::"},
    {"::1", "::1"},
    {"fe80::/10", "fe80::/10"},
    {"64:ff9b::192.0.2.1", "64:ff9b::c000:201"},
    {"::ffff:192.0.2.1", "192.0.2.1"},
    {"::FFFF:c000:201", "192.0.2.1"},
    {"::ffff:192.0.2.0/120", "192.0.2.0/24"},
    {"::ffff:0:0/96", "0.0.0.0/0"},
    {"::fffe:0:0/95", "::fffe:0:0/95"},
    {"0:0:0:0:0:ffff:192.0.2.1/128", "192.0.2.1"},
    {"", NULL},
    {"/", NULL},
    {"/24", NULL},
    {"unknown", NULL},
    {"192.0.2", NULL},
    {"192.0.2.", NULL},
    {"192.0.2.1.", NULL},
    {"192.0.2.1.1", NULL},
    {".192.0.2.1", NULL},
    {"192..2.1", NULL},
    {"192.0.2.256", NULL},
    {"192.0.2.1000", NULL},
    {"192.0.02.1", NULL},
    {"192.0.2.00", NULL},
    {"192.0.2.0x1", NULL},
    {"192.0.2.-1", NULL},
    {"192.0.2.+1", NULL},
    {" 192.0.2.1", NULL},
    {"192.0.2.1 ", NULL},
    {"3221225985", NULL},
    {"192.0.2.0/", NULL},
    {"192.0.2.0/024", NULL},
    {"192.0.2.0/ 24", NULL},
    {"192.0.2.0/+24", NULL},
    {"192.0.2.0/24 ", NULL},
    {"192.0.2.0/24/24", NULL},
    {"192.0.2.0/33", NULL},
    {"192.0.2.0/4294967320", NULL},
    {"192.0.2.0/255.255.255.0", NULL},
    {"192.0.2.1/24", NULL},
    {"192.0.2.1/0", NULL},
    {"192.0.2.64/25", NULL},
    {"2001:db8::1/64", NULL},
    {"2001:db8::/129", NULL},
    {"2001:db8::/064", NULL},
    {"2001:db8::%eth0", NULL},
    {"[2001:db8::1]", NULL},
    {"2001:db8", NULL},
    {"2001:db8:::1", NULL},
    {"::ffff:192.0.2.256", NULL},
    {"::ffff:192.0.2.1/120", NULL},
    {"::ffff:0:0/95", NULL},
    {"1:2:3:4:5:6:7:8:9", NULL},
    {"0000:0000:0000:0000:0000:0000:0000:0000:0000", NULL},
    {"10.0.0.1@example.com", NULL},
};

static void
parse_and_format(void)
{
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		char buf[CIDR_TEXT_MAX_BYTES];
		struct cidr c;
		const char *why = cidr_parse(str_of(texts[i].text), &c);

		if (texts[i].want == NULL)
			ok(why != NULL, "'%s' is none: %s", texts[i].text,
			    why != NULL ? why : "");
		else if (ok(why == NULL, "'%s' is one", texts[i].text))
			is_str(cidr_format(&c, buf).p, texts[i].want,
			    "and is written so");
	}
	ok(cidr_parse((struct str){"::1\0", 4}, &(struct cidr){0}) != NULL,
	    "a NUL ends no address");
}

static const struct {
	const char *net, *address;
	bool want;
} pairs[] = {
    {"192.0.2.0/24", "192.0.2.0", true},
    {"192.0.2.0/24", "192.0.2.255", true},
    {"192.0.2.0/24", "192.0.3.0", false},
    {"192.0.2.0/24", "192.0.1.255", false},
    {"192.0.2.64/26", "192.0.2.127", true},
    {"192.0.2.64/26", "192.0.2.128", false},
    {"192.0.2.1", "192.0.2.1", true},
    {"192.0.2.1", "192.0.2.0", false},
    {"0.0.0.0/0", "203.0.113.9", true},
    {"0.0.0.0/0", "2001:db8::1", false},
    {"::/0", "203.0.113.9", false},
    {"::/0", "2001:db8::1", true},
    {"::ffff:192.0.2.0/120", "192.0.2.9", true},
    {"192.0.2.0/24", "::ffff:192.0.2.9", true},
    {"2001:db8::/33", "2001:db8:7fff::1", true},
    {"2001:db8::/33", "2001:db8:8000::1", false},
    {"2001:db8::/127", "2001:db8::1", true},
    {"2001:db8::/127", "2001:db8::2", false},
    {"192.0.2.0/24", "192.0.2.128/25", true},
    {"192.0.2.128/25", "192.0.2.0/24", false},
};

static void
contains(void)
{
	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
		struct cidr net, address;

		cidr_parse(str_of(pairs[i].net), &net);
		cidr_parse(str_of(pairs[i].address), &address);
		ok(cidr_contains(&net, &address) == pairs[i].want,
		    "%s is %sin %s", pairs[i].address,
		    pairs[i].want ? "" : "not ", pairs[i].net);
	}
}

static const struct {
	const char *address;
	uint8_t prefix;
	const char *want;
} masks[] = {
    {"192.0.2.129", 24, "192.0.2.0/24"},
    {"192.0.2.129", 25, "192.0.2.128/25"},
    {"192.0.2.129", 32, "192.0.2.129"},
    {"192.0.2.129", 64, "192.0.2.129"},
    {"192.0.2.129", 0, "0.0.0.0/0"},
    {"2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::/64"},
    {"2001:db8:1:2:3:4:5:6", 128, "2001:db8:1:2:3:4:5:6"},
    {"2001:db8:1:2:3:4:5:6", 44, "2001:db8::/44"},
    {"2001:db8::/32", 64, "2001:db8::/32"},
};

static void
mask(void)
{
	for (size_t i = 0; i < sizeof(masks) / sizeof(masks[0]); i++) {
		char buf[CIDR_TEXT_MAX_BYTES];
		struct cidr c, net;

		cidr_parse(str_of(masks[i].address), &c);
		cidr_mask(&c, masks[i].prefix, &net);
		is_str(cidr_format(&net, buf).p, masks[i].want, "a network");
	}
}

/* Once a request: it must not be felt. */
static void
speed(void)
{
	enum { ROUNDS = 1000000 };
	static const char *const hosts[] = {"192.0.2.129",
	    "2001:db8:1234:5678:9abc:def0:1234:5678"};

	for (size_t h = 0; h < 2; h++) {
		struct str s = str_of(hosts[h]);
		clock_t t = clock();
		struct cidr c = {0};
		unsigned sum = 0;

		for (int i = 0; i < ROUNDS; i++) {
			cidr_parse(s, &c);
			sum += c.bytes[1];
		}
		printf("# %s: %.0f ns (%u)\n", hosts[h],
		    (double)(clock() - t) / CLOCKS_PER_SEC * 1e9 / ROUNDS, sum);
	}
}

int
main(void)
{
	parse_and_format();
	contains();
	mask();
	speed();
	return tap_done();
}
