#include "tables/list.h"

#include "base/hash.h"
#include "tables/strtab.h"

#include "tap.h"

#include <stdlib.h>
#include <time.h>

static const struct {
	const char *list, *value;
	bool good;
} entries[] = {
    {"mail", "bob@example.com", true},
    {"mail", "POSTMASTER@", true},
    {"mail", "@blocked.example", true},
    {"mail", "@.sub.example", true},
    {"mail", "@B\xc3\x9c" "CHER.example", true},
    {"mail", "@.xn--bcher-kva.example", true},
    {"mail", "a@b@two.example", true},
    {"logins", "Alice", true},
    {"logins", "host.example", true},
    {"logins", ".above.example", true},
    {"net", "192.0.2.1", true},
    {"net", "198.51.100.0/24", true},
    {"net", "::ffff:203.0.113.0/121", true},
    {"net", "2001:db8::/33", true},
    {"net", "2001:DB8:FFFF::1", true},
    {"all", "0.0.0.0/0", true},
    {"all", "::/0", true},
    {"names", "mail.example.com", true},
    {"names", ".example.net.", true},
    {"names", ".a.b.c.d.example", true},
    {"names", "b\xc3\xbc" "cher.example", true},
    {"names", "two words", true},
    {"none", "", false},
    {"none", "@", false},
    {"none", ".", false},
    {"none", "..", false},
    {"none", "@.", false},
    {"none", "bob@.example.com", false},
};

static const struct {
	const char *list;
	enum list_kind kind;
	const char *value;
	bool want;
} questions[] = {
    {"mail", LIST_MAIL, "bob@example.com", true},
    {"mail", LIST_MAIL, "Bob@Example.COM", true},
    {"mail", LIST_MAIL, "bob@example.com.", true},
    {"mail", LIST_MAIL, "alice@example.com", false},
    {"mail", LIST_MAIL, "bob@a.example.com", false},
    {"mail", LIST_MAIL, "bobby@example.com", false},
    {"mail", LIST_MAIL, "bob", false},
    {"mail", LIST_MAIL, "example.com", false},
    {"mail", LIST_MAIL, "postmaster@anywhere.example", true},
    {"mail", LIST_MAIL, "postmaster", false},
    {"mail", LIST_MAIL, "x@blocked.example", true},
    {"mail", LIST_MAIL, "x@a.blocked.example", false},
    {"mail", LIST_MAIL, "blocked.example", false},
    {"mail", LIST_MAIL, "x@sub.example", false},
    {"mail", LIST_MAIL, "x@a.sub.example", true},
    {"mail", LIST_MAIL, "x@C.B.A.Sub.Example", true},
    {"mail", LIST_MAIL, "x@asub.example", false},
    {"mail", LIST_MAIL, "x@b\xc3\xbc" "cher.example", true},
    {"mail", LIST_MAIL, "x@XN--BCHER-KVA.example", true},
    {"mail", LIST_MAIL, "x@a.b\xc3\xbc" "cher.example", true},
    {"mail", LIST_MAIL, "a@b@two.example", true},
    {"mail", LIST_MAIL, "b@two.example", false},
    {"mail", LIST_MAIL, "", false},
    {"mail", LIST_MAIL, "@", false},
    {"mail", LIST_NAME, "bob@example.com", false},
    {"mail", LIST_NAME, "@blocked.example", false},
    {"mail", LIST_ADDRESS, "bob@example.com", false},
    {"logins", LIST_MAIL, "alice", true},
    {"logins", LIST_MAIL, "ALICE", true},
    {"logins", LIST_MAIL, "alice@example.com", false},
    {"logins", LIST_MAIL, "bob", false},
    {"logins", LIST_MAIL, "host.example", true},
    {"logins", LIST_MAIL, "x.above.example", false},
    {"logins", LIST_MAIL, "x@alice", false},
    {"logins", LIST_NAME, "alice", true},
    {"net", LIST_ADDRESS, "192.0.2.1", true},
    {"net", LIST_ADDRESS, "192.0.2.2", false},
    {"net", LIST_ADDRESS, "198.51.100.0", true},
    {"net", LIST_ADDRESS, "198.51.100.255", true},
    {"net", LIST_ADDRESS, "198.51.101.0", false},
    {"net", LIST_ADDRESS, "203.0.113.127", true},
    {"net", LIST_ADDRESS, "203.0.113.128", false},
    {"net", LIST_ADDRESS, "::ffff:203.0.113.1", true},
    {"net", LIST_ADDRESS, "2001:db8:7fff::1", true},
    {"net", LIST_ADDRESS, "2001:db8:8000::1", false},
    {"net", LIST_ADDRESS, "2001:db8:ffff::1", true},
    {"net", LIST_ADDRESS, "2001:db8:ffff::2", false},
    {"net", LIST_ADDRESS, "unknown", false},
    {"net", LIST_ADDRESS, "", false},
    {"net", LIST_NAME, "192.0.2.1", false},
    {"all", LIST_ADDRESS, "10.0.0.1", true},
    {"all", LIST_ADDRESS, "fe80::1", true},
    {"names", LIST_NAME, "mail.example.com", true},
    {"names", LIST_NAME, "MAIL.example.com.", true},
    {"names", LIST_NAME, "a.mail.example.com", false},
    {"names", LIST_NAME, "example.com", false},
    {"names", LIST_NAME, "example.net", false},
    {"names", LIST_NAME, "a.example.net", true},
    {"names", LIST_NAME, "c.b.a.Example.Net", true},
    {"names", LIST_NAME, "aexample.net", false},
    {"names", LIST_NAME, "x.a.b.c.d.example", true},
    {"names", LIST_NAME, "a.b.c.d.example", false},
    {"names", LIST_NAME, "xn--bcher-kva.example", true},
    {"names", LIST_NAME, "Two Words", true},
    {"names", LIST_NAME, "unknown", false},
    {"names", LIST_NAME, "", false},
    {"names", LIST_ADDRESS, "mail.example.com", false},
    {"none", LIST_MAIL, "bob@example.com", false},
    {"nobody-made-it", LIST_NAME, "mail.example.com", false},
};

