#include "ctl/ctl.h"

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "config/config.h"
#include "policy/check.h"
#include "policy/decide.h"
#include "tables/load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/*
 * policyctl explain: the daemon's own code judges a request, from the tables as
 * they are now, and tells each step.  It is this program that does it, with no
 * session behind it: nothing is counted, stored or held back, and no script is
 * called.  Greylisting is asked as the daemon asks it, and taken back.
 */

struct telling {
	bool json;
	bool first; /* json: no comma yet */
	bool failed; /* complained of: it is not as the daemon would answer */
	struct ctl *ctl;
	const struct config *config;
};

static void
print_string(struct str s)
{
	putchar('"');
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];

		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < ' ' || c == 0x7f)
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}

static void
begin_step(struct telling *t, const char *kind)
{
	printf("%s{\"%s\":", t->first ? "" : ",\n  ", kind);
	t->first = false;
}

static void
tell_rule(void *arg, const struct rule *rule, const struct condition *failed)
{
	struct telling *t = arg;
	struct str text =
	    failed != NULL ? condition_text(failed) : STR("");

	if (t->json) {
		begin_step(t, "rule");
		printf("%lld,\"action\":", (long long)rule->id);
		print_string(str_of(rule->action));
		printf(",\"holds\":%s", failed == NULL ? "true" : "false");
		if (failed != NULL) {
			printf(",\"failed\":");
			print_string(text);
		}
		printf(",\"shadow\":%s}", rule->shadow ? "true" : "false");
		return;
	}
	if (failed != NULL)
		printf("rule %lld  no: %.*s\n", (long long)rule->id,
		    (int)text.n, text.p);
	else
		printf("rule %lld  holds%s: %s\n", (long long)rule->id,
		    rule->shadow ? " (shadow: only logged)" : "",
		    rule->action);
}

static void
tell_script(void *arg, struct str name)
{
	struct telling *t = arg;

	if (t->json) {
		begin_step(t, "script");
		print_string(name);
		putchar('}');
		return;
	}
	printf("script %.*s  would be called; taken as NULL here\n",
	    (int)name.n, name.p);
}

/* The word and the seconds, or false, complained of. */
static bool
try_greylist(struct telling *t, const struct sighting *s,
    struct greylist_answer *out)
{
	static const char sql[] =
	    "SELECT CASE WHEN sender IS NULL THEN 3 WHEN passed_at IS NULL "
	    "THEN 0 WHEN passed_at = clock THEN 1 ELSE 2 END, "
	    "CASE WHEN sender IS NULL THEN 0 WHEN passed_at IS NULL THEN "
	    "greatest(1, ceil(first_seen + $5 - clock)) "
	    "ELSE floor(clock - first_seen) END::bigint "
	    "FROM policyd.greylist_see(ARRAY[$1], ARRAY[$2], ARRAY[$3], "
	    "ARRAY[$4], ARRAY[1], $5, $6, $7, $8)";
	static const enum greylist_word words[] = {GREYLIST_WAIT,
	    GREYLIST_PASS, GREYLIST_KNOWN, GREYLIST_CLIENT};
	char number[4][32], *text[4];
	const struct str texts[] = {s->client_text, s->network_text, s->sender,
	    s->recipient};
	const double numbers[] = {t->config->greylist.delay_s,
	    t->config->greylist.retry_window_s, t->config->greylist.max_age_s,
	    (double)t->config->greylist.auto_allow_after};
	const char *params[8];
	PGresult *result;
	bool good = false;

	for (int i = 0; i < 4; i++) {
		params[i] = text[i] = mem_strndup(texts[i].p, texts[i].n);
		snprintf(number[i], sizeof(number[i]), "%.17g", numbers[i]);
		params[4 + i] = number[i];
	}
	if (ctl_script(t->ctl, "BEGIN")) {
		result = ctl_query(t->ctl, sql, 8, params);
		/* A row for each of client and network, if these are exempt. */
		if (result != NULL && PQntuples(result) > 0) {
			out->word =
			    words[strtol(PQgetvalue(result, 0, 0), NULL, 10)];
			out->seconds =
			    strtoll(PQgetvalue(result, 0, 1), NULL, 10);
			good = true;
		}
		PQclear(result);
		ctl_script(t->ctl, "ROLLBACK");
	}
	for (int i = 0; i < 4; i++)
		free(text[i]);
	return good;
}

static void
tell_greylist(void *arg, const struct sighting *s, struct greylist_answer *out)
{
	static const char *const words[] = {
	    [GREYLIST_WAIT] = "waits",
	    [GREYLIST_PASS] = "passes by this attempt",
	    [GREYLIST_KNOWN] = "has passed before",
	    [GREYLIST_CLIENT] = "its client is not greylisted",
	};
	struct telling *t = arg;
	bool asked = try_greylist(t, s, out);
	const char *what = asked ? words[out->word] : "cannot be asked";

	t->failed = t->failed || !asked;
	if (t->json) {
		begin_step(t, "greylist");
		print_string(str_of(what));
		printf(",\"client\":");
		print_string(s->client_text);
		printf(",\"network\":");
		print_string(s->network_text);
		printf(",\"sender\":");
		print_string(s->sender);
		printf(",\"recipient\":");
		print_string(s->recipient);
		printf(",\"seconds\":%lld}", (long long)out->seconds);
		return;
	}
	printf("greylist %.*s (%.*s) %.*s %.*s  %s\n", (int)s->client_text.n,
	    s->client_text.p, (int)s->network_text.n, s->network_text.p,
	    s->sender.n > 0 ? (int)s->sender.n : 2,
	    s->sender.n > 0 ? s->sender.p : "<>", (int)s->recipient.n,
	    s->recipient.p, what);
}

