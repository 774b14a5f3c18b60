/*
 * faults - the Nth call of what may fail, failing.
 *
 *	FAULTS=FILE LD_PRELOAD=faults.so policyd ...
 *
 * FILE is a struct faults, shared with the test: it says which kind of calls
 * are counted and which of them fails, and is told what did.  While `fail` is 0
 * calls are only counted.  Children count along with their parent, but what
 * they hold is not among what is live.
 *
 * -DSYSTEM_ONLY leaves memory alone, for a sanitizer that has its own.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netdb.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MEMORY = 1, SYSTEM = 2 };

struct faults {
	uint32_t kinds;
	uint32_t fail; /* which call, from 1 */
	uint32_t count;
	char failed[48]; /* its name */
	int32_t live;    /* pieces of memory that were not freed yet */
};

static struct faults *faults;
static int spared; /* within what nobody can make safe */
static int is_child;

/* From glibc: what dlsym() needs must not need dlsym(). */
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t alignment, size_t n);
void __libc_free(void *p);

__attribute__((constructor)) static void
begin(void)
{
	const char *path = getenv("FAULTS");
	int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *p;

	if (fd == -1)
		return;
	p = mmap(NULL, sizeof(*faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
	    0);
	close(fd);
	if (p == MAP_FAILED)
		return;
	faults = p;
	faults->live = 0;
}

/*
 * Is this the call that fails?  Then errno is set.  Of memory, the next two fail
 * as well, so that a reserve that is given up does not help.
 */
static int
fails(uint32_t kind, const char *name, int error)
{
	uint32_t n;

	if (faults == NULL || (faults->kinds & kind) == 0 || spared)
		return 0;
	n = __atomic_add_fetch(&faults->count, 1, __ATOMIC_RELAXED);
	if (faults->fail == 0 || n < faults->fail ||
	    n > faults->fail + (kind == MEMORY ? 2 : 0))
		return 0;
	strncpy(faults->failed, name, sizeof(faults->failed) - 1);
	errno = error;
	return 1;
}

/* The same, but for calls from that library. */
static int
fails_unless_from(const char *library, const void *caller, uint32_t kind,
    const char *name, int error)
{
	Dl_info from;

	if (!fails(kind, name, error))
		return 0;
	if (dladdr(caller, &from) == 0 || from.dli_fname == NULL ||
	    strstr(from.dli_fname, library) == NULL)
		return 1;
	strcpy(faults->failed, "spared");
	return 0;
}

/* ---- memory ---- */

#ifndef SYSTEM_ONLY

static void
count_live(int n)
{
	if (faults != NULL && !is_child)
		__atomic_add_fetch(&faults->live, n, __ATOMIC_RELAXED);
}

static void *
alive(void *p)
{
	count_live(p != NULL);
	return p;
}

void *
malloc(size_t n)
{
	return fails(MEMORY, "malloc", ENOMEM) ? NULL : alive(__libc_malloc(n));
}

/* libiniparser does not look at what it gets: policyd sees to it. */
void *
calloc(size_t n, size_t size)
{
	return fails_unless_from("libiniparser", __builtin_return_address(0),
		   MEMORY, "calloc", ENOMEM) ?
	    NULL :
	    alive(__libc_calloc(n, size));
}

void *
realloc(void *p, size_t n)
{
	if (fails(MEMORY, "realloc", ENOMEM))
		return NULL;
	if (p == NULL)
		return alive(__libc_realloc(NULL, n));
	count_live(n == 0 ? -1 : 0);
	return __libc_realloc(p, n);
}

void *
aligned_alloc(size_t alignment, size_t n)
{
	return fails(MEMORY, "aligned_alloc", ENOMEM) ?
	    NULL :
	    alive(__libc_memalign(alignment, n));
}

void
free(void *p)
{
	count_live(p != NULL ? -1 : 0);
	__libc_free(p);
}

#endif

/* ---- the system ---- */

/* A function that returns `bad` where it fails, with errno set. */
#define WRAP(type, name, params, args, bad, error)                 \
	type name params                                           \
	{                                                          \
		static type(*real) params;                         \
		if (real == NULL)                                  \
			*(void **)&real = dlsym(RTLD_NEXT, #name); \
		return fails(SYSTEM, #name, error) ? (bad) : real args; \
	}

WRAP(int, socket, (int d, int t, int p), (d, t, p), -1, EMFILE)
WRAP(int, bind, (int fd, const struct sockaddr *a, socklen_t n), (fd, a, n), -1,
    EADDRINUSE)
WRAP(int, listen, (int fd, int n), (fd, n), -1, EADDRINUSE)
WRAP(int, connect, (int fd, const struct sockaddr *a, socklen_t n), (fd, a, n),
    -1, ECONNREFUSED)
WRAP(int, accept, (int fd, struct sockaddr *a, socklen_t *n), (fd, a, n), -1,
    EMFILE)
WRAP(int, accept4, (int fd, struct sockaddr *a, socklen_t *n, int f),
    (fd, a, n, f), -1, EMFILE)
WRAP(int, setsockopt, (int fd, int l, int o, const void *p, socklen_t n),
    (fd, l, o, p, n), -1, ENOBUFS)
WRAP(int, getsockopt, (int fd, int l, int o, void *p, socklen_t *n),
    (fd, l, o, p, n), -1, ENOBUFS)
WRAP(int, getsockname, (int fd, struct sockaddr *a, socklen_t *n), (fd, a, n),
    -1, ENOBUFS)
WRAP(ssize_t, read, (int fd, void *p, size_t n), (fd, p, n), -1, EIO)
WRAP(ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n), -1,
    ENOSPC)
WRAP(ssize_t, sendmsg, (int fd, const struct msghdr *m, int f), (fd, m, f), -1,
    ENOBUFS)
WRAP(ssize_t, sendto,
    (int fd, const void *p, size_t n, int f, const struct sockaddr *a,
	socklen_t l),
    (fd, p, n, f, a, l), -1, ENOBUFS)
WRAP(int, poll, (struct pollfd *p, nfds_t n, int ms), (p, n, ms), -1, ENOMEM)
WRAP(int, epoll_wait, (int e, struct epoll_event *v, int n, int ms),
    (e, v, n, ms), -1, EINTR)
WRAP(int, pipe, (int fd[2]), (fd), -1, EMFILE)
WRAP(int, dup2, (int a, int b), (a, b), -1, EMFILE)
WRAP(int, setgid, (gid_t g), (g), -1, EPERM)
WRAP(int, setuid, (uid_t u), (u), -1, EAGAIN)
WRAP(int, initgroups, (const char *u, gid_t g), (u, g), -1, EPERM)
WRAP(int, setpriority, (__priority_which_t w, id_t i, int p), (w, i, p), -1,
    EACCES)
WRAP(int, getrlimit, (__rlimit_resource_t r, struct rlimit *l), (r, l), -1,
    EPERM)
WRAP(int, setrlimit, (__rlimit_resource_t r, const struct rlimit *l), (r, l),
    -1, EPERM)
WRAP(int, access, (const char *p, int m), (p, m), -1, EACCES)
WRAP(int, gethostname, (char *p, size_t n), (p, n), -1, ENAMETOOLONG)
WRAP(pid_t, waitpid, (pid_t p, int *s, int f), (p, s, f), -1, EINTR)
WRAP(int, madvise, (void *p, size_t n, int a), (p, n, a), -1, ENOMEM)
WRAP(int, close_range, (unsigned a, unsigned b, int f), (a, b, f), -1, ENOSYS)
WRAP(int, mkdir, (const char *p, mode_t m), (p, m), -1, EACCES)
WRAP(int, rename, (const char *a, const char *b), (a, b), -1, EACCES)
WRAP(int, unlink, (const char *p), (p), -1, EACCES)
WRAP(int, chmod, (const char *p, mode_t m), (p, m), -1, EPERM)
WRAP(int, fchmod, (int fd, mode_t m), (fd, m), -1, EPERM)
WRAP(int, chown, (const char *p, uid_t u, gid_t g), (p, u, g), -1, EPERM)
WRAP(int, lchown, (const char *p, uid_t u, gid_t g), (p, u, g), -1, EPERM)
WRAP(int, stat, (const char *p, struct stat *s), (p, s), -1, EACCES)
WRAP(int, lstat, (const char *p, struct stat *s), (p, s), -1, EACCES)
WRAP(int, fstat, (int fd, struct stat *s), (fd, s), -1, EIO)
WRAP(int, fsync, (int fd), (fd), -1, EIO)
WRAP(FILE *, fopen, (const char *p, const char *m), (p, m), NULL, EMFILE)
WRAP(int, fseek, (FILE *f, long n, int w), (f, n, w), -1, EIO)
WRAP(int, fflush, (FILE *f), (f), EOF, ENOSPC)
WRAP(int, pipe2, (int fd[2], int f), (fd, f), -1, EMFILE)
WRAP(int, eventfd, (unsigned n, int f), (n, f), -1, EMFILE)
WRAP(int, signalfd, (int fd, const sigset_t *s, int f), (fd, s, f), -1, EMFILE)
WRAP(int, timerfd_create, (int c, int f), (c, f), -1, EMFILE)
WRAP(int, epoll_create1, (int f), (f), -1, EMFILE)
WRAP(int, epoll_ctl, (int e, int op, int fd, struct epoll_event *v),
    (e, op, fd, v), -1, ENOMEM)
WRAP(int, memfd_create, (const char *p, unsigned f), (p, f), -1, EMFILE)
WRAP(void *, mmap, (void *p, size_t n, int pr, int f, int fd, off_t at),
    (p, n, pr, f, fd, at), MAP_FAILED, ENOMEM)
WRAP(ssize_t, getrandom, (void *p, size_t n, unsigned f), (p, n, f), -1, ENOSYS)
WRAP(int, getaddrinfo,
    (const char *h, const char *s, const struct addrinfo *a,
	struct addrinfo **l),
    (h, s, a, l), EAI_MEMORY, ENOMEM)
WRAP(int, getnameinfo,
    (const struct sockaddr *a, socklen_t n, char *h, socklen_t hn, char *s,
	socklen_t sn, int f),
    (a, n, h, hn, s, sn, f), EAI_MEMORY, ENOMEM)

pid_t
fork(void)
{
	static pid_t (*real)(void);
	pid_t pid;

	if (real == NULL)
		*(void **)&real = dlsym(RTLD_NEXT, "fork");
	if (fails(SYSTEM, "fork", EAGAIN))
		return -1;
	pid = real();
	is_child = is_child || pid == 0;
	return pid;
}

/* libev's of a signal is into an eventfd, which always takes it. */
ssize_t
write(int fd, const void *p, size_t n)
{
	static ssize_t (*real)(int, const void *, size_t);

	if (real == NULL)
		*(void **)&real = dlsym(RTLD_NEXT, "write");
	return fails_unless_from("libev.", __builtin_return_address(0), SYSTEM,
		   "write", ENOSPC) ?
	    -1 :
	    real(fd, p, n);
}

/* A connection that breaks is broken for good, and for both sides. */
ssize_t
send(int fd, const void *p, size_t n, int flags)
{
	static ssize_t (*real)(int, const void *, size_t, int);

	if (real == NULL)
		*(void **)&real = dlsym(RTLD_NEXT, "send");
	if (!fails(SYSTEM, "send", EPIPE))
		return real(fd, p, n, flags);
	shutdown(fd, SHUT_RDWR);
	errno = EPIPE;
	return -1;
}

ssize_t
recv(int fd, void *p, size_t n, int flags)
{
	static ssize_t (*real)(int, void *, size_t, int);

	if (real == NULL)
		*(void **)&real = dlsym(RTLD_NEXT, "recv");
	if (!fails(SYSTEM, "recv", ECONNRESET))
		return real(fd, p, n, flags);
	shutdown(fd, SHUT_RDWR);
	errno = ECONNRESET;
	return -1;
}

/* What stdio could not read or write it remembers. */
static void
spoil(FILE *f)
{
	enum { ERR_SEEN = 0x20 }; /* glibc's _IO_ERR_SEEN */

	f->_flags |= ERR_SEEN;
}

size_t
fread(void *p, size_t size, size_t n, FILE *f)
{
	static size_t (*real)(void *, size_t, size_t, FILE *);

	if (real == NULL)
		*(void **)&real = dlsym(RTLD_NEXT, "fread");
	if (!fails(SYSTEM, "fread", EIO))
		return real(p, size, n, f);
	spoil(f);
	return 0;
}

/* libiniparser reads a file in memory, and takes an error for its end. */
char *
fgets(char *p, int n, FILE *f)
{
	static char *(*real)(char *, int, FILE *);

	if (real == NULL)
		*(void **)&real = dlsym(RTLD_NEXT, "fgets");
	if (!fails_unless_from("libiniparser", __builtin_return_address(0),
		SYSTEM, "fgets", EIO))
		return real(p, n, f);
	spoil(f);
	return NULL;
}

size_t
fwrite(const void *p, size_t size, size_t n, FILE *f)
{
	static size_t (*real)(const void *, size_t, size_t, FILE *);

	if (real == NULL)
		*(void **)&real = dlsym(RTLD_NEXT, "fwrite");
	if (!fails(SYSTEM, "fwrite", ENOSPC))
		return real(p, size, n, f);
	spoil(f);
	return 0;
}

int
fclose(FILE *f)
{
	static int (*real)(FILE *);
	int rc;

	if (real == NULL)
		*(void **)&real = dlsym(RTLD_NEXT, "fclose");
	if (!fails(SYSTEM, "fclose", EIO))
		return real(f);
	rc = real(f);
	errno = EIO;
	return rc == 0 ? EOF : rc;
}

/* glibc's reading of /etc/nsswitch.conf asserts that there is memory. */
#define SPARE(type, name)                                          \
	type *name(const char *s)                                  \
	{                                                          \
		type *(*real)(const char *), *out;                 \
		*(void **)&real = dlsym(RTLD_NEXT, #name);         \
		if (fails(SYSTEM, #name, EMFILE))                  \
			return NULL;                               \
		spared++;                                          \
		out = real(s);                                     \
		spared--;                                          \
		return out;                                        \
	}

SPARE(struct passwd, getpwnam)
SPARE(struct group, getgrnam)

/* open() takes a mode where it creates. */
static int
open_as(const char *name, const char *path, int flags, mode_t mode)
{
	int (*real)(const char *, int, ...);

	*(void **)&real = dlsym(RTLD_NEXT, name);
	return fails(SYSTEM, name, EMFILE) ? -1 : real(path, flags, mode);
}

#define OPEN(name)                                      \
	int name(const char *path, int flags, ...)      \
	{                                               \
		mode_t mode = 0;                        \
		va_list ap;                             \
		va_start(ap, flags);                    \
		if (flags & O_CREAT)                    \
			mode = va_arg(ap, mode_t);      \
		va_end(ap);                             \
		return open_as(#name, path, flags, mode); \
	}

OPEN(open)
OPEN(open64)

/* The third argument of these is as wide as a pointer, whatever it is. */
#define VARIADIC(name, error)                                      \
	int name(int a, int b, ...)                                \
	{                                                          \
		static int (*real)(int, int, void *);              \
		va_list ap;                                        \
		void *arg;                                         \
		va_start(ap, b);                                   \
		arg = va_arg(ap, void *);                          \
		va_end(ap);                                        \
		if (real == NULL)                                  \
			*(void **)&real = dlsym(RTLD_NEXT, #name); \
		return fails(SYSTEM, #name, error) ? -1 : real(a, b, arg); \
	}

VARIADIC(fcntl, EINVAL)
VARIADIC(fcntl64, EINVAL)
