#include "net/status.h"

#include "base/number.h"
#include "net/server.h"
#include "policy/decide.h"
#include "tables/directory.h"
#include "tables/feed.h"
#include "tables/list.h"
#include "tables/rule.h"
#include "tables/tables.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#define VALUE(name, kind, unit, help) \
	{#name, VALUE_##kind, unit, help, offsetof(struct status, name)}
#define ANSWERS(name, meaning, help)            \
	{"answers_" #name, VALUE_COUNTER, "", help, \
	    offsetof(struct status, answers[MEANS_##meaning])}
#define REPLY(name)                                                           \
	{"replies_" #name, VALUE_COUNTER, "", "answers with [reply] " #name, \
	    offsetof(struct status, replies[REPLY_##name])},

const struct value status_values[] = {
    VALUE(version, TEXT, "", "of this policyd"),
    VALUE(pid, GAUGE, "", "its process"),
    VALUE(uptime, GAUGE, "seconds", "since it was started"),
    VALUE(memory, GAUGE, "bytes", "resident"),
    VALUE(ready, YESNO, "", "connections are accepted"),
    VALUE(reloaded, TIME, "", "the last SIGHUP"),
    VALUE(reload_failed, YESNO, "", "its configuration was not taken"),

    VALUE(connections, GAUGE, "", "from Postfix now"),
    VALUE(connections_max, GAUGE, "", "at most: max_clients"),
    VALUE(connections_accepted, COUNTER, "", "from Postfix"),
    VALUE(requests, COUNTER, "", "read"),
    ANSWERS(dunno, DUNNO, "answers DUNNO"),
    ANSWERS(permit, PERMITS, "answers OK or permit"),
    ANSWERS(defer, DEFERS, "answers 4NN, DEFER or DEFER_IF_PERMIT"),
    ANSWERS(reject, REJECTS, "answers 5NN or REJECT"),
    ANSWERS(other, MORE, "answers that are anything else"),
    {"answers_close", VALUE_COUNTER, "",
	"connections closed instead of an answer",
	offsetof(struct status, closed)},
    CONFIG_REPLIES(REPLY)
    VALUE(sessions, GAUGE, "", "SMTP sessions that are remembered"),

    VALUE(database_up, GAUGE, "", "connections to PostgreSQL now"),
    VALUE(database_wanted, GAUGE, "", "as many there should be"),
    VALUE(database_since, TIME, "", "when one last came up or was lost"),

    VALUE(tables_from_copy, YESNO, "", "what answers is the copy on disk"),
    VALUE(tables_read, TIME, "", "when all was last read"),
    VALUE(tables_reads, COUNTER, "", "how often all was read"),
    VALUE(tables_changes, COUNTER, "", "keys and tables read after a change"),
    VALUE(domains, GAUGE, "", "rows in memory"),
    VALUE(domain_aliases, GAUGE, "", "rows in memory"),
    VALUE(addresses, GAUGE, "", "rows in memory"),
    VALUE(aliases, GAUGE, "", "rows in memory"),
    VALUE(list_entries, GAUGE, "", "rows in memory"),
    VALUE(rules, GAUGE, "", "rows in memory"),
    VALUE(tables_bytes, GAUGE, "bytes", "that these take"),

    VALUE(greylist_listening, YESNO, "", "what is known is sure"),
    VALUE(greylist_known, GAUGE, "", "keys and clients in the cache"),
    VALUE(greylist_unsaved, GAUGE, "", "attempts PostgreSQL has yet to hear of"),
    VALUE(greylist_on_disk, YESNO, "", "some of them may be on disk"),
};
const size_t status_count = sizeof(status_values) / sizeof(status_values[0]);

const char *
status_kind(enum value_kind kind)
{
	switch (kind) {
	case VALUE_TEXT:
		return "text";
	case VALUE_YESNO:
		return "yesno";
	case VALUE_GAUGE:
		return "gauge";
	case VALUE_COUNTER:
		return "counter";
	case VALUE_TIME:
		return "time";
	}
	return "";
}

/* Goes on while the machine sleeps, and is never set. */
double
status_clock(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Bytes of memory in use: the kernel's words, which no disk is asked for. */
static int64_t
resident(void)
{
	int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	char buf[128];
	ssize_t n;
	struct str rest;
	int64_t pages;

	if (fd == -1)
		return -1;
	n = read(fd, buf, sizeof(buf));
	close(fd);
	if (n <= 0)
		return -1;
	rest = (struct str){buf, (size_t)n};
	str_word(&rest);
	if (number_parse(str_word(&rest), &pages) == -1)
		return -1;
	return pages * sysconf(_SC_PAGESIZE);
}

static void
read_server(const struct server *server, struct status *s)
{
	s->connections = server->count;
	s->connections_max = server->config->policyd.max_clients;
	s->connections_accepted = (int64_t)server->accepted;
	s->requests = (int64_t)server->requests;
}

static void
read_policy(const struct policy_status *p, struct status *s)
{
	for (int i = 0; i < ACTION_MEANINGS; i++)
		s->answers[i] = (int64_t)p->answers[i];
	for (int i = 0; i < REPLIES; i++)
		s->replies[i] = (int64_t)p->replies[i];
	s->closed = (int64_t)p->closed;
	s->sessions = p->sessions;
	s->greylist_listening = p->greylist.listening;
	s->greylist_known = (int64_t)p->greylist.known;
	s->greylist_unsaved = (int64_t)p->greylist.unsaved;
	s->greylist_on_disk =
	    p->greylist.on_disk && p->greylist.unsaved > 0;
}

static void
read_tables(const struct tables *t, struct status *s)
{
	const struct directory *d = t->directory;

	s->domains = (int64_t)directory_count(d, DIRECTORY_DOMAIN);
	s->domain_aliases = (int64_t)directory_count(d, DIRECTORY_DOMAIN_ALIAS);
	s->addresses = (int64_t)directory_count(d, DIRECTORY_ADDRESS);
	s->aliases = (int64_t)directory_count(d, DIRECTORY_ALIAS);
	s->list_entries = (int64_t)lists_count(t->lists);
	s->rules = (int64_t)rules_count(t->rules);
	s->tables_bytes =
	    (int64_t)(directory_bytes(d) + lists_bytes(t->lists));
}

static void
read_database(const struct feed_status *f, const struct policy_status *p,
    struct status *s)
{
	double since = f->db.since > p->db.since ? f->db.since : p->db.since;

	s->database_up = f->db.up + p->db.up;
	s->database_wanted = f->db.wanted + p->db.wanted;
	s->database_since = (int64_t)since;
	s->tables_from_copy = f->from_copy;
	s->tables_read = (int64_t)f->read_at;
	s->tables_reads = (int64_t)f->reads;
	s->tables_changes = (int64_t)f->changes;
}

static void
find_problems(const struct status_sources *from, const struct feed_status *f,
    struct status *s)
{
	const struct {
		bool is;
		const char *what;
	} all[PROBLEMS_MAX] = {
	    {!s->ready, "starting: the tables are not there yet"},
	    {s->ready && !directory_ready(from->tables->directory),
		"no tables: all that needs them is answered `unavailable`"},
	    {s->tables_from_copy, "answers come from the copy of the tables"},
	    {f->copy_failed, "the copy of the tables cannot be written: a start "
			     "without PostgreSQL will be from an older one"},
	    {!f->connected, "PostgreSQL is away, or cannot be read: changes are "
			    "not seen"},
	    {!s->greylist_listening,
		"greylisting does not hear of rows that change"},
	    {s->database_up < s->database_wanted,
		"not all connections to PostgreSQL are up"},
	    {s->reload_failed,
		"the configuration was not taken: the old settings stay"},
	    {server_is_full(from->server),
		"max_clients are connected: further ones wait"},
	};

	for (int i = 0; i < PROBLEMS_MAX; i++)
		if (all[i].is)
			s->problem[s->problems++] = all[i].what;
}

void
status_read(const struct status_sources *from, struct status *out)
{
	struct feed_status f = feed_status(from->feed);
	struct policy_status p = policy_status(from->policy);

	*out = (struct status){
	    .version = POLICYD_VERSION,
	    .pid = getpid(),
	    .uptime = (int64_t)(status_clock() - from->started),
	    .memory = resident(),
	    .ready = from->ready,
	    .reloaded = (int64_t)from->reloaded,
	    .reload_failed = from->reload_failed,
	};
	read_server(from->server, out);
	read_policy(&p, out);
	read_tables(from->tables, out);
	read_database(&f, &p, out);
	find_problems(from, &f, out);
}
