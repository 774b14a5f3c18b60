#include "policy/keep.h"

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "config/config.h"
#include "policy/known.h"

#include "tap.h"

#include <ev.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

enum { ENTRIES = 1000 };
static const int64_t AHEAD = 1795316427000;

/* As base/sealed.c and keep.c write them. */
struct head {
	char magic[8];
	uint32_t order;
	uint32_t format;
	uint64_t origin;
	uint64_t body_bytes;
	uint64_t body_sum;
};

struct record {
	uint64_t key;
	int64_t time;
	uint64_t kind;
};

struct file {
	struct head head;
	unsigned char secret[HASH_SECRET_BYTES];
	struct record record[4];
};
enum { HEAD = sizeof(struct head), ONE = offsetof(struct file, record[1]) };

static char dir[] = "/tmp/policyd-keep-XXXXXX";
static char *path, *elsewhere;

static struct config
config_of(char *state_dir)
{
	return (struct config){.policyd = {.state_dir = state_dir}};
}

static bool
exists(const char *file)
{
	return access(file, F_OK) == 0;
}

static ino_t
inode(const char *file)
{
	struct stat st = {0};

	stat(file, &st);
	return st.st_ino;
}

/* A process that knows the key 1, and ends. */
static void
save(int64_t ahead)
{
	struct config config = config_of(dir);
	struct known *known = known_new(ENTRIES, 0);
	struct keep *k;

	unlink(path);
	k = keep_new(ev_default_loop(0), &config, known, &ahead);
	known_put(known, 1, KNOWN_PASSED, 100, known_epoch(known));
	keep_free(k);
	known_free(known);
}

/* What the next process has read. */
static struct known *
load(int64_t ahead)
{
	struct config config = config_of(dir);
	struct known *known = known_new(ENTRIES, 0);

	keep_free(keep_new(ev_default_loop(0), &config, known, &ahead));
	return known;
}

static size_t
count_loaded(void)
{
	struct known *known = load(AHEAD);
	size_t n = known_count(known);

	known_free(known);
	return n;
}

/* The first line that is logged meanwhile; the caller frees it. */
static char *
said(void (*what)(void))
{
	int log = memfd_create("log", MFD_CLOEXEC), before = dup(STDERR_FILENO);
	char *text = mem_zalloc(4096);

	dup2(log, STDERR_FILENO);
	what();
	dup2(before, STDERR_FILENO);
	if (pread(log, text, 4095, 0) == -1)
		text[0] = '\0';
	text[strcspn(text, "\n")] = '\0';
	close(log);
	close(before);
	return text;
}

static void
take_secret(void)
{
	struct config config = config_of(dir);

	keep_take_secret(&config);
}

/* ---- what is kept ---- */

static const struct {
	enum known_kind kind;
	int64_t time, after; /* 1 s less ahead than before */
	enum known_kind kept;
} entries[] = {
    {KNOWN_WAITING, 5000, 4000, KNOWN_WAITING},
    {KNOWN_WAITING, -5000, -6000, KNOWN_WAITING},
    {KNOWN_PASSED, 5001, 4001, KNOWN_PASSED},
    {KNOWN_PASSED, KNOWN_FOREVER, KNOWN_FOREVER, KNOWN_PASSED},
    {KNOWN_CLIENT, 5002, 4002, KNOWN_CLIENT},
    {KNOWN_CLIENT, KNOWN_FOREVER, KNOWN_FOREVER, KNOWN_CLIENT},
    {KNOWN_CLIENT, -KNOWN_FOREVER / 2, -KNOWN_FOREVER / 2 - 1000,
	KNOWN_CLIENT},
    {KNOWN_CHANGED, 5003, 0, KNOWN_NOTHING},
};
enum { CASES = sizeof(entries) / sizeof(entries[0]) };

static uint64_t
key_of(size_t i)
{
	return hash(&i, sizeof(i));
}

static void
test_entries(void)
{
	struct config config = config_of(dir);
	struct known *known = known_new(ENTRIES, 0);
	int64_t ahead = AHEAD;
	struct keep *k = keep_new(ev_default_loop(0), &config, known, &ahead);
	struct stat st = {0};

	is_long((long)known_count(known), 0, "no file, nothing known");
	for (size_t i = 0; i < CASES; i++)
		known_put(known, key_of(i), entries[i].kind, entries[i].time,
		    known_epoch(known));
	ok(!exists(path), "nothing is on disk yet");
	keep_free(k);
	known_free(known);
	stat(path, &st);
	is_long(st.st_mode, S_IFREG | 0600, "nobody else may read it");
	is_long(st.st_size, HEAD + HASH_SECRET_BYTES +
		(CASES - 1) * sizeof(struct record),
	    "what was changed is left out");

	known = load(AHEAD + 1000);
	is_long((long)known_count(known), CASES - 1, "all but one are read");
	for (size_t i = 0; i < CASES; i++) {
		struct known_entry e = known_find(known, key_of(i));

		is_long(e.kind, entries[i].kept, "the kind");
		is_long(e.time, entries[i].after, "the time, as it is now");
		ok(!e.sure, "PostgreSQL is asked");
	}
	known_free(known);
}

