#include "tables/directory.h"

#include "base/hash.h"
#include "mail/address.h"
#include "tables/copy.h"
#include "tables/tables.h"
#include "tables/strtab.h"

#include "tap.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { NOW = 1000000 };

static struct directory *
site(void)
{
	struct directory *d = directory_new(true);

	for (int t = 0; t < DIRECTORY_TABLES; t++)
		directory_begin(d, (enum directory_table)t);
#define DOMAIN(name, recipients, sub, enabled) \
	directory_put_domain(d, STR(name), recipients, UNSET, 0, sub, enabled)
#define ADDRESS(address, reply, expires, enabled) \
	directory_put_address(d, STR(address), UNSET, STR(reply), expires, \
	    enabled)
	DOMAIN("example.com", RECIPIENTS_LISTED, false, true);
	DOMAIN("any.example", RECIPIENTS_ANY, false, true);
	DOMAIN("off.example", RECIPIENTS_ANY, false, false);
	DOMAIN("sub.example", RECIPIENTS_LISTED, true, true);
	DOMAIN("off.sub.example", RECIPIENTS_LISTED, false, false);
	DOMAIN("B\xc3\xbc" "cher.example", RECIPIENTS_LISTED, false, true);
	DOMAIN("all.example", RECIPIENTS_LISTED, false, true);
	directory_put_domain_alias(d, STR("example.net"), STR("Example.com"));
	directory_put_domain_alias(d, STR("all.example"), STR("example.com"));
	ADDRESS("Bob@example.com", "", NEVER_EXPIRES, true);
	ADDRESS("bob+dead@example.com", "", NEVER_EXPIRES, false);
	ADDRESS("gone@all.example", "", NEVER_EXPIRES, false);
	ADDRESS("late@all.example", "", NOW, true);
	ADDRESS("soon@all.example", "", NOW + 1, true);
	ADDRESS("moved@example.com", "550 5.1.6 moved", NEVER_EXPIRES, true);
	ADDRESS("@all.example", "", NEVER_EXPIRES, true);
	ADDRESS("gone@any.example", "", NEVER_EXPIRES, false);
	ADDRESS("eve@deep.sub.example", "", NEVER_EXPIRES, true);
	ADDRESS("u@xn--bcher-kva.example", "", NEVER_EXPIRES, true);
	directory_put_alias(d, STR("list@example.com"), STR("a@x"),
	    NEVER_EXPIRES, true);
	directory_put_alias(d, STR("list@example.com"), STR("b@x"), NOW, true);
	directory_put_alias(d, STR("list@example.com"), STR("c@x"),
	    NEVER_EXPIRES, true);
	directory_put_alias(d, STR("old@all.example"), STR("a@x"),
	    NEVER_EXPIRES, false);
	directory_swap(d);
	return d;
}

static const struct {
	const char *address;
	int want; /* -1: not local; else enum address_state */
} cases[] = {
    {"bob@example.com", ADDRESS_ALIVE},
    {"BOB@EXAMPLE.COM", ADDRESS_ALIVE},
    {"bob+x@example.com", ADDRESS_ALIVE},
    {"bob+dead@example.com", ADDRESS_DEAD},
    {"bobby@example.com", ADDRESS_NONE},
    {"list@example.com", ADDRESS_ALIVE},
    {"list+x@example.com", ADDRESS_ALIVE},
    {"moved@example.com", ADDRESS_ALIVE},
    {"bob@example.net", ADDRESS_ALIVE},
    {"bob+x@example.net", ADDRESS_ALIVE},
    {"nobody@example.net", ADDRESS_NONE},
    {"bob@other.example", -1},
    {"x@off.example", -1},
    {"x@any.example", ADDRESS_NONE},
    {"gone@any.example", ADDRESS_DEAD},
    {"x@sub.example", ADDRESS_NONE},
    {"eve@deep.sub.example", ADDRESS_ALIVE},
    {"eve@a.b.c.sub.example", ADDRESS_NONE},
    {"x@off.sub.example", -1},
    {"x@under.off.sub.example", ADDRESS_NONE},
    {"u@b\xc3\xbc" "cher.example", ADDRESS_ALIVE},
    {"u@XN--bcher-kva.example", ADDRESS_ALIVE},
    {"whoever@all.example", ADDRESS_ALIVE},
    {"gone@all.example", ADDRESS_DEAD},
    {"late@all.example", ADDRESS_DEAD},
    {"soon@all.example", ADDRESS_ALIVE},
    {"old@all.example", ADDRESS_DEAD},
    {"bob@all.example", ADDRESS_ALIVE},
};

