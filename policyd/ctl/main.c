#include "base/number.h"
#include "config/config.h"
#include "ctl/ctl.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_FILE "/etc/policyd/policyd.ini"

enum { TIMEOUT_S = 60, TIMEOUT_MAX_S = 1000000 };

/* ---- the commands ---- */

static const struct verb schema_verbs[] = {
    {"install", ARGS_NONE, "build the tables", schema_install},
    {"upgrade", ARGS_NONE, "bring older tables up to date", schema_upgrade},
    {"status", ARGS_NONE, "is the version the one that policyd wants?",
	schema_status},
    {0},
};

static const struct verb status_verbs[] = {
    {"", ARGS_NONE, "how is the daemon?", daemon_status},
    {0},
};

static const struct verb row_verbs[] = {
    {"add", ARGS_ROW, "add a row", rows_add},
    {"remove", ARGS_KEY, "remove it", rows_remove},
    {"list", ARGS_FILTER, "show those that have these values", rows_list},
    {"enable", ARGS_SOME, "let it count again", rows_enable},
    {"disable", ARGS_SOME, "as if it were not there", rows_disable},
    {0},
};

static const struct verb check_verbs[] = {
    {"", ARGS_NONE, "what is wrong with the rules, or can never happen",
	check_rules},
    {0},
};

static const struct verb explain_verbs[] = {
    {"", ARGS_FILE, "what a request would be answered, and why", explain},
    {0},
};

static const struct verb greylist_verbs[] = {
    {"list", ARGS_FILTER, "what waits, and what has passed",
	greylist_list},
    {"release", ARGS_KEY, "let the next attempt of a waiting key pass",
	greylist_release},
    {"allow", ARGS_ROW, "never greylist this client", greylist_allow},
    {"forget", ARGS_SOME, "as if it had never been seen, or allowed",
	greylist_forget},
    {0},
};

static const struct verb client_verbs[] = {
    {"list", ARGS_FILTER, "who is allowed, or has shown that it retries",
	client_list},
    {0},
};

static const struct verb import_verbs[] = {
    {"postgrey", ARGS_FILE, "from its folder, /var/lib/postgrey, or a file",
	import_postgrey},
    {"sqlgrey", ARGS_SOURCE, "from its PostgreSQL database", import_sqlgrey},
    {"iredapd", ARGS_SOURCE, "from its PostgreSQL database", import_iredapd},
    {0},
};

static const struct object {
	const char *name;
	const struct verb *verbs;
	const char *table; /* NULL if it is about none */
} objects[] = {
    {"status", status_verbs, NULL},
    {"schema", schema_verbs, NULL},
    {"check", check_verbs, NULL},
    {"explain", explain_verbs, NULL},
    {"domain", row_verbs, "domain"},
    {"address", row_verbs, "address"},
    {"alias", row_verbs, "alias"},
    {"domain_alias", row_verbs, "domain_alias"},
    {"list", row_verbs, "list_entry"},
    {"rule", row_verbs, "rule"},
    {"greylist", greylist_verbs, "greylist"},
    {"client", client_verbs, "client"},
    {"import", import_verbs, NULL},
    {0},
};

static const struct table *
table_of(const struct object *object, const struct verb *verb)
{
	/* Whom greylisting spares is a row of its own. */
	const char *name =
	    verb->run == greylist_allow ? "client" : object->table;

	return name != NULL ? table_named(name) : NULL;
}

static bool
is_bare(const struct verb *verb)
{
	return verb->name[0] == '\0';
}

/* How the daemon is should be known most of all when PostgreSQL is away. */
static bool
needs_database(const struct verb *verb)
{
	return verb->run != daemon_status;
}

/* Who builds a schema or imports waits for as long as it takes. */
static bool
takes_long(const struct object *object)
{
	return object->verbs == schema_verbs || object->verbs == import_verbs;
}

static bool
has_verb(const struct object *object, const struct verb *verb)
{
	const struct table *table = table_of(object, verb);

	return table == NULL || table_allows(table, verb->run);
}

/* ---- talking to people ---- */

