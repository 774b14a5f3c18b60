#include "base/sealed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { ORDER = 0x01020304 };

struct head {
	char magic[8];
	uint32_t order;
	uint32_t format;
	uint64_t origin;
	uint64_t body_bytes;
	uint64_t body_sum;
};

struct sealed {
	FILE *f;
	XXH3_state_t *sum;
	uint64_t bytes;
	bool failed;
};

/* ---- writing ---- */

void
sealed_put(struct sealed *s, const void *p, size_t n)
{
	if (n > 0 && fwrite(p, n, 1, s->f) != 1)
		s->failed = true;
	XXH3_64bits_update(s->sum, p, n);
	s->bytes += n;
}

static int
write_file(FILE *f, const struct seal *seal,
    void (*put)(struct sealed *s, const void *arg), const void *arg)
{
	struct head h = {.order = ORDER, .format = seal->format,
	    .origin = seal->origin};
	struct sealed s = {.f = f, .sum = XXH3_createState()};

	if (s.sum == NULL)
		return -1;
	memcpy(h.magic, seal->magic, sizeof(h.magic));
	XXH3_64bits_reset(s.sum);
	s.failed = fwrite(&h, sizeof(h), 1, f) != 1;
	put(&s, arg);
	h.body_bytes = s.bytes;
	h.body_sum = XXH3_64bits_digest(s.sum);
	XXH3_freeState(s.sum);
	if (s.failed || fseek(f, 0, SEEK_SET) == -1 ||
	    fwrite(&h, sizeof(h), 1, f) != 1 || fflush(f) == EOF)
		return -1;
	return fsync(fileno(f));
}

int
sealed_save(const char *path, const struct seal *seal,
    void (*put)(struct sealed *s, const void *arg), const void *arg)
{
	char *beside = NULL;
	FILE *f;
	int fd, rc, error;

	if (asprintf(&beside, "%s.new", path) == -1)
		return -1;
	fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd == -1 || fchmod(fd, 0600) == -1 ||
	    (f = fdopen(fd, "w")) == NULL) {
		error = errno;
		if (fd != -1)
			close(fd);
		free(beside);
		errno = error;
		return -1;
	}
	rc = write_file(f, seal, put, arg);
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

bool
sealed_take(struct str *rest, void *out, size_t n)
{
	if (rest->n < n)
		return false;
	memcpy(out, rest->p, n);
	*rest = str_from(*rest, n);
	return true;
}

static const char *
check_head(const struct seal *seal, struct str file, struct str *body)
{
	struct head h;

	*body = file;
	if (!sealed_take(body, &h, sizeof(h)) ||
	    memcmp(h.magic, seal->magic, sizeof(h.magic)) != 0)
		return seal->what;
	if (h.order != ORDER || h.format != seal->format)
		return "it is of another version of policyd";
	if (h.body_bytes != body->n)
		return "it is truncated";
	if (h.body_sum != XXH3_64bits(body->p, body->n))
		return "it is corrupted";
	if (h.origin != seal->origin)
		return "it was read with other [lookup] queries or another "
		       "fold_local_part";
	return NULL;
}

int
sealed_load(const char *path, const struct seal *seal,
    const char *(*take)(void *arg, struct str body), void *arg,
    const char **why)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct str body;
	struct stat st;
	void *p;

	*why = strerror(errno);
	if (fd == -1)
		return -1;
	if (fstat(fd, &st) == -1 || !S_ISREG(st.st_mode) || st.st_size == 0) {
		*why = seal->what;
		close(fd);
		errno = EINVAL;
		return -1;
	}
	p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	*why = strerror(errno);
	close(fd);
	if (p == MAP_FAILED)
		return -1;
	*why = check_head(seal, (struct str){p, (size_t)st.st_size}, &body);
	if (*why == NULL)
		*why = take(arg, body);
	munmap(p, (size_t)st.st_size);
	errno = EINVAL;
	return *why == NULL ? 0 : -1;
}
