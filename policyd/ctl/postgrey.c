/*
 * policyctl import postgrey - from its two Berkeley DB files.
 *
 * postgrey writes to them through a cache and a log: while it runs, and after
 * it was killed, much of what it knows is in the log alone.  So where there is
 * a log, files and log are copied, and the copy is recovered as a backup would
 * be.  Nothing is written beside the originals.
 */

#include "base/mem.h"
#include "ctl/import.h"

#include <db.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_SOURCE "/var/lib/postgrey"

enum { PATH_BYTES = 4096, NAME_BYTES = 256, FILES = 2 };

/* The second one is missing with --auto-whitelist-clients=0. */
static const char *const file_names[FILES] = {"postgrey.db",
    "postgrey_clients.db"};

struct source {
	struct import *im;
	char dir[PATH_BYTES];
	char file[FILES][NAME_BYTES]; /* in dir; empty: none */
	char copy[PATH_BYTES];        /* empty: there is no log */
	DB_ENV *env;
	DB *db[FILES];
};

/* ---- files ---- */

static bool
join(char out[PATH_BYTES], const char *dir, const char *name)
{
	int n = snprintf(out, PATH_BYTES, "%s/%s", dir, name);

	if (n >= 0 && n < PATH_BYTES)
		return true;
	ctl_complain(NULL, "%s/%s: %s", dir, name, strerror(ENAMETOOLONG));
	return false;
}

static bool
is_file(const char *dir, const char *name)
{
	char path[PATH_BYTES];
	struct stat st;

	return join(path, dir, name) && stat(path, &st) == 0 &&
	    S_ISREG(st.st_mode);
}

static int
is_log(const struct dirent *e)
{
	return strncmp(e->d_name, "log.", 4) == 0 && e->d_name[4] != '\0' &&
	    strspn(e->d_name + 4, "0123456789") == strlen(e->d_name + 4);
}

static int
is_visible(const struct dirent *e)
{
	return e->d_name[0] != '.';
}

typedef bool file_fn(const struct source *, const char *name);

/* Those that are `wanted`, until one fails; how many it took, or -1. */
static int
each_file(const struct source *s, const char *dir,
    int (*wanted)(const struct dirent *), file_fn *take)
{
	struct dirent **e;
	int n = scandir(dir, &e, wanted, alphasort), taken = 0;

	for (int i = 0; i < n; i++) {
		if (taken == i && take(s, e[i]->d_name))
			taken++;
		free(e[i]);
	}
	if (n != -1)
		free(e);
	return taken == n ? taken : -1;
}

static bool
accept(const struct source *s, const char *name)
{
	(void)s, (void)name;
	return true;
}

static bool
has_log(const struct source *s)
{
	return each_file(s, s->dir, is_log, accept) > 0;
}

static bool
write_all(int fd, const char *p, size_t n)
{
	while (n > 0) {
		ssize_t done = write(fd, p, n);

		if (done == -1)
			return false;
		p += done;
		n -= (size_t)done;
	}
	return true;
}

static bool
copy_bytes(int in, int out)
{
	enum { PIECE = 1 << 20 };
	char *buf = mem_alloc(PIECE);
	ssize_t n;

	do
		n = read(in, buf, PIECE);
	while (n > 0 && write_all(out, buf, (size_t)n));
	free(buf);
	return n == 0;
}

static bool
copy_file(const struct source *s, const char *name)
{
	char from[PATH_BYTES], to[PATH_BYTES];
	int in, out = -1;
	bool good = false;

	if (!join(from, s->dir, name) || !join(to, s->copy, name))
		return false;
	in = open(from, O_RDONLY | O_CLOEXEC);
	if (in != -1)
		out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (out != -1)
		good = copy_bytes(in, out);
	if (!good)
		ctl_complain(NULL, "%s: %s", in == -1 ? from : to,
		    strerror(errno));
	if (in != -1)
		close(in);
	if (out != -1 && close(out) == -1)
		good = false;
	return good;
}

