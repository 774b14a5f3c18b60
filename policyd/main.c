/*
 * main - options, privileges, signals, the loop: builds every room once, in
 * order, and tears down in reverse.
 */

#include "base/aside.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "config/config.h"
#include "mail/host.h"
#include "net/control.h"
#include "net/listener.h"
#include "net/server.h"
#include "net/status.h"
#include "policy/decide.h"
#include "policy/keep.h"
#include "schema_version.h"
#include "tables/feed.h"
#include "tables/tables.h"
#include "tables/verify.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <idn2.h>
#include <libpq-fe.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#define DEFAULT_FILE "/etc/policyd/policyd.ini"

/* SPEC: within 5 s; what a slow reader has not taken by then is lost to it. */
static const double DRAIN_MAX_S = 3;
static const double WRITE_MAX_S = 1;
/* ... and what a disk that hangs does not take; the journal goes first. */
static const double END_MAX_S = 4.7;
static const double SIGNALS_AGAIN_S = 1;

struct daemon {
	const char *file;
	int verbose;
	struct config *config;
	struct ev_loop *loop;
	struct listeners *listeners;
	struct tables tables;
	struct policy *policy;
	struct server *server;
	struct feed *feed;
	struct status_sources status;
	struct control *control;
	ev_signal term, interrupt, hangup;
	ev_io signals;
	ev_timer signals_again;
	struct log_limit signals_limit;
	ev_timer watchdog;
	ev_timer drain;
	bool stopping;
};

/* ---- logging what is wrong with a file ---- */

static void
print_errors(struct config_errors *errors)
{
	for (size_t i = 0; i < errors->count; i++)
		fprintf(stderr, "%s\n", errors->text[i]);
	config_errors_free(errors);
}

static void
log_errors(struct config_errors *errors)
{
	for (size_t i = 0; i < errors->count; i++) {
		struct log_entry e;

		log_begin(&e, LOG_ERR, "configuration");
		log_str(&e, "error", str_of(errors->text[i]));
		log_end(&e);
	}
	config_errors_free(errors);
}

static void
use_log(const struct daemon *d)
{
	int level = (int)d->config->log.level + d->verbose;

	log_init((enum log_target)d->config->log.target,
	    level > LOG_DEBUG ? LOG_DEBUG : level);
}

/* ---- being nobody special ---- */

/* What is opened first must not take the number that the log is written to. */
static void
fill_standard_descriptors(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd != -1 && fd <= STDERR_FILENO);
	if (fd != -1)
		close(fd);
}

/* What is there already stays as it is. */
static void
make_dir(const char *dir, const char *what, uid_t uid, gid_t gid)
{
	if (mkdir(dir, 0750) == -1 ? errno != EEXIST :
		geteuid() == 0 && lchown(dir, uid, gid) == -1)
		log_line(LOG_WARNING, "%s %s: %s", what, dir, strerror(errno));
}

static void
make_dirs(const struct config *config, uid_t uid, gid_t gid)
{
	const char *control = config->policyd.control;
	const char *slash = strrchr(control, '/');
	char *dir = mem_strndup(control, (size_t)(slash - control));

	make_dir(config->policyd.state_dir, "state_dir", uid, gid);
	if (geteuid() == 0 && dir[0] != '\0')
		make_dir(dir, "the folder of the control socket,", uid, gid);
	free(dir);
}

/*
 * 0, or -1 with errno.  libpq looks for its password and service files in HOME,
 * which is still root's.
 */
static int
become(const struct passwd *pw)
{
	if (initgroups(pw->pw_name, pw->pw_gid) == -1 ||
	    setgid(pw->pw_gid) == -1 || setuid(pw->pw_uid) == -1)
		return -1;
	return setenv("HOME", pw->pw_dir, 1);
}

/* 0, or -1 with what is wrong logged. */
static int
drop_privileges(const struct config *config)
{
	const struct passwd *pw;

	if (geteuid() != 0) {
		make_dirs(config, 0, 0);
		return 0;
	}
	pw = getpwnam(config->policyd.user);
	if (pw == NULL) {
		log_line(LOG_ERR, "[policyd] user: there is no user %s",
		    config->policyd.user);
		return -1;
	}
	make_dirs(config, pw->pw_uid, pw->pw_gid);
	if (become(pw) == -1) {
		log_line(LOG_ERR, "cannot become %s: %s", pw->pw_name,
		    strerror(errno));
		return -1;
	}
	return 0;
}

