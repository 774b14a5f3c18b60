#include "mail/address.h"

#include "tap.h"

static const struct {
	const char *text, *local, *domain; /* NULL: no usable address */
} splits[] = {
    {"bob@example.com", "bob", "example.com"},
    {"bob@example.com.", "bob", "example.com"},
    {"a@b@example.com", "a@b", "example.com"},
    {"a b@example.com", "a b", "example.com"},
    {"bob@[192.0.2.1]", "bob", "[192.0.2.1]"},
    {"bob%x@example.com", "bob%x", "example.com"},
    {"", NULL, NULL},
    {"bob", NULL, NULL},
    {"@example.com", NULL, NULL},
    {"bob@", NULL, NULL},
    {"bob@.", NULL, NULL},
    {" @example.com", NULL, NULL},
    {" bob@example.com", NULL, NULL},
    {"bob@example.com ", NULL, NULL},
    {"\tbob@example.com", NULL, NULL},
};

static void
split(void)
{
	for (size_t i = 0; i < sizeof(splits) / sizeof(splits[0]); i++) {
		struct str local, domain;
		bool good =
		    address_split(str_of(splits[i].text), &local, &domain);

		if (!ok(good == (splits[i].local != NULL), "'%s' is %s",
			splits[i].text,
			splits[i].local != NULL ? "an address" : "none") ||
		    !good)
			continue;
		ok(str_eq(local, str_of(splits[i].local)) &&
			str_eq(domain, str_of(splits[i].domain)),
		    "'%s' is split", splits[i].text);
	}
}

static const struct {
	const char *text, *want; /* NULL: no domain */
} domains[] = {
    {"Example.COM", "example.com"},
    {"example.com.", "example.com"},
    {"b\xc3\xbc" "cher.example", "xn--bcher-kva.example"},
    {"B\xc3\x9c" "CHER.example", "xn--bcher-kva.example"},
    {"bu\xcc\x88" "cher.example", "xn--bcher-kva.example"},
    {"XN--BCHER-KVA.example", "xn--bcher-kva.example"},
    {"stra\xc3\x9f" "e.example", "xn--strae-oqa.example"},
    {"a\xff.example", "a\xff.example"},
    {"[192.0.2.1]", "[192.0.2.1]"},
    {"", NULL},
    {".", NULL},
};

static void
fold_domain(void)
{
	char buf[DOMAIN_MAX_BYTES + 1], longest[DOMAIN_MAX_BYTES + 2];
	struct str out;

	for (size_t i = 0; i < sizeof(domains) / sizeof(domains[0]); i++) {
		bool good = domain_fold(str_of(domains[i].text), buf, &out);

		ok(domains[i].want == NULL ?
			!good : good && str_eq(out, str_of(domains[i].want)),
		    "domain '%s'", domains[i].text);
	}
	memset(longest, 'a', sizeof(longest));
	ok(domain_fold((struct str){longest, DOMAIN_MAX_BYTES}, buf, &out),
	    "255 bytes are a domain");
	ok(!domain_fold((struct str){longest, DOMAIN_MAX_BYTES + 1}, buf, &out),
	    "256 are not");
}

static const struct {
	const char *text, *want; /* NULL: there is no other */
} spellings[] = {
    {"bob@b\xc3\xbc" "cher.example", "bob@xn--bcher-kva.example"},
    {"bob@XN--BCHER-kva.example", "bob@b\xc3\xbc" "cher.example"},
    {"xn--bcher-kva.example", "b\xc3\xbc" "cher.example"},
    {"@b\xc3\xbc" "cher.example", "@xn--bcher-kva.example"},
    {"names xn--bcher-kva.example", "names b\xc3\xbc" "cher.example"},
    {"mails bob@b\xc3\xbc" "cher.example",
	"mails bob@xn--bcher-kva.example"},
    {"names ", NULL},
    {"bob@Example.com", NULL},
    {"example.com", NULL},
    {"", NULL},
    {"bob@", NULL},
};

static void
respell(void)
{
	for (size_t i = 0; i < sizeof(spellings) / sizeof(spellings[0]); i++) {
		char buf[LOCAL_MAX_BYTES + DOMAIN_MAX_BYTES + 2];
		struct str out;
		bool good = address_respell(str_of(spellings[i].text), buf,
		    sizeof(buf), &out);

		ok(spellings[i].want == NULL ?
			!good : good && str_eq(out, str_of(spellings[i].want)),
		    "the other spelling of '%s'", spellings[i].text);
	}
}

static const struct {
	const char *local, *delimiters, *want;
} bases[] = {
    {"bob", "+", "bob"},
    {"bob+x", "+", "bob"},
    {"bob+x+y", "+", "bob"},
    {"bob+", "+", "bob"},
    {"+x", "+", "+x"},
    {"bob-x", "+", "bob-x"},
    {"bob-x", "+-", "bob"},
    {"bob-x+y", "+-", "bob"},
    {"owner-list", "-", "owner-list"},
    {"list-request", "-", "list-request"},
    {"Owner-list", "-", "Owner-list"},
    {"owner-list", "+", "owner-list"},
    {"bob+x", "", "bob+x"},
};

static void
base(void)
{
	for (size_t i = 0; i < sizeof(bases) / sizeof(bases[0]); i++)
		ok(str_eq(local_base(str_of(bases[i].local),
			      str_of(bases[i].delimiters)),
		       str_of(bases[i].want)),
		    "base of '%s' at '%s'", bases[i].local,
		    bases[i].delimiters);
}

static const struct {
	const char *text;
	bool good;
} written[] = {
    {"example.com", true},
    {"Example.COM", true},
    {"localhost", true},
    {"a_b.example", true},
    {"b\xc3\xbc" "cher.example", true},
    {"xn--bcher-kva.example", true},
    {"[192.0.2.1]", true},
    {"[IPv6:2001:db8::1]", true},
    {"1.2.com", true},
    {"", false},
    {".", false},
    {"example.com.", false},
    {".example.com", false},
    {"a..b", false},
    {"-a.b", false},
    {"a-.b", false},
    {"a b", false},
    {"a@b", false},
    {"a,b", false},
    {"192.0.2.1", false},
    {"[192.0.2]", false},
    {"[::1]", false},
    {"[", false},
    {"a\xc2\xa0.b", false},
    {"a\xe3\x80\x82" "b", false},
    {"a\xff.b", false},
    {"a\x01.b", false},
    {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.b", false},
};

static void
as_written(void)
{
	for (size_t i = 0; i < sizeof(written) / sizeof(written[0]); i++)
		ok((domain_error(str_of(written[i].text)) == NULL) ==
			written[i].good,
		    "'%s' is %s", written[i].text,
		    written[i].good ? "a domain" : "none");
}

int
main(void)
{
	char buf[LOCAL_MAX_BYTES + 1], longest[LOCAL_MAX_BYTES + 1];
	struct str out;

	split();
	fold_domain();
	base();
	respell();
	as_written();
	ok(local_fold(STR("BoB"), true, buf, &out) && str_eq(out, STR("bob")),
	    "a local part is folded");
	ok(local_fold(STR("BoB"), false, buf, &out) && str_eq(out, STR("BoB")),
	    "or not");
	memset(longest, 'a', sizeof(longest));
	ok(!local_fold((struct str){longest, sizeof(longest)}, true, buf, &out),
	    "one that is too long is none");
	ok(str_eq(domain_parent(STR("a.b.c")), STR("b.c")) &&
		domain_parent(STR("c")).n == 0,
	    "the domain above");
	return tap_done();
}
