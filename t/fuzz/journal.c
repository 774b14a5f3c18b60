#include "policy/journal.h"

#include "base/mem.h"

#include "fuzz.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

/*
 * A byte says what the rest is: a file; or what stands behind its head, which
 * is made to fit it; or its records, a byte for the kind, one for the times,
 * and the lengths of three texts before them.  A journal is read whole or not
 * at all, next to what is in it already; what was read is found, sent in
 * pieces, and saved and read as the same.
 */

enum { AS_FILE, AS_BODY, AS_RECORDS };
enum { AHEAD = 12345 };

/* As base/sealed.c and journal.c write them. */
struct head {
	char magic[8];
	uint32_t order;
	uint32_t format;
	uint64_t origin;
	uint64_t body_bytes;
	uint64_t body_sum;
};

struct record {
	int64_t first_seen, last_seen, passed_at;
	int32_t kind, add;
	uint32_t text[3];
	uint32_t nothing;
};

/* ---- what was read ---- */

static int
text_of(const struct journal_entry *e, int i, struct str *out)
{
	*out = e->text[i] != NULL ? str_of(e->text[i]) : STR("");
	return e->text[i] != NULL;
}

/* All that is of a kind, sorted; it stays. */
static size_t
take(struct journal *j, enum journal_kind kind,
    struct journal_entry *const **out)
{
	size_t n;

	*out = journal_take(j, kind, JOURNAL_MAX, &n);
	CHECK(n == journal_count_of(j, kind));
	return n;
}

static void
check_entry(const struct journal *j, const struct journal_entry *e)
{
	struct str client, sender, recipient;
	int texts = text_of(e, 0, &client);

	texts += text_of(e, 1, &sender) + text_of(e, 2, &recipient);
	CHECK(client.n > 0);
	CHECK(texts == (e->kind == JOURNAL_CLIENT ? 1 : 3));
	CHECK(journal_find(j, e->key) != NULL);
	if (e->kind == JOURNAL_CLIENT)
		CHECK(e->key == hash(client.p, client.n));
	else
		CHECK(e->key == journal_key(hash(client.p, client.n),
			journal_pair(sender, recipient)));
}

static void
check_same(struct journal *a, struct journal *b)
{
	struct journal_entry *const *x, *const *y;

	CHECK(journal_count(a) == journal_count(b));
	for (int kind = 0; kind < JOURNAL_KINDS; kind++) {
		size_t n = take(a, (enum journal_kind)kind, &x);

		CHECK(n == take(b, (enum journal_kind)kind, &y));
		for (size_t i = 0; i < n; i++) {
			check_entry(a, x[i]);
			CHECK(strcmp(x[i]->text[0], y[i]->text[0]) == 0);
			CHECK(i == 0 ||
			    strcmp(x[i - 1]->text[0], x[i]->text[0]) <= 0);
		}
		journal_unsent(a);
		journal_unsent(b);
	}
}

/* ---- files ---- */

static int
load(struct journal *j, const char *file, size_t n, const char **why)
{
	char path[64];
	int fd = memfd_create("journal", MFD_CLOEXEC), rc;

	CHECK(fd != -1 && write(fd, file, n) == (ssize_t)n);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	rc = journal_load(j, path, AHEAD, why);
	close(fd);
	return rc;
}

static void
save_and_load(struct journal *j)
{
	char path[] = "/tmp/policyd-fuzz-XXXXXX";
	int fd = mkstemp(path);
	struct journal *again = journal_new();
	const char *why;

	CHECK(fd != -1);
	close(fd);
	CHECK(journal_save(j, path, AHEAD) == 0);
	CHECK(journal_load(again, path, AHEAD, &why) == 0);
	unlink(path);
	check_same(j, again);
	journal_free(again);
}

/* A piece of each kind arrives, the rest is dropped one by one. */
static void
send_all(struct journal *j)
{
	struct journal_entry *const *e;
	size_t n;

	for (int kind = 0; kind < JOURNAL_KINDS; kind++) {
		journal_take(j, (enum journal_kind)kind, 2, &n);
		journal_sent(j, NULL, NULL);
		n = take(j, (enum journal_kind)kind, &e);
		for (size_t i = 0; i < n; i++)
			journal_drop(j, e[i]);
		journal_unsent(j);
	}
	CHECK(journal_count(j) == 0);
}

static bool
check_file(const char *file, size_t n)
{
	static const struct str old[] = {STR_INIT("192.0.2.0/24"),
	    STR_INIT("a@b"), STR_INIT("c@d")};
	struct journal *j = journal_new();
	struct journal_entry *e =
	    journal_add(j, JOURNAL_NEW_KEY, 7, old);
	const char *why = NULL;
	bool good = load(j, file, n, &why) == 0;

	if (!good) {
		CHECK(why != NULL && why[0] != '\0');
		CHECK(journal_count(j) == 1 && journal_find(j, 7) == e);
	} else {
		journal_drop(j, e);
		save_and_load(j);
		send_all(j);
	}
	journal_free(j);
	return good;
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

static void
out_records(struct out *o, struct str s)
{
	while (s.n >= 5) {
		struct record r = {.kind = s.p[0], .add = s.p[1]};
		struct str texts = str_from(s, 5);
		size_t n = 0;

		r.first_seen = (int64_t)(unsigned char)s.p[1] << 40;
		r.last_seen = r.first_seen + 1000;
		r.passed_at = s.p[1] & 1 ? ATTEMPT_WAITS : r.first_seen;
		for (int i = 0; i < 3; i++) {
			r.text[i] = (unsigned char)s.p[2 + i];
			n += r.text[i];
		}
		out(o, &r, sizeof(r));
		n = n < texts.n ? n : texts.n;
		out(o, texts.p, n);
		s = str_from(texts, n);
	}
}

static struct head ours;

/* As policyd writes it today. */
static void
read_head(void)
{
	char path[] = "/tmp/policyd-fuzz-XXXXXX";
	int fd = mkstemp(path);
	struct journal *j = journal_new();

	CHECK(fd != -1 && journal_save(j, path, AHEAD) == 0);
	close(fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(fd != -1 && read(fd, &ours, sizeof(ours)) == sizeof(ours));
	close(fd);
	unlink(path);
	journal_free(j);
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
	/* One that is read: else nothing here would be put to the test. */
	static const char two[] = "\2\0\1\1\0\0c\1\2\1\1\1nsr";
	static bool ready;

	if (!ready) {
		hash_init();
		read_head();
		CHECK(check_input(two, sizeof(two) - 1));
	}
	ready = true;
	if (n > 0)
		check_input((const char *)data, n);
	return 0;
}