/* As many descriptors as there may be clients, and some. */
static void
raise_descriptors(const struct config *config)
{
	struct rlimit r;
	rlim_t needed = (rlim_t)config->policyd.max_clients + 64, had;

	if (getrlimit(RLIMIT_NOFILE, &r) == -1)
		return;
	had = r.rlim_cur;
	if (had < needed) {
		r.rlim_cur = needed < r.rlim_max ? needed : r.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &r) == -1)
			r.rlim_cur = had;
	}
	if (r.rlim_cur < needed)
		log_line(LOG_WARNING,
		    "max_clients is %lld, but only %llu descriptors may be "
		    "open", (long long)config->policyd.max_clients,
		    (unsigned long long)r.rlim_cur);
}

/* ---- what the loop calls ---- */

/* It waits for some of these, and ends who says nothing. */
static void
tell_systemd(const char *what)
{
	int rc = sd_notify(0, what);

	if (rc < 0)
		log_line(LOG_WARNING, "cannot tell systemd %s: %s", what,
		    strerror(-rc));
}

static void
on_settled(void *arg)
{
	struct daemon *d = arg;

	if (d->stopping)
		return; /* what is left of the loop is for writing */
	d->status.ready = true; /* as far as systemd knows, too */
	listeners_accept(d->listeners, d->server);
	tell_systemd("READY=1");
	log_line(LOG_NOTICE, "ready, version %s", POLICYD_VERSION);
}

static void
reload(struct daemon *d)
{
	struct config_errors errors = {0};
	struct config *config = config_load(d->file, &errors), *old = d->config;

	d->status.reloaded = ev_now(d->loop);
	d->status.reload_failed = true; /* until it has not */
	if (config == NULL) {
		log_errors(&errors);
		log_line(LOG_ERR, "not reloaded: the old settings stay");
		return;
	}
	if (listeners_prepare(d->listeners, config) == -1) {
		log_line(LOG_ERR, "not reloaded: the old settings stay");
		config_free(config);
		return;
	}
	d->config = config;
	use_log(d);
	policy_reconfigure(d->policy, config);
	server_reconfigure(d->server, config);
	feed_reconfigure(d->feed, config);
	listeners_commit(d->listeners, config);
	control_listen(d->control, config);
	raise_descriptors(config);
	if (strcmp(old->policyd.user, config->policyd.user) != 0)
		log_line(LOG_WARNING, "[policyd] user takes a restart");
	config_free(old);
	d->status.reload_failed = false;
	log_line(LOG_NOTICE, "reloaded");
}

