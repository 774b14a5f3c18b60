#include "tables/copy.h"

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "mail/address.h"
#include "tables/directory.h"
#include "tables/list.h"
#include "tables/rule.h"
#include "tables/strtab.h"
#include "tables/tables.h"

#include "fuzz.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

/*
 * A byte says what the rest is: a file; or what stands behind its head, which
 * is made to fit it; or, in the order of a file, the records of each part, a
 * length of one byte for the key and of two for the value before them, and a
 * key of no bytes behind the last.  A copy is loaded whole or not at all; what
 * was loaded can be asked and changed, and is saved and loaded as the same.
 */

enum { AS_FILE, AS_BODY, AS_RECORDS };
enum { PARTS = DIRECTORY_PARTS + LISTS_PARTS + 1 };

static const uint64_t origin = 0x5eed;

/* As copy.c writes it. */
struct head {
	char magic[8];
	uint32_t order;
	uint32_t format;
	uint64_t origin;
	uint64_t body_bytes;
	uint64_t body_sum;
};

/* ---- what answered before ---- */

static void
fill(struct tables *t)
{
	const struct rule_row row = {.id = 7, .state = STR(""),
	    .conditions = STR("sender in list:old\1"), .action = STR("DUNNO"),
	    .enabled = true};
	const char *why;

	tables_init(t, true);
	tables_swap(t);
	directory_put_domain(t->directory, STR("old.example"),
	    RECIPIENTS_LISTED, UNSET, 0, false, true);
	directory_put_address(t->directory, STR("bob@old.example"), UNSET,
	    STR(""), NEVER_EXPIRES, true);
	lists_put(t->lists, STR("old"), STR("bob@old.example"));
	CHECK(rules_put(t->rules, &row, &why));
	rules_ready(t->rules);
}

static bool
has_old(const struct tables *t)
{
	struct domain domain;
	struct address address;

	return directory_domain(t->directory, STR("old.example"), &domain) &&
	    directory_address(t->directory, &domain, STR("bob"), STR("+"), 0,
		&address) == ADDRESS_ALIVE &&
	    lists_has(t->lists, lists_id(t->lists, STR("old")), LIST_MAIL,
		STR("bob@old.example")) &&
	    rules_count(t->rules) == 1 && rules_at(t->rules, 0)->id == 7;
}

static void
check_untouched(const struct tables *t)
{
	CHECK(has_old(t));
	for (int i = 0; i < DIRECTORY_TABLES; i++)
		CHECK(directory_count(t->directory, (enum directory_table)i) ==
		    (i == DIRECTORY_DOMAIN || i == DIRECTORY_ADDRESS));
	CHECK(lists_count(t->lists) == 1);
}

/* ---- what a request and feed do with what was loaded ---- */

static void
check_readable(struct str s)
{
	volatile char sink = 0;

	for (size_t i = 0; i < s.n; i++)
		sink = (char)(sink ^ s.p[i]);
}

static void
ask_address(const struct directory *d, struct str name, struct str local)
{
	char buf[600];
	struct sbuf b = sbuf_over(buf, sizeof(buf));
	struct domain domain;
	struct address address;

	if (!directory_domain(d, name, &domain))
		return;
	CHECK(domain.recipients <= RECIPIENTS_VERIFY);
	CHECK(domain.greylist >= UNSET && domain.greylist <= YES);
	if (directory_address(d, &domain, local, STR("+"), 1000, &address) ==
	    ADDRESS_ALIVE)
		check_readable(address.reply);
	directory_expand(d, &domain, local, STR("+"), STR("x@y"), 1000, &b);
}

