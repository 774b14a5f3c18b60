#include "mail/sender.h"

#include "tap.h"

#include <stdlib.h>

static const struct {
	const char *sender, *recipient, *want;
} cases[] = {
    /* Ordinary addresses. */
    {"", "bob@example.com", ""},
    {"alice@example.org", "bob@example.com", "alice@example.org"},
    {"John.Smith@X.ORG", "bob@example.com", "john.smith@x.org"},
    {"bob@example.com", "bob@example.com", "bob@example.com"},
    {"alice@example.org.", "", "alice@example.org"},
    {"root", "", "root"},
    {"@", "", "@"},
    {"a@", "", "a@"},
    {"@b", "", "@b"},
    {"decade@x.org", "", "decade@x.org"},
    {"beef-cafe@x.org", "", "beef-cafe@x.org"},
    {"deadbeef@x.org", "", "deadbeef@x.org"},
    {"newsletter-abcdefghijkl@x.org", "", "newsletter-abcdefghijkl@x.org"},
    {"JohnSmithMcDonald@x.org", "", "johnsmithmcdonald@x.org"},

    /* BATV. */
    {"prvs=1234abcdef=user@d.org", "", "user@d.org"},
    {"PRVS=1234ABCDEF=User@d.org", "", "user@d.org"},
    {"prvs=user=1234abcdef@d.org", "", "user@d.org"},
    {"prvs=user/1234abcdef@d.org", "", "user@d.org"},
    {"prvs=1234abcdef/user@d.org", "", "user@d.org"},
    {"prvs=1234abcdef=9876fedcba@d.org", "", "#@d.org"},
    {"prvs=1234567890abcdef=user@d.org", "", "user@d.org"},
    {"prvs=1234abcdef=a=b@d.org", "", "a=b@d.org"},
    {"prvs=1234abcdef=@d.org", "", "prvs=#@d.org"},
    {"prvs=user@d.org", "", "prvs=user@d.org"},
    {"prvs=@d.org", "", "prvs=@d.org"},
    {"btv1==123abcdef01==user@d.org", "", "user@d.org"},
    {"btv1==user@d.org", "", "btv#==user@d.org"},
    {"msprvs1=18abcDEFghiJK=bounces-12345@d.org", "", "bounces-#@d.org"},

    /* SRS. */
    {"SRS0=HhHh=TT=orig.com=user@f.org", "", "srs0=#=orig.com=user@f.org"},
    {"SRS0+HhHh=TT=orig.com=user@f.org", "", "srs0=#=orig.com=user@f.org"},
    {"srs0-HhHh=TT=orig.com=user@f.org", "", "srs0=#=orig.com=user@f.org"},
    {"SRS0=H+/h=TT=1und1.de=first.last@f.org", "",
	"srs0=#=1und1.de=first.last@f.org"},
    {"SRS0=HhHh=TT=orig.com=a=b=c@f.org", "",
	"srs0=#=orig.com=a=b=c@f.org"},
    {"SRS0=HhHh=TT=orig.com@f.org", "", "srs#=hhhh=#@f.org"},
    {"SRS1=HhHh=f.org==GgGg=TT=orig.com=user@g.net", "",
	"srs1=#=f.org==#=orig.com=user@g.net"},
    {"SRS1=HhHh=f.org=+GgGg=TT=orig.com=user@g.net", "",
	"srs1=#=f.org==#=orig.com=user@g.net"},
    {"SRS0=HhHh=TT=d.org=prvs=1234abcdef=user@f.org", "",
	"srs0=#=d.org=user@f.org"},
    {"prvs=1234abcdef=SRS0=HhHh=TT=d.org=user@f.org", "",
	"srs0=#=d.org=user@f.org"},

    /* VERP. */
    {"list-return-123-bob=example.com@l.org", "bob@example.com",
	"list-return-#@l.org"},
    {"list-return-123-bob=example.com@l.org", "somebody@else.example",
	"list-return-#@l.org"},
    {"list-return-123-@l.org", "", "list-return-#@l.org"},
    {"list-bounces+bob=example.com@l.org", "bob@example.com",
	"list-bounces@l.org"},
    {"list-BOB=example.COM-x@l.org", "Bob@Example.com", "list-#-x@l.org"},
    {"list-bob===example.com@l.org", "bob@example.com", "list-#@l.org"},
    {"list-bob#example.com@l.org", "bob@example.com", "list-#@l.org"},
    {"list-bob.example.com@l.org", "bob@example.com", "list-#@l.org"},
    {"list_bob_at_example_com@l.org", "bob@example.com", "list_#@l.org"},
    {"list-bob=40example.com@l.org", "bob@example.com", "list-#@l.org"},
    {"list-b=2Eob=example.com@l.org", "b.ob@example.com", "list-#@l.org"},
    {"list-example.com=bob@l.org", "bob@example.com", "list-#@l.org"},
    {"list-bob+x=example.com@l.org", "bob+x@example.com", "list-#@l.org"},
    {"bob=example.com@l.org", "bob@example.com", "#@l.org"},
    {"bob=example.com@l.org", "alice@example.com", "bob=example.com@l.org"},
    {"list-bob=example@l.org", "x@example.com", "list-bob=example@l.org"},
    {"notbob=example.com@l.org", "bob@example.com",
	"notbob=example.com@l.org"},
    {"bob@l.org", "bob@l.org", "bob@l.org"},

    /* Extensions. */
    {"user+ext@x.org", "", "user@x.org"},
    {"user-+ext@x.org", "", "user-@x.org"},
    {"+ext@x.org", "", "+ext@x.org"},
    {"+a+ext@x.org", "", "+a@x.org"},

    /* Numbers and tokens. */
    {"1.2-3@x.org", "", "#@x.org"},
    {"a-1-b-22@x.org", "", "a-#-b-#@x.org"},
    {"user42@x.org", "", "user#@x.org"},
    {"a-#-b#@x.org", "", "a-#-b#@x.org"},
    {"ada1985@x.org", "", "ada#@x.org"},
    {"c0ffee@x.org", "", "#@x.org"},
    {"x-1a2b@x.org", "", "x-#@x.org"},
    {"x-1a2@x.org", "", "x-#a#@x.org"},
    {"mp3-shop@x.org", "", "mp#-shop@x.org"},
    {"web2print@x.org", "", "web#print@x.org"},
    {"nl-k3j4h5g6f7@x.org", "", "#@x.org"},
    {"new-abcDEFghiJKlmNO@x.org", "", "new-#@x.org"},
    {"ret-1a2b3c4d-beef-cafe-9c0d-1e2f3a4b5c6d-x@x.org", "",
	"ret-#@x.org"},
    {"r-1a2b3c4d-beef-cafe-9c0d-1e2f3a4b5c6d@x.org", "", "#@x.org"},
    {"b_-1Ab9xY3kQz7_-Kj-xyz@x.org", "", "#@x.org"},
    {"bounce-1Ab9xY3kQz7_hG8-2x-more@x.org", "", "bounce-#@x.org"},
    {"list2026-1Ab9xY3kQz7@x.org", "", "list#@x.org"},
    {"x7k2m9@x.org", "", "#@x.org"},
    {"m4rt1n@x.org", "", "m#rt#n@x.org"},
    {"strengstgeschuetzt@x.org", "", "strengstgeschuetzt@x.org"},
    {"xkcdqwrt-zxcvbnmk7p@x.org", "", "xkcdqwrt-#@x.org"},
    {"a1b2c3d4-k9=example.com@x.org", "k9@example.com", "#@x.org"},
    {"a1b2c3d4-list-k9=example.com@x.org", "k9@example.com",
	"#-list-#@x.org"},
    {"-_1@x.org", "", "#@x.org"},
    {"x--_1@x.org", "", "x-#@x.org"},
    {"0100018f2a3b4c5d-1a2b3c4d-5e6f-7a8b-9c0d-1e2f3a4b5c6d-000000@ses.net",
	"", "#@ses.net"},
    {"bounces+12345-6789-bob=example.com@em123.sg.net", "bob@example.com",
	"bounces@em#.sg.net"},
    {"bounce-mc.us1_12345.67890-bob=example.com@mail1.mc.net",
	"bob@example.com", "bounce-mc.us#@mail#.mc.net"},

    /* Domains. */
    {"a@em123.example.net", "", "a@em#.example.net"},
    {"a@em123.s7.example.net", "", "a@em#.s7.example.net"},
    {"a@ip-10-0-0-12.example.net", "", "a@ip-#.example.net"},
    {"a@1and1.com", "", "a@1and1.com"},
    {"a@1and1.co.uk", "", "a@1and1.co.uk"},
    {"a@www1.1and1.co.uk", "", "a@www#.1and1.co.uk"},
    {"a@192.0.2.1", "", "a@192.0.2.1"},
    {"a@[192.0.2.1]", "", "a@[192.0.2.1]"},
    {"a@[IPv6:2001:DB8::1]", "", "a@[ipv6:2001:db8::1]"},

    /* What is no ASCII, and what is no text. */
    {"J\xc3\xb6rg@x.org", "", "j\xc3\xb6rg@x.org"},
    {"a b\tc@x.org", "", "a b?c@x.org"},
    {"a\xff\xc3@x.org", "", "a??@x.org"},
    {"a\xc2\x85@x.org", "", "a??@x.org"},
    {"\x7f@x.org", "", "?@x.org"},
};

