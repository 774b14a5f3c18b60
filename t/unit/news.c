#include "policy/news.h"

#include "base/hash.h"
#include "config/config.h"
#include "db/session.h"
#include "policy/journal.h"

#include "tap.h"

#include <ev.h>
#include <stdio.h>

enum { WATCHED_MAX = 10000 };

/* The last that was told: 'k', 'm' merged, 'c', '*' many; and how often. */
struct told {
	char what;
	uint64_t hash;
	int times;
};

static void
tell(struct told *t, char what, uint64_t hash)
{
	*t = (struct told){what, hash, t->times + 1};
}

static void
on_key(void *arg, uint64_t key, bool merged)
{
	tell(arg, merged ? 'm' : 'k', key);
}

static void
on_client(void *arg, uint64_t client)
{
	tell(arg, 'c', client);
}

static void
on_many(void *arg)
{
	tell(arg, '*', 0);
}

/* The connection is never made: nobody runs the loop. */
static void
on_connection(void *arg)
{
	tell(arg, '!', 0);
}

static void
on_clock(void *arg, double seconds)
{
	tell(arg, '!', (uint64_t)seconds);
}

static struct news *
listen_nowhere(struct told *told)
{
	static char conninfo[] = "host=/nowhere";
	static const struct config config = {
	    .database = {.listen_conninfo = conninfo, .reconnect_max_s = 1},
	};
	const struct news_handlers handlers = {on_key, on_client, on_many,
	    on_connection, on_connection, on_clock, told};

	return news_new(ev_default_loop(0), &config, &handlers);
}

/* ---- one announcement ---- */

static const struct {
	const char *payload;
	char what; /* 0: nobody is told */
	const char *client, *sender, *recipient;
} cases[] = {
    {"greylist:192.0.2.0/24 a@a.example b@b.example", 'k', "192.0.2.0/24",
	"a@a.example", "b@b.example"},
    {"greylist_merged:mx.example a@a.example b@b.example", 'm', "mx.example",
	"a@a.example", "b@b.example"},
    {"greylist:mx.example  b@b.example", 'k', "mx.example", "",
	"b@b.example"},
    {"greylist:mx.example \"a  a\"@a.example b@b.example", 'k', "mx.example",
	"\"a  a\"@a.example", "b@b.example"},
    {"greylist:2001:db8::/64 a:b@a.example greylist:", 'k', "2001:db8::/64",
	"a:b@a.example", "greylist:"},
    {"greylist:unknown \xc3\xa9@a.example b", 'k', "unknown",
	"\xc3\xa9@a.example", "b"},
    {"client:mx.example", 'c', "mx.example", NULL, NULL},
    {"client:2001:db8::/64", 'c', "2001:db8::/64", NULL, NULL},
    {"greylist", '*', NULL, NULL, NULL},
    {"client", '*', NULL, NULL, NULL},
    /* None of ours, or none at all. */
    {"", 0, NULL, NULL, NULL},
    {":", 0, NULL, NULL, NULL},
    {"greylist:", 0, NULL, NULL, NULL},
    {"greylist:mx.example", 0, NULL, NULL, NULL},
    {"greylist_merged", 0, NULL, NULL, NULL},
    {"greylist_merged:", 0, NULL, NULL, NULL},
    {"greylist_merged:mx.example", 0, NULL, NULL, NULL},
    {"greylis", 0, NULL, NULL, NULL},
    {"greylists", 0, NULL, NULL, NULL},
    {"greylist_forgotten:c s r", 0, NULL, NULL, NULL},
    {"Greylist:c s r", 0, NULL, NULL, NULL},
    {" greylist", 0, NULL, NULL, NULL},
    {"clients", 0, NULL, NULL, NULL},
    {"clien", 0, NULL, NULL, NULL},
    {"domain", 0, NULL, NULL, NULL},
    {"address:b@b.example", 0, NULL, NULL, NULL},
    {"list_entry:client:mx.example", 0, NULL, NULL, NULL},
};

static uint64_t
hash_of(size_t i)
{
	uint64_t client;

	if (cases[i].client == NULL)
		return 0;
	client = hash_text(cases[i].client);
	return cases[i].sender == NULL ? client :
	    journal_key(client, journal_pair(str_of(cases[i].sender),
				    str_of(cases[i].recipient)));
}

static void
test_cases(void)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct told told = {0};
		struct news *n = listen_nowhere(&told);
		const char *payload = cases[i].payload;
		uint64_t hash = hash_of(i);

		news_watch(n);
		news_hear(n, payload);
		is_long(told.times, cases[i].what != 0, payload);
		is_long(told.what, cases[i].what, payload);
		ok(told.hash == hash, "'%s': of the right one", payload);
		is_long(news_had(n, hash), hash != 0, "is remembered");
		ok(!news_had(n, hash_text("other.example")), "no other is");
		news_free(n);
	}
}

/* ---- what was announced since ---- */

static void
test_watch(void)
{
	struct told told = {0};
	struct news *n = listen_nowhere(&told);
	char payload[40];

	ok(!news_had(n, hash_text("a")), "nothing at first");
	news_hear(n, "client:a");
	news_hear(n, "client:a");
	is_long(told.times, 2, "told as often as it is heard");
	ok(news_had(n, hash_text("a")), "had");
	news_watch(n);
	ok(!news_had(n, hash_text("a")), "but not since");

	for (int i = 0; i < WATCHED_MAX; i++) {
		snprintf(payload, sizeof(payload), "client:%d", i);
		news_hear(n, payload);
	}
	ok(news_had(n, hash_text("0")) && news_had(n, hash_text("9999")),
	    "each of many is remembered");
	ok(!news_had(n, hash_text("10000")), "and no other");
	news_hear(n, "client:10000");
	ok(news_had(n, hash_text("10000")), "too many: it may be among them");
	ok(news_had(n, hash_text("a")), "and so may any");
	is_long(told.times, 2 + WATCHED_MAX + 1, "each is told");
	news_watch(n);
	ok(!news_had(n, hash_text("a")), "until the next time");
	news_free(n);
}

static void
test_connection(void)
{
	struct db_count count = {0};
	struct told told = {0};
	struct news *n = listen_nowhere(&told);

	ok(!news_is_heard(n), "nothing is heard without a connection");
	news_count(n, &count);
	is_long(count.wanted, 1, "one is wanted");
	is_long(count.up, 0, "none is up");
	is_long(told.times, 0, "nobody is told before the loop runs");
	news_free(n);
	news_free(NULL);
}

int
main(void)
{
	hash_init();
	test_cases();
	test_watch();
	test_connection();
	return tap_done();
}
