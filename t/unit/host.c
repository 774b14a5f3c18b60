#include "mail/host.h"

#include "tap.h"

#include <stdlib.h>
#include <time.h>

static const struct host_options options = {.pools = true, .ipv4_prefix = 24,
    .ipv6_prefix = 64};

/* The corpus: every name of it must be judged as it says. */
static void
corpus(void)
{
	FILE *f = fopen("t/data/hosts.txt", "r");
	char line[1024], buf[HOST_CLIENT_MAX_BYTES];
	long good = 0, pools = 0, lines = 0;
	clock_t spent = 0;

	if (!ok(f != NULL, "t/data/hosts.txt is there"))
		return;
	while (fgets(line, sizeof(line), f) != NULL) {
		char *rest = line, *address, *name, *want;
		struct str client = STR("");
		bool is_pool;

		line[strcspn(line, "\n")] = '\0';
		if (line[0] == '\0' || line[0] == '#')
			continue;
		address = strsep(&rest, "\t");
		name = strsep(&rest, "\t");
		want = rest;
		if (want == NULL) {
			ok(0, "three columns: %s", line);
			continue;
		}
		spent -= clock();
		for (int i = 0; i < 100; i++)
			client = host_client(&options, str_of(address),
			    str_of(name), buf);
		spent += clock();
		is_pool = strchr(want, '/') == NULL;
		pools += is_pool;
		lines += !is_pool;
		if (str_eq(client, str_of(want)))
			good++;
		else
			printf("# %s %s: got %.*s, want %s\n", address, name,
			    (int)client.n, client.p, want);
	}
	fclose(f);
	is_long(good, pools + lines, "each name is judged as it should be");
	printf("# %ld of %ld names right: %ld senders, %ld lines; %.0f ns a "
	       "judgement\n", good, pools + lines, pools, lines,
	    (double)spent / CLOCKS_PER_SEC * 1e7 / (double)(pools + lines));
}

static const struct {
	const char *address, *name;
	struct host_options o;
	const char *want;
} cases[] = {
    {"192.0.2.129", "mail.example.com", {true, 24, 64}, "example.com"},
    {"192.0.2.129", "mail.example.com", {false, 24, 64}, "192.0.2.0/24"},
    {"192.0.2.129", "mail.example.com", {false, 25, 64}, "192.0.2.128/25"},
    {"192.0.2.129", "unknown", {true, 32, 128}, "192.0.2.129"},
    {"::ffff:192.0.2.129", "unknown", {true, 24, 64}, "192.0.2.0/24"},
    {"2001:db8:1:2:3::4", "unknown", {true, 24, 64}, "2001:db8:1:2::/64"},
    {"2001:db8:1:2:3::4", "unknown", {true, 24, 48}, "2001:db8:1::/48"},
    {"2001:DB8::4", "unknown", {true, 24, 128}, "2001:db8::4"},
    {"unknown", "unknown", {true, 24, 64}, "unknown"},
    {"Unknown", "mail.example.com", {true, 24, 64}, "unknown"},
    {"", "", {true, 24, 64}, ""},
    {"192.0.2.1", "mail.b\xc3\xbc" "cher.de", {true, 24, 64},
	"xn--bcher-kva.de"},
    {"192.0.2.1", "..", {true, 24, 64}, "192.0.2.0/24"},
    {"192.0.2.1", ".com", {true, 24, 64}, "192.0.2.0/24"},
    {"192.0.2.1", "a..com", {true, 24, 64}, "192.0.2.0/24"},
    {"192.0.2.1", "\xff.com", {true, 24, 64}, "192.0.2.0/24"},
};

int
main(void)
{
	char buf[HOST_CLIENT_MAX_BYTES], longest[600];
	struct str client;

	ok(host_client(&options, STR("192.0.2.1"), STR("mail.example.com"),
	       buf).n == strlen("192.0.2.0/24"),
	    "without the list of suffixes there are no pools");
	ok(host_init(), "there is one");
	ok(host_init(), "and it can be read again");
	corpus();
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char got[HOST_CLIENT_MAX_BYTES + 1];

		client = host_client(&cases[i].o, str_of(cases[i].address),
		    str_of(cases[i].name), buf);
		snprintf(got, sizeof(got), "%.*s", (int)client.n, client.p);
		is_str(got, cases[i].want, cases[i].name);
	}
	memset(longest, 'a', sizeof(longest));
	client = host_client(&options, STR("192.0.2.1"),
	    (struct str){longest, sizeof(longest)}, buf);
	ok(str_eq(client, STR("192.0.2.0/24")), "a name too long is none");
	client = host_client(&options, (struct str){longest, sizeof(longest)},
	    STR("mail.example.com"), buf);
	ok(client.n < HOST_CLIENT_MAX_BYTES, "nor is such an address");
	host_done();
	return tap_done();
}