static void
exact(void)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char buf[SENDER_MAX_BYTES + 1], again[SENDER_MAX_BYTES + 1];
		struct str recipient = str_of(cases[i].recipient);

		sender_fold(sender_fold(str_of(cases[i].sender), recipient,
				buf), recipient, again);
		is_str(buf, cases[i].want, cases[i].sender);
		if (strcmp(buf, again) != 0)
			is_str(again, buf, "folded again");
	}
}

/* Too long: the domain stays. */
static void
limits(void)
{
	char buf[SENDER_MAX_BYTES + 1], longest[1000];
	struct str s, all = {longest, sizeof(longest)};

	memset(longest, 'a', sizeof(longest));
	s = sender_fold(all, STR(""), buf);
	is_long(s.n, SENDER_MAX_BYTES, "a long local part is cut");
	is_long(buf[s.n], 0, "and has its NUL");
	memcpy(longest + sizeof(longest) - 6, "@x.org", 6);
	s = sender_fold(all, STR(""), buf);
	is_long(s.n, SENDER_MAX_BYTES, "one with a domain, too");
	is_str(buf + SENDER_MAX_BYTES - 7, "a@x.org", "but not its domain");
	memcpy(longest + SENDER_MAX_BYTES - 7, "\xe2\x82\xac", 3);
	s = sender_fold(all, STR(""), buf);
	is_str(buf + SENDER_MAX_BYTES - 8, "a@x.org",
	    "no character is cut in two");
	longest[1] = '@';
	all.n -= 6;
	s = sender_fold(all, all, buf);
	is_long(s.n, SENDER_MAX_BYTES, "a long domain is cut as well");
}