void
ctl_complain(const char *hint, const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	fputs("policyctl: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	if (hint != NULL)
		fprintf(stderr, "hint: %s\n", hint);
}

static enum ctl_status
usage(void)
{
	fputs("usage: policyctl [-c FILE | -d CONNINFO] [--json] COMMAND\n"
	      "policyctl --help lists the commands\n",
	    stderr);
	return CTL_USAGE;
}

static void
help(void)
{
	puts("usage: policyctl [-c FILE | -d CONNINFO] [--json] COMMAND\n\n"
	     "  -c FILE      the configuration, instead of " DEFAULT_FILE "\n"
	     "  -d CONNINFO  the database, instead of the configuration's\n"
	     "      --json   print for programs\n"
	     "      --timeout SECONDS  give up where PostgreSQL takes longer, "
	     "instead of 60\n"
	     "      --dry-run  of import: only say what it would do\n"
	     "  -h, --help   print this\n"
	     "  -V           print the version\n\n"
	     "Commands (a value may also be written COLUMN=VALUE; '' leaves "
	     "it to the default):");
	for (const struct object *o = objects; o->name != NULL; o++) {
		putchar('\n');
		for (const struct verb *v = o->verbs; v->name != NULL; v++) {
			if (!has_verb(o, v))
				continue;
			printf("  %s%s%s", o->name, is_bare(v) ? "" : " ",
			    v->name);
			args_print(table_of(o, v), v->args, stdout);
			printf("\n\t%s\n", v->summary);
		}
	}
}

/* ---- finding the command ---- */

static const struct object *
object_named(const char *name)
{
	for (const struct object *o = objects; o->name != NULL; o++)
		if (strcmp(o->name, name) == 0)
			return o;
	ctl_complain(NULL, "\"%s\" is no command", name);
	return NULL;
}

static const struct verb *
verb_named(const struct object *object, const char *name)
{
	if (is_bare(&object->verbs[0]))
		return &object->verbs[0];
	for (const struct verb *v = object->verbs; v->name != NULL; v++)
		if (name != NULL && strcmp(v->name, name) == 0 &&
		    has_verb(object, v))
			return v;
	fputs("policyctl: say ", stderr);
	for (const struct verb *v = object->verbs; v->name != NULL; v++)
		if (has_verb(object, v))
			fprintf(stderr, "%s%s %s", v > object->verbs ? ", " : "",
			    object->name, v->name);
	fputc('\n', stderr);
	return NULL;
}

/* ---- running it ---- */

struct config *
ctl_config(const struct ctl *ctl)
{
	struct config_errors errors = {0};
	bool none = ctl->may_lack_file && access(ctl->file, F_OK) == -1;
	const char *hint = !ctl->may_lack_file &&
		access(ctl->file, R_OK) == -1 ?
	    "-d CONNINFO, such as -d dbname=policyd, does without the file." :
	    NULL;
	struct config *config = config_load(none ? "/dev/null" : ctl->file,
	    &errors);

	for (size_t i = 0; i < errors.count; i++)
		ctl_complain(hint, "%s", errors.text[i]);
	config_errors_free(&errors);
	return config;
}

static bool
connect_as_configured(struct ctl *ctl)
{
	struct config *config = ctl_config(ctl);
	bool good;

	if (config == NULL)
		return false;
	good = ctl_connect(ctl, config->database.conninfo);
	config_free(config);
	return good;
}

static enum ctl_status
run(struct ctl *ctl, const char *file, const char *conninfo, char **argv,
    size_t argc)
{
	const struct object *object = object_named(argv[0]);
	const struct table *table;
	const struct verb *verb;
	size_t words;
	struct values values;
	enum ctl_status status = CTL_NO;

	ctl->file = file;
	ctl->may_lack_file = conninfo != NULL;
	if (object == NULL)
		return usage();
	verb = verb_named(object, argc > 1 ? argv[1] : NULL);
	if (verb == NULL)
		return CTL_USAGE;
	if (ctl->dry_run && object->verbs != import_verbs) {
		ctl_complain(NULL, "--dry-run is for import");
		return usage();
	}
	table = table_of(object, verb);
	ctl->patient = takes_long(object);
	words = is_bare(verb) ? 1 : 2;
	if (!args_parse(table, verb->args, argv + words, argc - words,
		&values)) {
		fprintf(stderr, "usage: policyctl %s%s%s", object->name,
		    is_bare(verb) ? "" : " ", verb->name);
		args_print(table, verb->args, stderr);
		fputc('\n', stderr);
		free(values.many);
		return CTL_USAGE;
	}
	if (!needs_database(verb) ||
	    (conninfo != NULL ? ctl_connect(ctl, conninfo) :
				connect_as_configured(ctl)))
		status = verb->run(ctl, table, &values);
	PQfinish(ctl->db);
	free(values.many);
	return status;
}

/* The status, unless something of the output is lost. */
static int
finish(enum ctl_status status)
{
	bool failed = fflush(stdout) != 0;

	if (!failed && !ferror(stdout))
		return (int)status;
	ctl_complain(NULL, "standard output: %s",
	    failed ? strerror(errno) : "not all of it could be written");
	return CTL_NO;
}

/* What to wait, from what was typed; false, complained of. */
static bool
read_timeout(const char *text, struct ctl *ctl)
{
	int64_t s;

	if (number_parse(str_of(text), &s) == -1 || s > TIMEOUT_MAX_S) {
		ctl_complain(NULL, "\"%s\" is no number of seconds", text);
		return false;
	}
	ctl->timeout_s = (unsigned)s;
	return true;
}

int
main(int argc, char **argv)
{
	static const struct option options[] = {
	    {"json", no_argument, NULL, 'j'},
	    {"dry-run", no_argument, NULL, 'n'},
	    {"timeout", required_argument, NULL, 't'},
	    {"help", no_argument, NULL, 'h'},
	    {"version", no_argument, NULL, 'V'},
	    {0},
	};
	const char *file = DEFAULT_FILE, *conninfo = NULL;
	struct ctl ctl = {.timeout_s = TIMEOUT_S};
	int c;

	while ((c = getopt_long(argc, argv, "c:d:hV", options, NULL)) != -1) {
		switch (c) {
		case 'c':
			file = optarg;
			break;
		case 'd':
			conninfo = optarg;
			break;
		case 'j':
			ctl.json = true;
			break;
		case 'n':
			ctl.dry_run = true;
			break;
		case 't':
			if (!read_timeout(optarg, &ctl))
				return (int)usage();
			break;
		case 'h':
			help();
			return finish(CTL_YES);
		case 'V':
			puts("policyctl " POLICYD_VERSION);
			return finish(CTL_YES);
		default:
			return (int)usage();
		}
	}
	if (optind == argc)
		return (int)usage();
	return finish(run(&ctl, file, conninfo, argv + optind,
	    (size_t)(argc - optind)));
}
