#include "base/mem.h"
#include "ctl/ctl.h"
#include "ctl/steps.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NOT_INSTALLED = 0, UNKNOWN = -1 };

static int
wanted_version(void)
{
	return steps[step_count - 1].version;
}

/* A number from a query of one row; NULL in SQL is NOT_INSTALLED. */
static int
number(struct ctl *ctl, const char *sql)
{
	PGresult *result = ctl_query(ctl, sql, 0, NULL);
	int n;

	if (result == NULL)
		return UNKNOWN;
	n = (int)strtol(PQgetvalue(result, 0, 0), NULL, 10);
	PQclear(result);
	return n;
}

/* The version in the database, NOT_INSTALLED, or UNKNOWN: complained of. */
static int
installed_version(struct ctl *ctl)
{
	int there = number(ctl,
	    "SELECT (to_regclass('policyd.schema_version') IS NOT NULL)::int");

	if (there != 1)
		return there;
	return number(ctl, "SELECT max(version) FROM policyd.schema_version");
}

static char *
step_text(const struct step *step)
{
	size_t n = 0, at = 0;
	char *text;

	for (const char *const *line = step->lines; *line != NULL; line++)
		n += strlen(*line);
	text = mem_alloc(n + 1);
	for (const char *const *line = step->lines; *line != NULL; line++) {
		size_t len = strlen(*line);

		memcpy(text + at, *line, len);
		at += len;
	}
	text[n] = '\0';
	return text;
}

/* One step, in a transaction of its own, which a failure leaves open. */
static bool
take_step(struct ctl *ctl, const struct step *step)
{
	char *text = step_text(step);
	bool good = ctl_script(ctl, "BEGIN") && ctl_script(ctl, text) &&
	    ctl_script(ctl, "COMMIT");

	free(text);
	if (!good)
		fprintf(stderr, "policyctl: step %s failed and is undone\n",
		    step->name);
	else if (!ctl->json)
		printf("step %s\n", step->name);
	return good;
}

static void
print_version(struct ctl *ctl, int version)
{
	if (ctl->json && version == NOT_INSTALLED)
		printf("{\"installed\": null, \"wanted\": %d}\n",
		    wanted_version());
	else if (ctl->json)
		printf("{\"installed\": %d, \"wanted\": %d}\n", version,
		    wanted_version());
	else
		printf("schema policyd: version %d\n", version);
}

static enum ctl_status
take_steps(struct ctl *ctl, int from)
{
	for (size_t i = 0; i < step_count; i++)
		if (steps[i].version > from && !take_step(ctl, &steps[i]))
			return CTL_NO;
	print_version(ctl, wanted_version());
	return CTL_YES;
}

static enum ctl_status
too_new(int version)
{
	ctl_complain("Install the policyd that brought it.",
	    "the schema has version %d, this policyctl knows %d", version,
	    wanted_version());
	return CTL_NO;
}

/* Of two that install at once, the second waits and finds it done. */
static int
lock_and_look(struct ctl *ctl)
{
	if (!ctl_script(ctl,
		"SELECT pg_advisory_lock(hashtext('policyd.schema_version'))"))
		return UNKNOWN;
	return installed_version(ctl);
}

enum ctl_status
schema_install(struct ctl *ctl, const struct table *table,
    const struct values *values)
{
	int version = lock_and_look(ctl);

	(void)table, (void)values;
	if (version == UNKNOWN)
		return CTL_NO;
	if (version == NOT_INSTALLED)
		return take_steps(ctl, version);
	if (version > wanted_version())
		return too_new(version);
	if (version < wanted_version()) {
		ctl_complain("policyctl schema upgrade",
		    "the schema is installed already, but has version %d "
		    "instead of %d",
		    version, wanted_version());
		return CTL_NO;
	}
	if (ctl->json)
		print_version(ctl, version);
	else
		printf("schema policyd: version %d is installed already\n",
		    version);
	return CTL_YES;
}

enum ctl_status
schema_upgrade(struct ctl *ctl, const struct table *table,
    const struct values *values)
{
	int version = lock_and_look(ctl);

	(void)table, (void)values;
	if (version == UNKNOWN)
		return CTL_NO;
	if (version == NOT_INSTALLED) {
		ctl_complain("policyctl schema install",
		    "there is no schema policyd in this database");
		return CTL_NO;
	}
	if (version > wanted_version())
		return too_new(version);
	return take_steps(ctl, version);
}

enum ctl_status
schema_status(struct ctl *ctl, const struct table *table,
    const struct values *values)
{
	int version = installed_version(ctl);

	(void)table, (void)values;
	if (version == UNKNOWN)
		return CTL_NO;
	if (ctl->json)
		print_version(ctl, version);
	else if (version == NOT_INSTALLED)
		printf("installed: none\nwanted: %d\n", wanted_version());
	else
		printf("installed: %d\nwanted: %d\n", version,
		    wanted_version());
	if (version == wanted_version())
		return CTL_YES;
	if (!ctl->json && version < wanted_version())
		printf("policyctl schema %s\n",
		    version == NOT_INSTALLED ? "install" : "upgrade");
	return CTL_NO;
}