static void
test_secret(void)
{
	unsigned char before[HASH_SECRET_BYTES];

	memcpy(before, hash_secret(), sizeof(before));
	save(AHEAD);
	hash_init();
	is_long((long)count_loaded(), 0, "another secret: nothing is read");
	ok(memcmp(hash_secret(), before, sizeof(before)) != 0,
	    "and it stays another");
	take_secret();
	ok(memcmp(hash_secret(), before, sizeof(before)) == 0,
	    "it goes on with the old one");
	is_long((long)count_loaded(), 1, "and with what it knew");
}

/* ---- a file that is none ---- */

static void
seal(struct file *f, size_t n)
{
	f->head.body_bytes = n - HEAD;
	f->head.body_sum = XXH3_64bits(f->secret, n - HEAD);
}

static size_t
read_file(struct file *f)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, f, sizeof(*f));

	close(fd);
	return n > 0 ? (size_t)n : 0;
}

static void
write_file(const struct file *f, size_t n)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	ok(write(fd, f, n) == (ssize_t)n, "a file of %zu bytes", n);
	close(fd);
}

enum spoil { AS_IT_IS, MAGIC, ORDER, FORMAT, SECRET, RECORD };

static const struct {
	const char *name;
	enum spoil spoil;
	size_t bytes;
	bool sealed; /* its length and sum are right */
	const char *why; /* NULL: it is read */
} files[] = {
    {"whole", AS_IT_IS, ONE, true, NULL},
    {"empty", AS_IT_IS, 0, false, "it is no copy of what"},
    {"the half of a head", AS_IT_IS, HEAD / 2, false, "it is no copy of what"},
    {"another file", MAGIC, ONE, true, "it is no copy of what"},
    {"of another machine", ORDER, ONE, true, "it is of another version"},
    {"of another version", FORMAT, ONE, true, "it is of another version"},
    {"without its body", AS_IT_IS, HEAD, false, "it is truncated"},
    {"truncated", AS_IT_IS, ONE - 1, false, "it is truncated"},
    {"longer than it was", AS_IT_IS, ONE + 1, false, "it is truncated"},
    {"its secret spoilt", SECRET, ONE, false, "it is corrupted"},
    {"a record spoilt", RECORD, ONE, false, "it is corrupted"},
    {"of nothing", AS_IT_IS, HEAD, true, "it is no copy of what"},
    {"of less than a secret", AS_IT_IS, HEAD + HASH_SECRET_BYTES - 1, true,
	"it is no copy of what"},
    {"of half a record", AS_IT_IS, ONE - 8, true, "it is no copy of what"},
};

static void
spoil(struct file *f, enum spoil what)
{
	switch (what) {
	case AS_IT_IS:
		break;
	case MAGIC:
		f->head.magic[0]++;
		break;
	case ORDER:
		f->head.order = 0x04030201;
		break;
	case FORMAT:
		f->head.format++;
		break;
	case SECRET:
		f->secret[7]++;
		break;
	case RECORD:
		f->record[0].time++;
		break;
	}
}

static void
test_files(void)
{
	struct file whole = {0};
	unsigned char now[HASH_SECRET_BYTES];

	save(AHEAD);
	is_long((long)read_file(&whole), ONE, "a file of one entry");
	ok(memcmp(whole.head.magic, "greyknw", 8) == 0 &&
		whole.head.format == 1, "as those that are on disks");
	hash_init();
	memcpy(now, hash_secret(), sizeof(now));
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		bool good = files[i].why == NULL;
		struct file f = whole;
		char *log;

		spoil(&f, files[i].spoil);
		if (files[i].sealed)
			seal(&f, files[i].bytes);
		write_file(&f, files[i].bytes);
		log = said(take_secret);
		is_long(memcmp(hash_secret(), now, sizeof(now)) == 0, !good,
		    files[i].name);
		ok(good ? log[0] == '\0' : strstr(log, path) != NULL &&
			    strstr(log, files[i].why) != NULL,
		    "%s: %s", files[i].name, log);
		is_long((long)count_loaded(), good, files[i].name);
		hash_use_secret(now);
		free(log);
	}
}