/* Of each record of an address the local part, in each of the names. */
static void
ask_directory(struct directory *d)
{
	static const int parts[] = {DIRECTORY_ADDRESS, DIRECTORY_ALIAS};
	uint64_t at = 0, cursor;
	struct str name, key, value;
	int asked = 0;

	while (strtab_next(directory_part(d, DIRECTORY_TABLES), &at, &name,
	    &value)) {
		ask_address(d, name, STR("bob"));
		for (int i = 0; i < 2; i++)
			for (cursor = 0; asked < 1000 &&
			     strtab_next(directory_part(d, parts[i]), &cursor,
				 &key, &value);
			     asked++)
				ask_address(d, name,
				    str_from(key, sizeof(uint32_t)));
	}
}

static struct str
derive(struct subject *s, int attribute)
{
	(void)s;
	(void)attribute;
	return STR("example.com");
}

static void
ask_rules(const struct rules *r)
{
	static const char block[] =
	    "request=smtpd_access_policy\nprotocol_state=RCPT\n"
	    "client_address=192.0.2.1\nsender=a@example.com\n\n";
	struct request request;
	struct subject s = {.request = &request, .derive = derive};
	const struct condition *failed;
	size_t scanned = 0, used;
	const struct rule *rule;
	struct rule_walk w;
	const char *why;

	CHECK(request_parse(&request, block, sizeof(block) - 1, &scanned,
		  &used, &why) == REQUEST_DONE);
	rules_walk(r, RULE_STATE_RCPT, &s, &w);
	while ((rule = rules_next(&w)) != NULL)
		rule_holds(rule, &s, 0, &failed);
}

/* Rows that come behind a copy find their place among what is there. */
static void
put_rows(struct tables *t)
{
	struct domain domain;
	struct address address;
	struct directory *d = t->directory;

	CHECK(directory_put_domain(d, STR("new.example"), RECIPIENTS_LISTED,
	    UNSET, 0, false, true));
	CHECK(directory_put_address(d, STR("eve@new.example"), UNSET, STR(""),
	    NEVER_EXPIRES, true));
	CHECK(directory_put_alias(d, STR("bob@example.com"), STR("x@y"),
	    NEVER_EXPIRES, true));
	CHECK(directory_put_alias(d, STR("bob@example.com"), STR("z@y"),
	    NEVER_EXPIRES, true));
	CHECK(directory_domain(d, STR("new.example"), &domain));
	CHECK(directory_address(d, &domain, STR("eve"), STR(""), 0, &address) ==
	    ADDRESS_ALIVE);
	CHECK(lists_put(t->lists, STR("new"), STR("bob@new.example")));
	CHECK(lists_has(t->lists, lists_id(t->lists, STR("new")), LIST_MAIL,
	    STR("bob@new.example")));
}

/* ---- files ---- */

static int
load(struct tables *t, const char *file, size_t n, uint64_t from,
    const char **why)
{
	char path[64];
	int fd = memfd_create("copy", MFD_CLOEXEC), rc;

	CHECK(fd != -1 && write(fd, file, n) == (ssize_t)n);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	rc = copy_load(t, path, from, why);
	close(fd);
	return rc;
}

static void
check_same(const struct tables *a, const struct tables *b)
{
	for (int i = 0; i < DIRECTORY_PARTS; i++)
		CHECK(strtab_count(directory_part(a->directory, i)) ==
		    strtab_count(directory_part(b->directory, i)));
	for (int i = 0; i < LISTS_PARTS; i++)
		CHECK(strtab_count(lists_part(a->lists, i)) ==
		    strtab_count(lists_part(b->lists, i)));
	CHECK(rules_count(a->rules) == rules_count(b->rules));
}

static void
save_and_load(const struct tables *t)
{
	char path[] = "/tmp/policyd-fuzz-XXXXXX";
	int fd = mkstemp(path);
	struct tables again;
	const char *why;

	CHECK(fd != -1);
	close(fd);
	CHECK(copy_save(t, path, origin) == 0);
	tables_init(&again, true);
	CHECK(copy_load(&again, path, origin, &why) == 0);
	unlink(path);
	check_same(t, &again);
	tables_fini(&again);
}

static void
check_loaded(struct tables *t)
{
	CHECK(directory_ready(t->directory));
	ask_directory(t->directory);
	ask_rules(t->rules);
	save_and_load(t);
	put_rows(t);
	ask_directory(t->directory);
	tables_fini(t);
}