static void
fill(struct lists *l)
{
	for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++)
		ok(lists_put(l, str_of(entries[i].list),
		       str_of(entries[i].value)) == entries[i].good,
		    "'%s' is %s", entries[i].value,
		    entries[i].good ? "an entry" : "none");
}

static void
ask(struct lists *l, const char *where)
{
	for (size_t i = 0; i < sizeof(questions) / sizeof(questions[0]); i++)
		ok(lists_has(l, lists_id(l, str_of(questions[i].list)),
		       questions[i].kind, str_of(questions[i].value)) ==
			questions[i].want,
		    "%s: '%s' is %sin %s", where, questions[i].value,
		    questions[i].want ? "" : "not ", questions[i].list);
}

static bool
copy(const struct lists *from, struct lists *to)
{
	bool good = true;

	for (int part = LISTS_PARTS - 1; part >= 0; part--) {
		uint64_t cursor = 0;
		struct str k, v;

		while (strtab_next(lists_part(from, part), &cursor, &k, &v))
			good = good && lists_restore(to, part, k, v);
	}
	return good;
}

/* Everything said once, then after it was read anew, and from a copy. */
static void
many_lives(void)
{
	struct lists *l = lists_new(), *m = lists_new();
	uint32_t mail = lists_id(l, STR("mail")), net;
	size_t count, names;

	lists_begin(l);
	fill(l);
	ok(lists_count(l) == 0 && lists_entries(l, mail) == 0 &&
		!lists_has(l, mail, LIST_MAIL, STR("bob@example.com")),
	    "what is being filled does not answer");
	lists_swap(l);
	ask(l, "swapped in");
	count = lists_count(l);
	is_long(lists_entries(l, mail), 7, "entries of one list");
	lists_begin(l);
	lists_put(l, STR("mail"), STR("new@example.com"));
	lists_abandon(l);
	ask(l, "abandoned");
	lists_put(l, STR("MAIL"), STR("x@example.com"));
	ok(lists_has(l, lists_id(l, STR("MAIL")), LIST_MAIL,
	       STR("x@example.com")) &&
		!lists_has(l, mail, LIST_MAIL, STR("x@example.com")),
	    "the case of a list's name matters");
	lists_forget(l, STR("MAIL"), STR("X@EXAMPLE.COM"));
	is_long(lists_count(l), count, "put and forgotten, letter case aside");
	lists_put(l, STR("mail"), STR("BOB@example.com"));
	is_long(lists_count(l), count, "an entry counts once");
	names = strtab_count(lists_part(l, 1));
	lists_forget(l, STR("nobody's"), STR("x@example.com"));
	lists_forget(l, STR("nobody's"), STR(""));
	is_long((long)strtab_count(lists_part(l, 1)), (long)names,
	    "what is forgotten makes no list");

	/* Other numbers, and entries that the copy does not have. */
	net = lists_id(m, STR("net"));
	lists_put(m, STR("old"), STR("old@example.com"));
	lists_begin(m);
	ok(copy(l, m), "a copy is read");
	is_long(lists_count(m), 1, "beside what answers");
	lists_swap(m);
	is_long(lists_count(m), (long)count, "all of it");
	ask(m, "copied");
	is_long(lists_id(m, STR("net")), net, "numbers stand");
	is_long(lists_entries(m, lists_id(m, STR("old"))), 0,
	    "what was before is gone");

	for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++)
		lists_forget(m, str_of(entries[i].list),
		    str_of(entries[i].value));
	is_long(lists_count(m), 0, "all forgotten");
	ok(!lists_has(m, net, LIST_ADDRESS, STR("192.0.2.1")) &&
		lists_entries(m, net) == 0,
	    "and nothing is in any");
	lists_free(l);
	lists_free(m);
}

