#include "tables/copy.h"

#include "base/mem.h"
#include "tables/directory.h"
#include "tables/list.h"
#include "tables/rule.h"
#include "tables/strtab.h"
#include "tables/tables.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

/* Raise it with every change of what stands in the file. */
#define FORMAT 2

static const char magic[8] = "policyd";

/*
 * Numbers are in the machine's own order: a copy is read where it was written,
 * and another machine's has another `order`.
 */
struct head {
	char magic[8];
	uint32_t order;
	uint32_t format;
	uint64_t origin;
	uint64_t body_bytes;
	uint64_t body_sum;
};

/* Then, for each part: its count, and so often two lengths, key and value. */
struct lengths {
	uint32_t key;
	uint32_t value;
};

struct writer {
	FILE *f;
	XXH3_state_t *sum;
	uint64_t bytes;
	bool failed;
};

char *
copy_path(const char *state_dir)
{
	char *path = NULL;

	if (asprintf(&path, "%s/tables.copy", state_dir) == -1)
		abort();
	return path;
}

static void
put(struct writer *w, const void *p, size_t n)
{
	if (n > 0 && fwrite(p, n, 1, w->f) != 1)
		w->failed = true;
	XXH3_64bits_update(w->sum, p, n);
	w->bytes += n;
}

static void
put_part(struct writer *w, const struct strtab *t)
{
	uint64_t count = strtab_count(t), cursor = 0;
	struct str key, value;

	put(w, &count, sizeof(count));
	while (strtab_next(t, &cursor, &key, &value)) {
		struct lengths n = {(uint32_t)key.n, (uint32_t)value.n};

		put(w, &n, sizeof(n));
		put(w, key.p, key.n);
		put(w, value.p, value.n);
	}
}

/* Within each: what the others refer to comes first. */
static void
put_all(struct writer *w, const struct tables *t)
{
	struct strtab *rules = rules_part(t->rules);

	for (int part = DIRECTORY_PARTS - 1; part >= 0; part--)
		put_part(w, directory_part(t->directory, part));
	for (int part = LISTS_PARTS - 1; part >= 0; part--)
		put_part(w, lists_part(t->lists, part));
	put_part(w, rules);
	strtab_free(rules);
}

static int
write_file(const struct tables *t, FILE *f, uint64_t origin)
{
	struct head h = {.order = 0x01020304, .format = FORMAT,
	    .origin = origin};
	struct writer w = {.f = f, .sum = XXH3_createState()};

	memcpy(h.magic, magic, sizeof(h.magic));
	XXH3_64bits_reset(w.sum);
	w.failed = fwrite(&h, sizeof(h), 1, f) != 1;
	put_all(&w, t);
	h.body_bytes = w.bytes;
	h.body_sum = XXH3_64bits_digest(w.sum);
	XXH3_freeState(w.sum);
	if (w.failed || fseek(f, 0, SEEK_SET) == -1 ||
	    fwrite(&h, sizeof(h), 1, f) != 1 || fflush(f) == EOF)
		return -1;
	return fsync(fileno(f));
}

int
copy_save(const struct tables *t, const char *path, uint64_t origin)
{
	char *beside = NULL;
	FILE *f;
	int rc, error;

	if (asprintf(&beside, "%s.new", path) == -1)
		return -1;
	f = fopen(beside, "we");
	if (f == NULL) {
		free(beside);
		return -1;
	}
	rc = write_file(t, f, origin);
	error = errno;
	if (fclose(f) == EOF && rc == 0) {
		rc = -1;
		error = errno;
	}
	if (rc == 0 && rename(beside, path) == -1) {
		rc = -1;
		error = errno;
	}
	if (rc == -1)
		unlink(beside);
	free(beside);
	errno = error;
	return rc;
}

/* ---- reading ---- */

static bool
take(struct str *rest, void *out, size_t n)
{
	if (rest->n < n)
		return false;
	memcpy(out, rest->p, n);
	*rest = str_from(*rest, n);
	return true;
}

/* The parts in the order in which they were put, counted from 0. */
enum { PARTS = DIRECTORY_PARTS + LISTS_PARTS + 1 };

static bool
restore(struct tables *t, int i, struct str key, struct str value)
{
	if (i < DIRECTORY_PARTS)
		return directory_restore(t->directory, DIRECTORY_PARTS - 1 - i,
		    key, value);
	i -= DIRECTORY_PARTS;
	if (i < LISTS_PARTS)
		return lists_restore(t->lists, LISTS_PARTS - 1 - i, key, value);
	return rules_restore(t->rules, key, value);
}

static bool
read_part(struct tables *t, int part, struct str *rest)
{
	uint64_t count;

	if (!take(rest, &count, sizeof(count)))
		return false;
	for (; count > 0; count--) {
		struct lengths n;
		struct str key, value;

		if (!take(rest, &n, sizeof(n)) || rest->n < n.key ||
		    rest->n - n.key < n.value)
			return false;
		key = (struct str){rest->p, n.key};
		value = (struct str){rest->p + n.key, n.value};
		*rest = str_from(*rest, key.n + value.n);
		if (!restore(t, part, key, value))
			return false;
	}
	return true;
}

static const char *
check_head(struct str file, uint64_t origin, struct str *body)
{
	struct head h;

	*body = file;
	if (!take(body, &h, sizeof(h)) ||
	    memcmp(h.magic, magic, sizeof(magic)) != 0)
		return "it is no copy of the tables";
	if (h.order != 0x01020304 || h.format != FORMAT)
		return "it is of another version of policyd";
	if (h.body_bytes != body->n)
		return "it is truncated";
	if (h.body_sum != XXH3_64bits(body->p, body->n))
		return "it is corrupted";
	if (h.origin != origin)
		return "it was read with other [lookup] queries or another "
		       "fold_local_part";
	return NULL;
}

static const char *
read_all(struct tables *t, struct str file, uint64_t origin)
{
	struct str body;
	const char *why = check_head(file, origin, &body);

	if (why != NULL)
		return why;
	directory_begin_restore(t->directory);
	lists_begin(t->lists);
	rules_begin(t->rules);
	for (int part = 0; part < PARTS; part++)
		if (!read_part(t, part, &body)) {
			tables_abandon(t);
			return "a record in it is none";
		}
	if (body.n > 0) {
		tables_abandon(t);
		return "something follows its end";
	}
	tables_swap(t);
	return NULL;
}

int
copy_load(struct tables *t, const char *path, uint64_t origin,
    const char **why)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *p;

	*why = strerror(errno);
	if (fd == -1)
		return -1;
	if (fstat(fd, &st) == -1 || !S_ISREG(st.st_mode) || st.st_size == 0) {
		*why = "it is no copy of the tables";
		close(fd);
		return -1;
	}
	p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	*why = strerror(errno);
	close(fd);
	if (p == MAP_FAILED)
		return -1;
	*why = read_all(t, (struct str){p, (size_t)st.st_size}, origin);
	munmap(p, (size_t)st.st_size);
	return *why == NULL ? 0 : -1;
}
