#include "policy/keep.h"

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sealed.h"
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

enum { ENTRIES = 1000 };
static const int64_t AHEAD = 1795316427000;

/* As keep.c writes them. */
struct record {
	uint64_t key;
	int64_t time;
	uint64_t kind;
};

struct body {
	unsigned char secret[HASH_SECRET_BYTES];
	struct record record[4];
};

enum { HEAD = 40, ONE = offsetof(struct body, record[1]) };

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

struct part {
	const struct body *body;
	size_t n;
};

static void
put_part(struct sealed *s, const void *arg)
{
	const struct part *part = arg;

	sealed_put(s, part->body, part->n);
}

static void
write_file(const char *magic, uint32_t format, const struct body *body,
    size_t n)
{
	const struct part part = {body, n};
	struct seal seal = {.format = format};

	memcpy(seal.magic, magic, sizeof(seal.magic));
	is_long(sealed_save(path, &seal, put_part, &part), 0, "a file");
}

static const struct {
	const char *name;
	const char *magic;
	uint32_t format;
	size_t n;   /* of the body; then: */
	long cut;   /* bytes off its end, or more of them */
	long spoil; /* a byte, or one from the end; 0: none */
	const char *why; /* NULL: it is read */
} files[] = {
    {"whole", "greyknw", 1, ONE, 0, 0, NULL},
    {"another file", "greyjrn", 1, ONE, 0, 0, "it is no copy of what"},
    {"of another version", "greyknw", 2, ONE, 0, 0, "it is of another version"},
    {"of an older one", "greyknw", 0, ONE, 0, 0, "it is of another version"},
    {"of another machine", "greyknw", 1, ONE, 0, 8, "it is of another version"},
    {"empty", "greyknw", 1, ONE, HEAD + ONE, 0, "it is no copy of what"},
    {"the half of a head", "greyknw", 1, ONE, 20 + ONE, 0,
	"it is no copy of what"},
    {"without its body", "greyknw", 1, ONE, ONE, 0, "it is truncated"},
    {"truncated", "greyknw", 1, ONE, 1, 0, "it is truncated"},
    {"longer than it was", "greyknw", 1, ONE, -1, 0, "it is truncated"},
    {"its secret spoilt", "greyknw", 1, ONE, 0, HEAD + 7, "it is corrupted"},
    {"a record spoilt", "greyknw", 1, ONE, 0, -7, "it is corrupted"},
    {"of nothing", "greyknw", 1, 0, 0, 0, "it is no copy of what"},
    {"of less than a secret", "greyknw", 1, HASH_SECRET_BYTES - 1, 0, 0,
	"it is no copy of what"},
    {"of half a record", "greyknw", 1, ONE - 8, 0, 0, "it is no copy of what"},
};

static void
spoil(size_t i)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	off_t size = lseek(fd, 0, SEEK_END) - files[i].cut;
	off_t at = files[i].spoil + (files[i].spoil < 0 ? size : 0);
	char byte;

	is_long(ftruncate(fd, size), 0, "cut");
	if (at != 0) {
		is_long(pread(fd, &byte, 1, at), 1, "spoilt");
		byte++;
		is_long(pwrite(fd, &byte, 1, at), 1, "for good");
	}
	close(fd);
}

static void
test_files(void)
{
	struct body body = {.record = {{1, AHEAD, KNOWN_PASSED}}};
	unsigned char now[HASH_SECRET_BYTES];

	memcpy(now, hash_secret(), sizeof(now));
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		bool good = files[i].why == NULL;
		char *log;

		write_file(files[i].magic, files[i].format, &body, files[i].n);
		spoil(i);
		log = said(take_secret);
		ok(good ? log[0] == '\0' : strstr(log, path) != NULL &&
			    strstr(log, files[i].why) != NULL,
		    "%s: %s", files[i].name, log);
		ok(memcmp(hash_secret(), good ? body.secret : now,
		       sizeof(now)) == 0, "%s: the secret", files[i].name);
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
	struct body body = {0};

	memcpy(body.secret, hash_secret(), sizeof(body.secret));
	for (size_t i = 0; i < 4; i++)
		body.record[i] = (struct record){i + 1, times[i], KNOWN_PASSED};
	write_file("greyknw", 1, &body, sizeof(body));
	is_long((long)count_loaded(), 0, "no such time");

	for (size_t i = 0; i < 4; i++)
		body.record[i] = (struct record){i + 1, AHEAD,
		    KNOWN_CHANGED + i};
	body.record[2].kind = KNOWN_NOTHING;
	body.record[3].kind = KNOWN_WAITING;
	write_file("greyknw", 1, &body, sizeof(body));
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