#define HEAD(kind) (char)((7 << 2) | (kind)), 0, 0, 0

static void
hostile(void)
{
	static const char seven[4] = {7}, bob[] = {HEAD(0), 'b', '@', 'c'};
	static const struct {
		const char *why;
		char key[24];
		size_t n;
	} bad[] = {
	    {"too short", {7}, 1},
	    {"nothing but a head", {HEAD(0)}, 4},
	    {"of no list", {(char)(8 << 2), 0, 0, 0, 'b', '@', 'c'}, 7},
	    {"of no kind", {HEAD(3), 'b', '@', 'c'}, 7},
	    {"an address without '@'", {HEAD(0), 'b'}, 5},
	    {"only '@'", {HEAD(0), '@'}, 5},
	    {"not folded", {HEAD(0), 'B', '@', 'c'}, 7},
	    {"a domain with a dot behind", {HEAD(0), 'b', '@', 'c', '.'}, 8},
	    {"a name not folded", {HEAD(2), 'B'}, 5},
	    {"a name of dots", {HEAD(2), '.', '.'}, 6},
	    {"a network too short", {HEAD(1), 32, 1, 2, 3}, 8},
	    {"a network too long", {HEAD(1), 32, 1, 2, 3, 4, 5}, 10},
	    {"a prefix of 33", {HEAD(1), 33, 1, 2, 3, 4}, 9},
	    {"a prefix of 255", {HEAD(1), (char)255, 1, 2, 3, 4}, 9},
	    {"bits beyond the prefix", {HEAD(1), 24, 1, 2, 3, 4}, 9},
	    {"a prefix of 129", {HEAD(1), (char)129, 1}, 21},
	    {"IPv6 that wraps IPv4",
		{HEAD(1), (char)128, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (char)255,
		    (char)255, 1, 2, 3, 4}, 21},
	};
	struct str number = {seven, sizeof(seven)}, key = {bob, sizeof(bob)};
	struct lists *l = lists_new();

	ok(!lists_restore(l, 1, STR("a"), number), "nothing was begun");
	lists_begin(l);
	ok(!lists_restore(l, 0, key, STR("")), "entries before names");
	ok(!lists_restore(l, 1, STR("a"), STR("123")), "no number");
	ok(lists_restore(l, 1, STR("a"), number), "list 7");
	ok(!lists_restore(l, 1, STR("b"), number), "list 7 again");
	ok(!lists_restore(l, 2, key, STR("")), "no such part");
	ok(!lists_restore(l, -1, key, STR("")), "nor that");
	ok(!lists_restore(l, 0, key, STR("x")), "an entry with a value");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ok(!lists_restore(l, 0, (struct str){bad[i].key, bad[i].n},
		       STR("")), "%s", bad[i].why);
	ok(lists_restore(l, 0, key, STR("")), "an entry");
	ok(!lists_restore(l, 0, key, STR("")), "the same again");
	lists_swap(l);
	is_long(lists_count(l), 1, "one is in it");
	ok(lists_has(l, lists_id(l, STR("a")), LIST_MAIL, STR("b@c")),
	    "and is found");
	lists_free(l);
}