static int
judge(const struct directory *d, const char *text, struct address *out)
{
	char buf[DOMAIN_MAX_BYTES + 1];
	struct str local, name;
	struct domain domain;

	if (!address_split(str_of(text), &local, &name) ||
	    !domain_fold(name, buf, &name) ||
	    !directory_domain(d, name, &domain))
		return -1;
	return (int)directory_address(d, &domain, local, STR("+"), NOW, out);
}

static void
expansion(const struct directory *d)
{
	char buf[200], name[] = "example.com";
	struct sbuf b = sbuf_over(buf, sizeof(buf));
	struct domain domain;

	directory_domain(d, str_of(name), &domain);
	directory_expand(d, &domain, STR("list"), STR("+"), STR("list@x"), NOW,
	    &b);
	is_str(buf, "a@x c@x", "a list's living destinations");
	b = sbuf_over(buf, sizeof(buf));
	directory_expand(d, &domain, STR("bob"), STR("+"), STR("bob@x"), NOW,
	    &b);
	is_str(buf, "bob@x", "a mailbox is its own");
	b = sbuf_over(buf, 9);
	directory_expand(d, &domain, STR("list"), STR("+"), STR("list@x"), NOW,
	    &b);
	is_str(buf, "a@x ...", "whole destinations, where there is no more room");
}

static void
changes(struct directory *d)
{
	struct address a;
	size_t names = strtab_count(directory_part(d, DIRECTORY_TABLES));

	directory_forget(d, DIRECTORY_ADDRESS, STR("x@never.example"));
	is_long(strtab_count(directory_part(d, DIRECTORY_TABLES)), names,
	    "what was never there is not remembered");
	directory_forget(d, DIRECTORY_ADDRESS, STR("BOB@Example.com"));
	is_long(judge(d, "bob@example.com", &a), ADDRESS_NONE,
	    "a row that was deleted is forgotten");
	directory_put_address(d, STR("bob@example.com"), YES, STR(""),
	    NEVER_EXPIRES, true);
	is_long(judge(d, "bob@example.com", &a), ADDRESS_ALIVE,
	    "and known again");
	is_long(a.greylist, YES, "with what it says");
	directory_begin(d, DIRECTORY_ADDRESS);
	directory_put_address(d, STR("new@example.com"), UNSET, STR(""),
	    NEVER_EXPIRES, true);
	is_long(judge(d, "new@example.com", &a), ADDRESS_NONE,
	    "a table being filled answers nothing");
	is_long(judge(d, "bob@example.com", &a), ADDRESS_ALIVE,
	    "the old one does");
	directory_swap(d);
	is_long(judge(d, "new@example.com", &a), ADDRESS_ALIVE,
	    "until it is in place");
	is_long(judge(d, "bob@example.com", &a), ADDRESS_NONE,
	    "and the old one gone");
	directory_begin(d, DIRECTORY_ADDRESS);
	directory_abandon(d);
	is_long(judge(d, "new@example.com", &a), ADDRESS_ALIVE,
	    "one that is abandoned changes nothing");
}

static void
exact_case(void)
{
	struct directory *d = directory_new(false);
	struct address a;

	DOMAIN("example.com", RECIPIENTS_LISTED, false, true);
	ADDRESS("Bob@EXAMPLE.com", "", NEVER_EXPIRES, true);
	is_long(judge(d, "Bob@example.com", &a), ADDRESS_ALIVE,
	    "without folding, the same case");
	is_long(judge(d, "bob@example.com", &a), ADDRESS_NONE,
	    "is another one's");
	directory_free(d);
}

