#include "tables/schema.h"

#include "base/number.h"
#include "config/config.h"
#include "schema_version.h"

const char SCHEMA_IS_THERE[] =
    "SELECT to_regclass('policyd.schema_version') IS NOT NULL";

const char SCHEMA_VERSION[] =
    "(SELECT max(version) FROM policyd.schema_version)";

bool
schema_is_needed(const struct config *c)
{
	return c->lookup.domains[0] == '\0' || c->lookup.addresses[0] == '\0';
}

int64_t
schema_version_of(const char *text)
{
	int64_t version = 0;

	number_parse(str_of(text), &version);
	return version;
}

bool
schema_is_known(int64_t version)
{
	return version == POLICYD_SCHEMA_VERSION;
}

const char *
schema_fault(int64_t version, struct sbuf *why)
{
	sbuf_addf(why, "the schema is of version %lld, this program needs %d",
	    (long long)version, POLICYD_SCHEMA_VERSION);
	return version < POLICYD_SCHEMA_VERSION ?
	    "policyctl schema upgrade" :
	    "a policyd of that version (policyctl schema status)";
}