/* What no daemon writes, and no time can be. */
static void
test_records(void)
{
	static const int64_t times[] = {INT64_MIN, INT64_MAX,
	    KNOWN_FOREVER + 1, -KNOWN_FOREVER};
	struct file f = {0};
	size_t n = sizeof(f);

	save(AHEAD);
	read_file(&f);
	for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++)
		f.record[i] = (struct record){i + 1, times[i], KNOWN_PASSED};
	seal(&f, n);
	write_file(&f, n);
	is_long((long)count_loaded(), 0, "no such time");

	for (size_t i = 0; i < 4; i++)
		f.record[i] = (struct record){i + 1, AHEAD, KNOWN_CHANGED + i};
	f.record[2].kind = KNOWN_NOTHING;
	f.record[3].kind = KNOWN_WAITING;
	seal(&f, n);
	write_file(&f, n);
	is_long((long)count_loaded(), 1, "no such kind, but the rest");
}

/* ---- when it is written ---- */

/* One that the loop has yet to hear the end of. */
static bool
has_child(void)
{
	siginfo_t info;

	return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

static void
test_changes(void)
{
	struct config config = config_of(dir);
	struct known *known;
	struct keep *k;
	ino_t before;
	int64_t ahead = AHEAD;

	save(AHEAD);
	before = inode(path);
	known_free(load(AHEAD));
	ok(inode(path) == before, "nothing has changed: it is not written");

	known = known_new(ENTRIES, 0);
	k = keep_new(ev_default_loop(0), &config, known, &ahead);
	unlink(path);
	keep_soon(k);
	ev_run(ev_default_loop(0), EVRUN_NOWAIT);
	keep_free(k);
	ok(!exists(path), "not even soon");

	k = keep_new(ev_default_loop(0), &config, known, &ahead);
	known_put(known, 2, KNOWN_WAITING, 7, known_epoch(known));
	keep_soon(k);
	keep_soon(k);
	/* The timer, then the child that it starts. */
	for (int i = 0; i < 10 && (!exists(path) || has_child()); i++)
		ev_run(ev_default_loop(0), EVRUN_ONCE);
	ok(exists(path), "what has changed is written soon");
	before = inode(path);
	keep_free(k);
	ok(inode(path) == before, "and not once more");
	known_free(known);
	is_long((long)count_loaded(), 2, "and read");
}

static void
test_reconfigured(void)
{
	struct config here = config_of(dir), there = config_of(elsewhere);
	char *moved = mem_printf("%s/greylist.known", elsewhere);
	struct known *known = known_new(ENTRIES, 0);
	struct known *smaller = known_new(ENTRIES / 2, 0);
	int64_t ahead = AHEAD;
	struct keep *k;
	ino_t before;

	save(AHEAD);
	before = inode(path);
	k = keep_new(ev_default_loop(0), &here, known, &ahead);
	keep_reconfigure(k, &here, known);
	keep_free(k);
	ok(inode(path) == before, "nothing is another: nothing is written");

	k = keep_new(ev_default_loop(0), &here, known, &ahead);
	keep_reconfigure(k, &there, known);
	ok(!exists(path), "another state_dir: the file goes");
	keep_free(k);
	ok(exists(moved), "and comes there");

	k = keep_new(ev_default_loop(0), &there, known, &ahead);
	before = inode(moved);
	keep_reconfigure(k, &there, smaller);
	known_free(known);
	keep_free(k);
	ok(inode(moved) != before, "another cache is written");
	known_free(smaller);
	unlink(moved);
	free(moved);
}

static void
end_nowhere(void)
{
	static char none[] = "/nowhere";
	struct config config = config_of(none);
	struct known *known = known_new(ENTRIES, 0);
	int64_t ahead = AHEAD;
	struct keep *k = keep_new(ev_default_loop(0), &config, known, &ahead);

	keep_take_secret(&config);
	known_put(known, 1, KNOWN_PASSED, 100, known_epoch(known));
	keep_free(k);
	known_free(known);
}

static void
test_failed(void)
{
	char *log = said(end_nowhere);

	ok(strstr(log, "state_dir /nowhere: what greylisting knows: No such") !=
		NULL, "what cannot be written is said: %s", log);
	ok(strstr(log, "left out") == NULL, "what is not there is not");
	free(log);
}

int
main(void)
{
	if (mkdtemp(dir) == NULL)
		return 1;
	path = mem_printf("%s/greylist.known", dir);
	elsewhere = mem_printf("%s/elsewhere", dir);
	mkdir(elsewhere, 0700);
	log_init(LOG_TO_STDERR, LOG_INFO);
	hash_init();
	test_entries();
	test_secret();
	test_files();
	test_records();
	test_changes();
	test_reconfigured();
	test_failed();
	keep_free(NULL);
	unlink(path);
	rmdir(elsewhere);
	rmdir(dir);
	free(path);
	free(elsewhere);
	return tap_done();
}