static void
odd_rows(void)
{
	struct directory *d = directory_new(true);
	char longest[600];

	memset(longest, 'a', sizeof(longest));
	memcpy(longest + 580, "@example.com", 12);
	ok(!ADDRESS("nobody", "", NEVER_EXPIRES, true), "no address");
	ok(!directory_put_address(d, (struct str){longest, 592}, UNSET,
	       STR(""), NEVER_EXPIRES, true), "too long an address");
	ok(!ADDRESS("bob@", "", NEVER_EXPIRES, true), "no domain");
	ok(!DOMAIN("", RECIPIENTS_ANY, false, true), "no name");
	directory_free(d);
}

/*
 * Long lists, row by row in turn: not the memory of a copy for each row (which
 * is some 700 MB), and alive as long as the longest of their rows.
 */
static void
long_lists(void)
{
	enum { LISTS = 20, MEMBERS = 2000 };
	struct directory *d = directory_new(true);
	char address[40], member[40], out[200], name[] = "example.com";
	struct sbuf b = sbuf_over(out, sizeof(out));
	struct domain domain;
	struct address a;
	size_t bytes = 0;

	DOMAIN("example.com", RECIPIENTS_LISTED, false, true);
	for (int m = 0; m < MEMBERS; m++)
		for (int l = 0; l < LISTS; l++) {
			snprintf(address, sizeof(address), "l%d@example.com", l);
			snprintf(member, sizeof(member), "m%d@x.example", m);
			bytes += strlen(member);
			/* Dead, and ever longer alive, to the last but one. */
			directory_put_alias(d, str_of(address), str_of(member),
			    NOW - MEMBERS + 2 + m, m % 3 != 0);
		}
	ok(directory_bytes(d) < 10000000, "%zu bytes of lists in %zu", bytes,
	    directory_bytes(d));
	ok(!directory_wasteful(d), "no waste that another read would mend");
	is_long(directory_count(d, DIRECTORY_ALIAS), LISTS, "lists");
	is_long(judge(d, "l7@example.com", &a), ADDRESS_ALIVE,
	    "a row far behind is still alive");
	directory_domain(d, str_of(name), &domain);
	directory_expand(d, &domain, STR("l7"), STR("+"), STR("l7@x"), NOW, &b);
	is_str(out, "m1999@x.example", "and is where mail goes");
	directory_free(d);
}

/* A copy is all there is, also where a read that was cut off left its names. */
static void
copied(struct directory *d)
{
	struct tables from, to;
	struct directory *other;
	char path[] = "/tmp/directory-XXXXXX";
	int fd = mkstemp(path);
	const char *why = "";
	struct address a;

	tables_init(&from, true);
	directory_free(from.directory);
	from.directory = d;
	tables_init(&to, true);
	other = to.directory;
	directory_begin(other, DIRECTORY_DOMAIN);
	directory_put_domain(other, STR("new.example"), RECIPIENTS_LISTED,
	    UNSET, 0, false, true);
	directory_put_domain(other, STR("example.com"), RECIPIENTS_ANY, UNSET,
	    0, false, true);
	directory_abandon(other);
	is_long(copy_save(&from, path, 1), 0, "a copy is written");
	is_long(copy_load(&to, path, 1, &why), 0, "and read");
	is_str(why, NULL, "without a complaint");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		is_long(judge(other, cases[i].address, &a), cases[i].want,
		    cases[i].address);
	directory_put_domain(other, STR("new.example"), RECIPIENTS_LISTED,
	    UNSET, 0, false, true);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char buf[100];

		snprintf(buf, sizeof(buf), "%.*snew.example",
		    (int)(strchr(cases[i].address, '@') + 1 -
			cases[i].address), cases[i].address);
		is_long(judge(other, buf, &a), ADDRESS_NONE, buf);
	}
	close(fd);
	unlink(path);
	tables_fini(&to);
	from.directory = NULL;
	tables_fini(&from);
}

int
main(void)
{
	struct directory *d;
	struct address a;

	hash_init();
	d = site();
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		is_long(judge(d, cases[i].address, &a), cases[i].want,
		    cases[i].address);
	judge(d, "moved@example.com", &a);
	ok(str_eq(a.reply, STR("550 5.1.6 moved")), "an address' own reply");
	expansion(d);
	copied(d);
	changes(d);
	directory_free(d);
	exact_case();
	odd_rows();
	long_lists();
	return tap_done();
}