/* The log last: it has what was written to the files meanwhile. */
static bool
copy_all(const struct source *s)
{
	for (int i = 0; i < FILES; i++)
		if (s->file[i][0] != '\0' && !copy_file(s, s->file[i]))
			return false;
	return each_file(s, s->dir, is_log, copy_file) != -1;
}

static bool
remove_file(const struct source *s, const char *name)
{
	char path[PATH_BYTES];

	return join(path, s->copy, name) && unlink(path) == 0;
}

static void
remove_copy(const struct source *s)
{
	each_file(s, s->copy, is_visible, remove_file);
	rmdir(s->copy);
}

/* ---- Berkeley DB ---- */

/* What is wrong we say ourselves. */
static void
ignore(const DB_ENV *env, const char *prefix, const char *message)
{
	(void)env, (void)prefix, (void)message;
}

static bool
open_files(struct source *s)
{
	for (int i = 0; i < FILES; i++) {
		char path[PATH_BYTES];
		int e;

		if (s->file[i][0] == '\0')
			continue;
		if (!join(path, s->dir, s->file[i]))
			return false;
		e = db_create(&s->db[i], s->env, 0);
		if (e == 0 && s->env == NULL)
			s->db[i]->set_errcall(s->db[i], ignore);
		if (e == 0)
			e = s->db[i]->open(s->db[i], NULL,
			    s->env != NULL ? s->file[i] : path, NULL,
			    DB_UNKNOWN, DB_RDONLY, 0);
		if (e != 0) {
			ctl_complain(NULL, "%s: %s", path, db_strerror(e));
			return false;
		}
	}
	return true;
}

static bool
recover(struct source *s)
{
	int e = db_env_create(&s->env, 0);

	if (e == 0) {
		s->env->set_errcall(s->env, ignore);
		e = s->env->open(s->env, s->copy,
		    DB_CREATE | DB_PRIVATE | DB_INIT_MPOOL | DB_INIT_LOG |
			DB_INIT_TXN | DB_RECOVER_FATAL,
		    0600);
	}
	if (e == 0)
		return true;
	ctl_complain("Stop postgrey, which writes all of it to its files, and "
		     "try again.",
	    "the log in %s cannot be replayed: %s", s->dir, db_strerror(e));
	return false;
}

/*
 * The copy is removed as soon as it is open, and no signal comes between, so
 * that it never stays behind.
 */
static bool
open_copy(struct source *s)
{
	const char *tmp = getenv("TMPDIR");
	sigset_t all, before;
	bool good;

	if (!join(s->copy, tmp != NULL && tmp[0] != '\0' ? tmp : "/tmp",
		"policyctl-XXXXXX"))
		return false;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	good = mkdtemp(s->copy) != NULL;
	if (!good)
		ctl_complain(NULL, "%s: %s", s->copy, strerror(errno));
	else
		good = copy_all(s) && recover(s) && open_files(s);
	remove_copy(s);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return good;
}

static void
close_all(struct source *s)
{
	for (int i = 0; i < FILES; i++)
		if (s->db[i] != NULL)
			s->db[i]->close(s->db[i], DB_NOSYNC);
	/* It misses its files, which are of no use any more. */
	if (s->env != NULL)
		s->env->close(s->env, 0);
}

/* ---- records ---- */

/*
 * It passed if it came back after the delay.  postgrey does not write down
 * which: the default is 5 minutes; ours says who would have passed here.
 */
static double
delay_of(const struct import *im)
{
	const double theirs = 300, ours = im->config->greylist.delay_s;

	return ours < theirs ? ours : theirs;
}

static void
take(struct import *im, struct str key, struct str value, bool is_clients)
{
	struct foreign f;
	struct import_key k;

	switch (foreign_postgrey(key, value, &f)) {
	case FOREIGN_KEY:
		k = (struct import_key){f.client, f.sender, f.recipient,
		    (double)f.first, (double)f.last,
		    (double)(f.last - f.first) >= delay_of(im),
		    f.first == f.last ? 1 : 2};
		import_key(im, &k);
		return;
	case FOREIGN_CLIENT:
		import_client(im, &f.client, f.count, (double)f.last);
		return;
	case FOREIGN_HASHED:
		import_skip(im, is_clients ? IMPORT_CLIENTS : IMPORT_KEYS,
		    SKIP_HASHED);
		return;
	case FOREIGN_NONE:
		import_skip(im, is_clients ? IMPORT_CLIENTS : IMPORT_KEYS,
		    SKIP_UNKNOWN);
		return;
	}
}