/* ---- the corpus ---- */

enum { GROUPS_MAX = 1000 };

/* What each group folds to, in its first line. */
static struct group {
	char name[100], key[SENDER_MAX_BYTES + 1];
	bool equal, good;
} groups[GROUPS_MAX];

static struct str
key_of(char *line, char buf[SENDER_MAX_BYTES + 1])
{
	char *recipient = strchr(line, '\t');

	if (recipient == NULL) {
		ok(0, "two columns: %s", line);
		return STR("");
	}
	*recipient++ = '\0';
	return sender_fold(str_of(line), str_of(recipient), buf);
}

/* One attempt of a group that has had `seen`, their keys one after another. */
static void
attempt(struct group *g, char *line, struct sbuf *seen)
{
	char buf[SENDER_MAX_BYTES + 1], quoted[SENDER_MAX_BYTES + 3];
	struct str key = key_of(line, buf);
	bool good;

	snprintf(quoted, sizeof(quoted), "\n%s\n", buf);
	if (seen->n == 0) {
		sbuf_addc(seen, '\n');
		memcpy(g->key, buf, key.n + 1);
		good = true;
	} else if (g->equal) {
		good = strcmp(g->key, buf) == 0;
	} else {
		good = strstr(seen->p, quoted) == NULL;
	}
	sbuf_addf(seen, "%s\n", buf);
	if (!good)
		printf("# %s: %s is %s, the first was %s\n", g->name, line, buf,
		    g->key);
	g->good = g->good && good;
}

/* No two groups of equal attempts are the same sender. */
static void
compare(size_t n)
{
	for (size_t i = 0; i < n; i++)
		for (size_t j = i + 1; j < n; j++) {
			if (!groups[i].equal || !groups[j].equal ||
			    strcmp(groups[i].key, groups[j].key) != 0)
				continue;
			printf("# %s and %s are both %s\n", groups[i].name,
			    groups[j].name, groups[i].key);
			groups[j].good = false;
		}
}

static void
corpus(void)
{
	static char text[65536];
	FILE *f = fopen("t/data/senders.txt", "r");
	struct sbuf seen = sbuf_over(text, sizeof(text));
	char line[2048];
	size_t n = 0;
	long good = 0, equal = 0, attempts = 0;

	if (!ok(f != NULL, "t/data/senders.txt is there"))
		return;
	while (fgets(line, sizeof(line), f) != NULL && n < GROUPS_MAX) {
		line[strcspn(line, "\n")] = '\0';
		if (line[0] == '\0' || line[0] == '#')
			continue;
		if (strchr(line, '\t') != NULL && n > 0) {
			attempt(&groups[n - 1], line, &seen);
			attempts++;
			continue;
		}
		snprintf(groups[n].name, sizeof(groups[n].name), "%.90s", line);
		groups[n].good = true;
		groups[n++].equal = line[0] == '=';
		seen = sbuf_over(text, sizeof(text));
	}
	fclose(f);
	compare(n);
	for (size_t i = 0; i < n; i++) {
		good += groups[i].good;
		equal += groups[i].equal;
	}
	is_long(good, n, "each group is folded as it should be");
	printf("# %ld of %zu groups right, %ld attempts: %ld of one sender, "
	       "%ld of several\n", good, n, attempts, equal, (long)n - equal);
}

int
main(void)
{
	exact();
	limits();
	corpus();
	return tap_done();
}