static void
on_hangup(struct ev_loop *loop, ev_signal *w, int events)
{
	struct daemon *d = w->data;
	struct timespec now;
	char reloading[64];

	(void)loop;
	(void)events;
	if (d->stopping)
		return;
	if (!d->status.ready) {
		reload(d); /* READY comes with the tables */
		return;
	}
	clock_gettime(CLOCK_MONOTONIC, &now);
	snprintf(reloading, sizeof(reloading),
	    "RELOADING=1\nMONOTONIC_USEC=%lld",
	    (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000);
	tell_systemd(reloading);
	reload(d);
	tell_systemd("READY=1");
}

static void
on_drain_end(struct ev_loop *loop, ev_timer *w, int events)
{
	(void)w;
	(void)events;
	ev_break(loop, EVBREAK_ALL);
}

static void
on_stop(struct ev_loop *loop, ev_signal *w, int events)
{
	struct daemon *d = w->data;

	(void)events;
	if (d->stopping) {
		ev_break(loop, EVBREAK_ALL);
		return;
	}
	d->stopping = true;
	log_line(LOG_NOTICE, "stopping");
	tell_systemd("STOPPING=1");
	aside_end_within(END_MAX_S);
	listeners_stop(d->listeners);
	server_drain(d->server);
	ev_timer_set(&d->drain, DRAIN_MAX_S, 0);
	ev_timer_start(loop, &d->drain);
}

static void
on_watchdog(struct ev_loop *loop, ev_timer *w, int events)
{
	(void)loop;
	(void)w;
	(void)events;
	tell_systemd("WATCHDOG=1");
}

static void
start_watchdog(struct daemon *d)
{
	uint64_t usec;

	if (sd_watchdog_enabled(0, &usec) <= 0)
		return;
	ev_timer_init(&d->watchdog, on_watchdog, 0, (double)usec / 1e6 / 3);
	d->watchdog.data = d;
	ev_timer_start(d->loop, &d->watchdog);
}

/* ---- signals ---- */

/*
 * They are blocked, and read here.  libev's own way is a pipe: where epoll does
 * not take that (no memory, or no watches left), nothing says so, and no signal
 * would arrive any more.
 */
static void
on_signals(struct ev_loop *loop, ev_io *w, int events)
{
	struct daemon *d = w->data;
	struct signalfd_siginfo info;
	uint64_t suppressed;

	if (events & EV_ERROR) {
		if (log_allowed(&d->signals_limit, ev_now(loop), &suppressed))
			log_line(LOG_ERR,
			    "epoll does not take the signals' descriptor");
		ev_timer_set(&d->signals_again, SIGNALS_AGAIN_S, 0);
		ev_timer_start(loop, &d->signals_again);
	}
	while (read(w->fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		ev_feed_signal_event(loop, (int)info.ssi_signo);
}

static void
on_signals_again(struct ev_loop *loop, ev_timer *w, int events)
{
	struct daemon *d = w->data;

	(void)events;
	ev_io_start(loop, &d->signals);
}

/* Those of early times wait until somebody hears them. */
static void
hold_signals(void)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

/* 0, or -1 with what is wrong logged. */
static int
start_signals(struct daemon *d)
{
	sigset_t set;
	int fd;

	ev_signal_init(&d->term, on_stop, SIGTERM);
	ev_signal_init(&d->interrupt, on_stop, SIGINT);
	ev_signal_init(&d->hangup, on_hangup, SIGHUP);
	ev_timer_init(&d->drain, on_drain_end, 0, 0);
	ev_timer_init(&d->signals_again, on_signals_again, 0, 0);
	d->term.data = d->interrupt.data = d->hangup.data = d;
	d->signals_again.data = d;
	ev_signal_start(d->loop, &d->term);
	ev_signal_start(d->loop, &d->interrupt);
	ev_signal_start(d->loop, &d->hangup);

	/* After libev, which lets through what it is told to watch. */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGCHLD); /* libev's, for children */
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (fd == -1) {
		log_line(LOG_ERR, "signalfd: %s", strerror(errno));
		return -1;
	}
	ev_io_init(&d->signals, on_signals, fd, EV_READ);
	d->signals.data = d;
	ev_io_start(d->loop, &d->signals);
	return 0;
}

static void
stop_signals(struct daemon *d)
{
	ev_io_stop(d->loop, &d->signals);
	close(d->signals.fd);
}

static void
start_control(struct daemon *d)
{
	d->status = (struct status_sources){
	    .server = d->server,
	    .policy = d->policy,
	    .feed = d->feed,
	    .tables = &d->tables,
	    .started = status_clock(),
	};
	d->control = control_new(d->loop, &d->status);
	control_listen(d->control, d->config);
}

/* ---- from start to end ---- */

/* libev's own aborts where there is no memory. */
static void *
allocate(void *p, long n)
{
	if (n > 0)
		return mem_realloc(p, (size_t)n);
	free(p);
	return NULL;
}

static int
run(struct daemon *d)
{
	int rc = EX_UNAVAILABLE;

	mem_reserve();
	ev_set_allocator(allocate);
	d->loop = ev_default_loop(EVFLAG_AUTO);
	if (d->loop == NULL)
		return EX_OSERR;
	d->listeners = listeners_new(d->loop);
	if (listeners_prepare(d->listeners, d->config) == -1)
		goto free_listeners;
	raise_descriptors(d->config);
	if (drop_privileges(d->config) == -1) {
		rc = EX_NOPERM;
		goto free_listeners;
	}
	if (start_signals(d) == -1) {
		rc = EX_OSERR;
		goto free_listeners;
	}
	start_watchdog(d);
	keep_take_secret(d->config);
	tables_init(&d->tables, d->config->rcpt.fold_local_part);
	d->policy = policy_new(d->loop, d->config, &d->tables);
	d->server = server_new(d->loop, d->config, d->policy,
	    listeners_resume, d->listeners);
	d->feed = feed_new(d->loop, d->config, &d->tables, on_settled, d);
	start_control(d);
	ev_run(d->loop, 0);
	rc = 0;
	control_free(d->control);
	server_free(d->server);
	policy_drain(d->policy, WRITE_MAX_S);
	policy_free(d->policy);
	feed_free(d->feed);
	tables_fini(&d->tables);
	stop_signals(d);
	log_line(LOG_NOTICE, "stopped");
free_listeners:
	listeners_free(d->listeners);
	ev_loop_destroy(d->loop);
	return rc;
}

/* As whom the daemon would ask PostgreSQL. */
static int
test_as_user(const struct daemon *d)
{
	const char *user = d->config->policyd.user;
	const struct passwd *pw;

	if (geteuid() != 0)
		return 0;
	pw = getpwnam(user);
	if (pw == NULL) {
		fprintf(stderr, "%s: [policyd] user: there is no user %s\n",
		    d->file, user);
		return 1;
	}
	if (become(pw) == -1) {
		fprintf(stderr, "%s: [policyd] user: cannot become %s: %s\n",
		    d->file, user, strerror(errno));
		return 1;
	}
	return 0;
}

/* Names of the system that the configuration counts on. */
static int
verify_accounts(const struct daemon *d)
{
	const char *group = d->config->policyd.socket_group;
	int bad = 0;

	if (group[0] != '\0' && getgrnam(group) == NULL) {
		fprintf(stderr, "%s: [policyd] socket_group: there is no group "
				"%s\n", d->file, group);
		bad++;
	}
	return bad + test_as_user(d);
}

static int
test(const struct daemon *d)
{
	int bad;

	/* What is wrong is printed, not logged. */
	log_init(LOG_TO_STDERR, LOG_CRIT);
	bad = verify_accounts(d) +
	    tables_verify(d->config, d->file, stderr);

	if (bad == 0)
		printf("%s: good\n", d->file);
	return bad == 0 ? 0 : 1;
}

static void
print_version(void)
{
	printf("policyd %s (schema %d)\n", POLICYD_VERSION,
	    POLICYD_SCHEMA_VERSION);
	printf("libev %d.%d, libpq %d, libidn2 %s, xxHash %u, libsystemd\n",
	    ev_version_major(), ev_version_minor(), PQlibVersion(),
	    idn2_check_version(NULL), XXH_versionNumber());
}

static void
print_usage(FILE *to)
{
	fprintf(to,
	    "usage: policyd [-c FILE] [-t] [-v]...\n"
	    "  -c FILE    the configuration (" DEFAULT_FILE ")\n"
	    "  -t         check configuration, database and schema, and exit\n"
	    "  -v         log more; twice, still more\n"
	    "  -V         print the versions\n"
	    "  --options  print every option with its default and bounds\n");
}

int
main(int argc, char **argv)
{
	static const struct option longs[] = {
	    {"config", required_argument, NULL, 'c'},
	    {"help", no_argument, NULL, 'h'},
	    {"options", no_argument, NULL, 'o'},
	    {"test", no_argument, NULL, 't'},
	    {"verbose", no_argument, NULL, 'v'},
	    {"version", no_argument, NULL, 'V'},
	    {0},
	};
	struct daemon d = {.file = DEFAULT_FILE};
	struct config_errors errors = {0};
	bool testing = false;
	int c, rc;

	while ((c = getopt_long(argc, argv, "c:htvV", longs, NULL)) != -1)
		switch (c) {
		case 'c':
			d.file = optarg;
			break;
		case 't':
			testing = true;
			break;
		case 'v':
			d.verbose++;
			break;
		case 'V':
			print_version();
			return 0;
		case 'o':
			config_print_options(stdout);
			return 0;
		case 'h':
			print_usage(stdout);
			return 0;
		default:
			print_usage(stderr);
			return EX_USAGE;
		}
	if (optind < argc) {
		print_usage(stderr);
		return EX_USAGE;
	}
	fill_standard_descriptors();
	if (!testing)
		hold_signals();
	umask(0077);
	hash_init();
	if (!host_init())
		log_line(LOG_WARNING,
		    "no Public Suffix List: every client is its network");
	srand48(time(NULL) ^ getpid());
	d.config = config_load(d.file, &errors);
	if (d.config == NULL) {
		if (testing)
			print_errors(&errors);
		else
			log_errors(&errors);
		return testing ? 1 : EX_CONFIG;
	}
	if (testing) {
		rc = test(&d);
	} else {
		use_log(&d);
		rc = run(&d);
	}
	config_free(d.config);
	host_done();
	return rc;
}