static bool
read_file(struct source *s, int i)
{
	DB *db = s->db[i];
	DBT key = {0}, value = {0};
	DBC *cursor = NULL;
	int e = db->cursor(db, NULL, &cursor, 0);

	while (e == 0 && !s->im->failed) {
		e = cursor->get(cursor, &key, &value, DB_NEXT);
		if (e == 0)
			take(s->im, (struct str){key.data, key.size},
			    (struct str){value.data, value.size},
			    strcmp(s->file[i], file_names[1]) == 0);
	}
	if (cursor != NULL)
		cursor->close(cursor);
	if (e == 0 || e == DB_NOTFOUND)
		return !s->im->failed;
	ctl_complain(NULL, "%s/%s: %s", s->dir, s->file[i], db_strerror(e));
	return false;
}

/* ---- the command ---- */

/* A folder has both files; a file stands for itself. */
static bool
find_files(struct source *s, const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash != NULL ? slash + 1 : path;
	struct stat st;

	if (stat(path, &st) == -1) {
		ctl_complain(NULL, "%s: %s", path, strerror(errno));
		return false;
	}
	if (!S_ISDIR(st.st_mode)) {
		snprintf(s->dir, sizeof(s->dir), "%.*s",
		    slash != NULL ? (int)(name - path) : 1,
		    slash != NULL ? path : ".");
		snprintf(s->file[0], sizeof(s->file[0]), "%s", name);
		return true;
	}
	snprintf(s->dir, sizeof(s->dir), "%s", path);
	for (int i = 0; i < FILES; i++)
		if (is_file(path, file_names[i]))
			snprintf(s->file[i], sizeof(s->file[i]), "%s",
			    file_names[i]);
	if (s->file[0][0] != '\0')
		return true;
	ctl_complain("postgrey's folder, /var/lib/postgrey, or a copy of it.",
	    "there is no %s in %s", file_names[0], path);
	return false;
}

/* A log says nothing of a file that has another name. */
static bool
has_postgreys_name(const struct source *s)
{
	return strcmp(s->file[0], file_names[0]) == 0 ||
	    strcmp(s->file[0], file_names[1]) == 0;
}

/* postgrey keeps this file locked. */
static bool
is_running(const char *dir)
{
	char path[PATH_BYTES];
	int fd;
	bool running;

	if (!is_file(dir, "postgrey.lock") ||
	    !join(path, dir, "postgrey.lock"))
		return false;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	running = fd != -1 && flock(fd, LOCK_SH | LOCK_NB) == -1 &&
	    errno == EWOULDBLOCK;
	if (fd != -1)
		close(fd);
	return running;
}

enum ctl_status
import_postgrey(struct ctl *ctl, const struct table *table,
    const struct values *values)
{
	const char *path = values->of[0] != NULL ? values->of[0] :
						   DEFAULT_SOURCE;
	struct import im;
	struct source s = {.im = &im};
	enum ctl_status status = CTL_NO;
	bool good, running;

	(void)table;
	if (!find_files(&s, path))
		return CTL_NO;
	running = is_running(s.dir);
	good = has_log(&s) && has_postgreys_name(&s) ? open_copy(&s) :
							 open_files(&s);
	if (good && import_begin(&im, ctl)) {
		for (int i = 0; i < FILES && good; i++)
			if (s.db[i] != NULL)
				good = read_file(&s, i);
		status = import_end(&im, good);
		if (status == CTL_YES && running)
			ctl_complain("Import again once it is stopped: that "
				     "adds what is new.",
			    "postgrey is running: what it learns from now on "
			    "is not imported");
	}
	close_all(&s);
	return status;
}