/* What a refused copy leaves untouched serves for the next, too. */
static bool
check_file(const char *file, size_t n)
{
	static struct tables t;
	const char *why = NULL;

	if (t.directory == NULL)
		fill(&t);
	CHECK(load(&t, file, n, origin + 1, &why) == -1 && why != NULL);
	check_untouched(&t);
	why = NULL;
	if (load(&t, file, n, origin, &why) == -1) {
		CHECK(why != NULL && why[0] != '\0');
		check_untouched(&t);
		return false;
	}
	CHECK(why == NULL);
	check_loaded(&t);
	t = (struct tables){0};
	return true;
}

/* ---- from an input to a file ---- */

struct out {
	char *p;
	size_t n;
};

static void
out(struct out *o, const void *p, size_t n)
{
	o->p = mem_realloc(o->p, o->n + n);
	if (n > 0)
		memcpy(o->p + o->n, p, n);
	o->n += n;
}

/* The next record; false behind the last of its part. */
static bool
take_record(struct str *s, struct str *key, struct str *value)
{
	size_t n;

	if (s->n < 3)
		return false;
	key->n = (unsigned char)s->p[0];
	n = (unsigned char)s->p[1] + (size_t)(unsigned char)s->p[2] * 256;
	*s = str_from(*s, key->n > 0 ? 3 : 1);
	if (key->n == 0 || key->n > s->n)
		return false;
	key->p = s->p;
	*s = str_from(*s, key->n);
	*value = (struct str){s->p, n < s->n ? n : s->n};
	*s = str_from(*s, value->n);
	return true;
}

static void
out_records(struct out *o, struct str s)
{
	for (int part = 0; part < PARTS; part++) {
		uint64_t count = 0;
		size_t at = o->n;
		struct str key, value;

		out(o, &count, sizeof(count));
		for (; take_record(&s, &key, &value); count++) {
			uint32_t n[2] = {(uint32_t)key.n, (uint32_t)value.n};

			out(o, n, sizeof(n));
			out(o, key.p, key.n);
			out(o, value.p, value.n);
		}
		memcpy(o->p + at, &count, sizeof(count));
	}
}

static struct head ours;

/* As policyd writes it today. */
static void
read_head(void)
{
	char path[] = "/tmp/policyd-fuzz-XXXXXX";
	int fd = mkstemp(path);
	struct tables t;

	fill(&t);
	CHECK(fd != -1 && copy_save(&t, path, origin) == 0);
	close(fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(fd != -1 && read(fd, &ours, sizeof(ours)) == sizeof(ours));
	close(fd);
	unlink(path);
	tables_fini(&t);
}

static void
finish(struct out *o)
{
	struct head h = ours;

	h.body_bytes = o->n - sizeof(h);
	h.body_sum = XXH3_64bits(o->p + sizeof(h), h.body_bytes);
	memcpy(o->p, &h, sizeof(h));
}

static bool
check_input(const char *data, size_t n)
{
	static const struct head none;
	struct out o = {NULL, 0};
	struct str rest = {data + 1, n - 1};
	bool good;

	if (data[0] % 3 == AS_FILE) {
		out(&o, rest.p, rest.n);
	} else {
		out(&o, &none, sizeof(none));
		if (data[0] % 3 == AS_BODY)
			out(&o, rest.p, rest.n);
		else
			out_records(&o, rest);
		finish(&o);
	}
	good = check_file(o.p, o.n);
	free(o.p);
	return good;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	/* No record in any part is a copy, too: else no input could be one. */
	static const char empty = AS_RECORDS;
	static bool ready;

	if (!ready) {
		hash_init();
		log_init(LOG_TO_STDERR, LOG_EMERG);
		read_head();
		CHECK(check_input(&empty, 1));
	}
	ready = true;
	if (n > 0)
		check_input((const char *)data, n);
	return 0;
}