static void
tell_stage(void *arg, const char *name, enum step step)
{
	struct telling *t = arg;
	const char *what = step == STEP_ANSWERED ? "answers" : "goes on";

	if (t->json) {
		begin_step(t, "stage");
		printf("\"%s\",\"answers\":%s}", name,
		    step == STEP_ANSWERED ? "true" : "false");
		return;
	}
	printf("stage %s  %s\n", name, what);
}

static void
tell_odd(void *arg, const char *what, struct str which)
{
	struct telling *t = arg;

	t->failed = true;
	if (t->json) {
		begin_step(t, "no_question");
		print_string(str_of(what));
		printf(",\"which\":");
		print_string(which);
		putchar('}');
	}
	ctl_complain("Postfix sends request=smtpd_access_policy, protocol_state"
		     " and what that state needs: at RCPT client_address, "
		     "sender and recipient.",
	    "policyd logs this and lets it pass: %s: %.*s", what, (int)which.n,
	    which.p);
}

/* All of it, up to a bound; NULL, complained of. */
static char *
read_file(const char *path, size_t *n)
{
	bool is_stdin = path == NULL || strcmp(path, "-") == 0;
	const char *name = is_stdin ? "standard input" : path;
	FILE *f = is_stdin ? stdin : fopen(path, "re");
	char *buf;

	if (f == NULL) {
		ctl_complain(NULL, "%s: %s", name, strerror(errno));
		return NULL;
	}
	buf = mem_zalloc(REQUEST_MAX_BYTES + 3);
	*n = fread(buf, 1, REQUEST_MAX_BYTES + 1, f);
	if (ferror(f)) {
		ctl_complain(NULL, "%s: %s", name, strerror(errno));
		free(buf);
		buf = NULL;
	}
	if (!is_stdin)
		fclose(f);
	return buf;
}

/* A block typed by hand may have empty lines before it, and lack its own. */
static size_t
frame(char *buf, size_t n)
{
	size_t start = 0;

	while (start < n && buf[start] == '\n')
		start++;
	while (n > start && buf[n - 1] == '\n')
		n--;
	n -= start;
	memmove(buf, buf + start, n);
	buf[n++] = '\n';
	buf[n++] = '\n';
	return n;
}

/* The one request in a file; false, complained of. */
static bool
read_request(const char *path, char **buf, struct request *request)
{
	size_t n = 0, scanned = 0, used = 0;
	const char *why = NULL;

	*buf = read_file(path, &n);
	if (*buf == NULL)
		return false;
	n = frame(*buf, n);
	if (n == 2)
		why = "it is empty";
	else if (request_parse(request, *buf, n, &scanned, &used, &why) ==
		REQUEST_DONE &&
	    used < n)
		why = "there are several, explain them one by one";
	if (why != NULL)
		ctl_complain("A request is a block of lines, attribute=value.",
		    "this is no request: %s", why);
	return why == NULL;
}

static void
print_answer(const struct telling *t, struct answer *a)
{
	if (a->n > 2)
		a->n -= 2; /* its two newlines */
	if (t->json) {
		printf("],\n \"answer\":");
		if (a->n > 0)
			print_string((struct str){a->wire, a->n});
		else
			printf("null");
		printf(",\"held_s\":%.3f}\n", a->hold_s);
		return;
	}
	if (a->n == 0)
		printf("answer  none: the connection is closed\n");
	else
		printf("answer  %.*s\n", (int)a->n, a->wire);
	if (a->hold_s > 0)
		printf("        held back for %.3f s\n", a->hold_s);
}

static enum ctl_status
judge(struct ctl *ctl, const struct config *config, struct tables *tables,
    const struct request *request)
{
	struct telling t = {.json = ctl->json, .first = true, .ctl = ctl,
	    .config = config};
	const struct check_trace trace = {tell_rule, tell_script,
	    tell_greylist, tell_stage, tell_odd, &t};
	struct policy *p = policy_new(NULL, config, tables);
	struct answer a;

	if (ctl->json)
		printf("{\"steps\":[\n  ");
	decide_traced(p, request, (double)time(NULL), &trace, &a);
	policy_free(p);
	print_answer(&t, &a);
	return t.failed ? CTL_NO : CTL_YES;
}

static enum ctl_status
judge_from_database(struct ctl *ctl, const struct config *config,
    const struct request *request)
{
	enum ctl_status status = CTL_NO;
	struct tables tables;
	struct str table;
	const char *why;

	hash_init();
	host_init();
	log_init(LOG_TO_STDERR, LOG_CRIT);
	tables_init(&tables, config->rcpt.fold_local_part != 0);
	ctl_wait_begin(ctl);
	why = tables_load(ctl->db, config, &tables, &table);
	ctl_wait_end();
	if (why != NULL) {
		ctl_complain(NULL, "%.*s: %s", (int)table.n, table.p, why);
	} else {
		status = judge(ctl, config, &tables, request);
	}
	tables_fini(&tables);
	host_done();
	return status;
}

enum ctl_status
explain(struct ctl *ctl, const struct table *table,
    const struct values *values)
{
	enum ctl_status status = CTL_NO;
	struct config *config = NULL;
	struct request request;
	char *buf;

	(void)table;
	if (read_request(values->of[0], &buf, &request))
		config = ctl_config(ctl);
	if (config != NULL)
		status = judge_from_database(ctl, config, &request);
	config_free(config);
	free(buf);
	return status;
}