/* Whatever is put can be restored, and depth is no way to make it slow. */
static void
odd_values(void)
{
	static const char *const odd[] = {
	    "\xef\xbc\x91.2.3.4",       /* a fullwidth 1: folded, an address */
	    "x\xef\xbc\xa0y",           /* a fullwidth @ */
	    "b\xc3\xbc" "cher\xe3\x80\x82", /* an ideographic full stop */
	    "x@b\xc3\xbc" "cher\xe3\x80\x82\xe3\x80\x82", "name...",
	    "a..b", ".a..b", "x@a..b", "@..", "@..a", "\xff\xfe",
	    "\xff@\xfe", "xn--\xc3\xbc", "1.2.3.4@", "@1.2.3.4"};
	struct lists *l = lists_new(), *m = lists_new();
	char deep[512];
	size_t n = 0;
	double start;
	uint32_t id = lists_id(l, STR("deep"));

	lists_put(l, STR("deep"), STR(".not.there"));
	for (int i = 1; i < 120; i++) {
		char name[256], *p = name;

		for (int j = 0; j < i; j++)
			p += sprintf(p, ".z");
		lists_put(l, STR("deep"), str_of(name));
	}
	for (; n < 255; n++)
		deep[n] = n % 2 == 0 ? 'a' : '.';
	start = (double)clock();
	for (int i = 0; i < 10000; i++)
		if (lists_has(l, id, LIST_NAME, (struct str){deep, 255}))
			break;
	printf("# 127 labels against entries of 119 depths: %.0f ns\n",
	    ((double)clock() - start) / CLOCKS_PER_SEC / 10000 * 1e9);

	for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++)
		lists_put(l, STR("odd"), str_of(odd[i]));
	memset(deep, 'l', sizeof(deep));
	ok(lists_put(l, STR("odd"), (struct str){deep, 512}) &&
		lists_has(l, lists_id(l, STR("odd")), LIST_MAIL,
		    (struct str){deep, 512}),
	    "a login of 512 bytes");
	lists_begin(m);
	ok(copy(l, m), "odd values are copied");
	lists_swap(m);
	is_long(lists_count(m), (long)lists_count(l), "all of them");
	lists_free(l);
	lists_free(m);
}

/* ---- a million entries ---- */

enum { ROWS = 1000000, ASKED = 1 << 20, SPREAD = (1 << 21) - 1 };

static struct str
row(enum list_kind kind, unsigned i, char buf[64])
{
	i = i * 2654435761U & SPREAD; /* in no order, and even ones even */
	switch (kind) {
	case LIST_MAIL:
		return (struct str){buf, (size_t)sprintf(buf,
			"user%07u@example%u.com", i, i % 100)};
	case LIST_ADDRESS:
		return (struct str){buf, (size_t)sprintf(buf, "%u.%u.%u.%u",
			10 + i % 3, i >> 16 & 255, i >> 8 & 255, i & 255)};
	case LIST_NAME:
		return (struct str){buf, (size_t)sprintf(buf,
			"host%07u.example.net", i)};
	}
	return STR("");
}

static void
million(enum list_kind kind, const char *name)
{
	struct lists *l = lists_new();
	struct str list = STR("list");
	uint32_t id = lists_id(l, list);
	double load, asked, made;
	size_t empty = lists_bytes(l), found = 0, bytes = 0;
	char buf[64];

	load = (double)clock();
	lists_begin(l);
	for (unsigned i = 0; i < 2 * ROWS; i += 2)
		lists_put(l, list, row(kind, i, buf));
	if (kind == LIST_ADDRESS) {
		lists_put(l, list, STR("172.16.0.0/16"));
		lists_put(l, list, STR("192.168.1.0/24"));
	}
	lists_swap(l);
	load = ((double)clock() - load) / CLOCKS_PER_SEC;
	ok(lists_count(l) >= ROWS &&
		lists_bytes(l) - empty <= 48UL * lists_count(l),
	    "%zu %s entries: %.1f bytes each, at most 48", lists_count(l), name,
	    (double)(lists_bytes(l) - empty) / (double)lists_count(l));
	asked = (double)clock();
	for (unsigned i = 0; i < ASKED; i++)
		found += lists_has(l, id, kind,
		    row(kind, i * 7919 % (2 * ROWS), buf));
	made = (double)clock();
	for (unsigned i = 0; i < ASKED; i++)
		bytes += row(kind, i * 7919 % (2 * ROWS), buf).n;
	asked = made - asked - ((double)clock() - made);
	is_long(found, ASKED / 2, "every second one is in it");
	printf("# read in %.2f s; %.0f ns a question of %zu bytes\n", load,
	    asked / CLOCKS_PER_SEC * 1e9 / ASKED, bytes / ASKED);
	lists_free(l);
}

int
main(void)
{
	hash_init();
	many_lives();
	hostile();
	odd_values();
	million(LIST_MAIL, "mail");
	million(LIST_ADDRESS, "address");
	million(LIST_NAME, "name");
	return tap_done();
}
