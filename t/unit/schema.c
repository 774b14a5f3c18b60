#include "tables/schema.h"

#include "config/config.h"
#include "schema_version.h"

#include "tap.h"

static const struct {
	const char *domains, *addresses;
	bool needed;
} lookups[] = {
    {"", "", true},
    {"SELECT x", "", true},
    {"", "SELECT x", true},
    {"SELECT x", "SELECT x", false},
};

static const struct {
	const char *text;
	long version;
} versions[] = {
    {"1", 1},
    {"12", 12},
    {"", 0},
    {"x", 0},
    {"-1", 0},
    {"99999999999999999999", 0},
};

static const struct {
	int64_t version;
	const char *run;
} others[] = {
    {0, "policyctl schema upgrade"},
    {POLICYD_SCHEMA_VERSION - 1, "policyctl schema upgrade"},
    {POLICYD_SCHEMA_VERSION + 1,
	"a policyd of that version (policyctl schema status)"},
};

int
main(void)
{
	for (size_t i = 0; i < sizeof(lookups) / sizeof(lookups[0]); i++) {
		char domains[20], addresses[20];
		struct config c = {0};

		snprintf(domains, sizeof(domains), "%s", lookups[i].domains);
		snprintf(addresses, sizeof(addresses), "%s",
		    lookups[i].addresses);
		c.lookup.domains = domains;
		c.lookup.addresses = addresses;
		ok(schema_is_needed(&c) == lookups[i].needed,
		    "domains '%s', addresses '%s'", domains, addresses);
	}
	for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++)
		is_long(schema_version_of(versions[i].text),
		    versions[i].version, versions[i].text);
	ok(schema_is_known(POLICYD_SCHEMA_VERSION), "ours");
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		char why[120], want[120];
		struct sbuf b = sbuf_over(why, sizeof(why));

		ok(!schema_is_known(others[i].version), "version %ld",
		    (long)others[i].version);
		is_str(schema_fault(others[i].version, &b), others[i].run,
		    "what is to be run");
		snprintf(want, sizeof(want), "the schema is of version %ld, "
		    "this program needs %d", (long)others[i].version,
		    POLICYD_SCHEMA_VERSION);
		is_str(why, want, "why");
	}
	return tap_done();
}
