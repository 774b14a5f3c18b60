/*
 * polload - a closed-loop load generator for policy servers.
 *
 * N persistent connections, one request outstanding on each, as Postfix does
 * it.  All request blocks are made from template files before the clock
 * starts; while it runs, only fixed-width fields are written over.
 *
 * In a template:
 *   {rand:N}   a number below N, chosen when the block is made
 *   {seq}      the number of the block
 *   {tick}     8 hex digits that differ for every session (for `instance`)
 *   {port}     5 digits, and
 *   {ip}       10.x.y.z, that belong to the session
 *   {key}      8 letters, and
 *   {to}       8 others, and
 *   {net}      an address, that belong to the request's number
 * A session lasts for -k requests of one connection.  Requests are numbered
 * from -F, and start again there after -K of them; without -K, no number comes
 * twice.  Numbers are scattered, so that neighbours have nothing in common;
 * -P prints those of a run, one a line, and asks nobody.
 *
 * Result: one line of key=value pairs, then a line `answer COUNT TEXT` for
 * each kind of answer.  `total` counts the answers before the clock started
 * and after it stopped as well.  Exit status 1 if anything went wrong on the
 * way.
 */

#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
	BLOCK_MAX_BYTES = 16384,
	REPLY_MAX_BYTES = 2048,
	TEMPLATES_MAX = 8,
	SLOTS_MAX = 8,
	ANSWERS_MAX = 24,
	ANSWER_MAX_BYTES = 48,
	EVENTS_MAX = 256,
	/* Latencies: 32 steps to each doubling, up to 2^40 ns. */
	STEPS = 32,
	BUCKETS = 41 * STEPS,
};

#define NS         1000000000ULL
#define RUN_OUT_NS (5 * NS)

enum slot_kind { SLOT_TICK, SLOT_PORT, SLOT_IP, SLOT_KEY, SLOT_TO, SLOT_NET };

struct slot {
	enum slot_kind kind;
	uint32_t at;
};

struct block {
	char *text;
	size_t len;
	unsigned slots;
	struct slot slot[SLOTS_MAX];
};

struct conn {
	int fd;
	uint32_t session;
	unsigned left;    /* requests until the session is over */
	uint64_t sent_ns; /* 0 = nothing outstanding */
	size_t len;
	char buf[REPLY_MAX_BYTES];
};

struct answer {
	char text[ANSWER_MAX_BYTES];
	uint64_t count;
};

struct cpu {
	uint64_t run_ns;
	uint64_t user_ticks;
	uint64_t kernel_ticks;
};

struct options {
	struct sockaddr_storage peer;
	socklen_t peer_len;
	unsigned conns;
	unsigned blocks;
	unsigned per_session;
	uint32_t first; /* request */
	uint32_t round; /* requests until it comes again, 0 = never */
	bool print;
	double warmup_s;
	double seconds;
	double rate; /* requests a second over all connections, 0 = no limit */
	int pid;
	unsigned templates;
	const char *template[TEMPLATES_MAX];
};

static struct options opt = {
    .conns = 50,
    .blocks = 4096,
    .per_session = 1,
    .warmup_s = 0.5,
    .seconds = 2,
};

static struct block *blocks;
static struct conn *conns;
static unsigned *idle; /* ring of connections that wait for their turn */
static unsigned idle_head;
static unsigned idle_count;
static int epoll_fd;
static unsigned next_block;
static uint32_t next_session;
static uint32_t next_request;
static uint64_t random_state = 88172645463325252ULL;

static uint64_t done;
static uint64_t total; /* the same, and those that are not counted */
static bool counting;
static uint64_t errors;
static uint64_t worst_ns;
static uint64_t latency[BUCKETS];
static struct answer answers[ANSWERS_MAX];

static void
die(const char *what)
{
	fprintf(stderr, "polload: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void *
must(void *p)
{
	if (p == NULL)
		die("malloc");
	return p;
}

static uint64_t
now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS + (uint64_t)ts.tv_nsec;
}

static uint64_t
random_below(uint64_t n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return n == 0 ? 0 : random_state % n;
}

/* ---- latencies ---- */

static unsigned
bucket_of(uint64_t ns)
{
	unsigned msb;

	if (ns < STEPS)
		return (unsigned)ns;
	msb = 63U - (unsigned)__builtin_clzll(ns);
	if (msb > 40)
		return BUCKETS - 1;
	return (msb - 4) * STEPS + (unsigned)((ns >> (msb - 5)) & (STEPS - 1));
}

static uint64_t
bucket_ns(unsigned b)
{
	unsigned msb = b / STEPS + 4;

	if (b < STEPS)
		return b;
	return (1ULL << msb) + ((uint64_t)(b % STEPS) << (msb - 5));
}

static double
quantile_us(double q)
{
	uint64_t want = (uint64_t)((double)done * q);
	uint64_t seen = 0;

	for (unsigned b = 0; b < BUCKETS; b++) {
		seen += latency[b];
		if (seen > want)
			return (double)bucket_ns(b) / 1000;
	}
	return 0;
}

/* ---- what the server costs ---- */

static void
cpu_add_thread(const char *dir, const char *tid, struct cpu *cpu)
{
	char path[300];
	char line[1024];
	const char *p;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s/schedstat", dir, tid);
	f = fopen(path, "r");
	if (f != NULL) {
		if (fgets(line, sizeof(line), f) != NULL)
			cpu->run_ns += strtoull(line, NULL, 10);
		fclose(f);
	}
	snprintf(path, sizeof(path), "%s/%s/stat", dir, tid);
	f = fopen(path, "r");
	if (f == NULL)
		return;
	/*
	 * The name in brackets may hold blanks: count from behind it.  Then the
	 * state is field 0, and what we want are fields 11 and 12.
	 */
	if (fgets(line, sizeof(line), f) != NULL &&
	    (p = strrchr(line, ')')) != NULL) {
		for (int i = 0; i < 12 && p != NULL; i++)
			p = strchr(p + 1, ' ');
		if (p != NULL) {
			char *end;

			cpu->user_ticks += strtoull(p, &end, 10);
			cpu->kernel_ticks += strtoull(end, NULL, 10);
		}
	}
	fclose(f);
}

static struct cpu
cpu_of(int pid)
{
	struct cpu cpu = {0};
	char dir[64];
	struct dirent *e;
	DIR *d;

	if (pid == 0)
		return cpu;
	snprintf(dir, sizeof(dir), "/proc/%d/task", pid);
	d = opendir(dir);
	if (d == NULL)
		die(dir);
	while ((e = readdir(d)) != NULL)
		if (e->d_name[0] != '.')
			cpu_add_thread(dir, e->d_name, &cpu);
	closedir(d);
	return cpu;
}

/* ---- request blocks ---- */

static char *
read_file(const char *path)
{
	FILE *f = fopen(path, "r");
	char *text;
	size_t n;

	if (f == NULL)
		die(path);
	text = must(calloc(1, BLOCK_MAX_BYTES + 1));
	n = fread(text, 1, BLOCK_MAX_BYTES, f);
	fclose(f);
	/* Exactly one blank line at the end, however the file ends. */
	while (n > 0 && text[n - 1] == '\n')
		n--;
	if (n == 0 || n > BLOCK_MAX_BYTES - 2) {
		fprintf(stderr, "polload: %s: empty or too long\n", path);
		exit(1);
	}
	memcpy(text + n, "\n\n", 3);
	return text;
}

static void
block_slot(struct block *b, enum slot_kind kind, size_t at)
{
	if (b->slots == SLOTS_MAX) {
		fputs("polload: too many fields in a template\n", stderr);
		exit(1);
	}
	b->slot[b->slots].kind = kind;
	b->slot[b->slots].at = (uint32_t)at;
	b->slots++;
}

/*
 * Write what the placeholder at p stands for to out; returns the length of
 * the placeholder, or 0 if this is none.
 */
static size_t
expand(struct block *b, const char *p, unsigned seq, char *out, size_t at,
    size_t cap)
{
	if (strncmp(p, "{seq}", 5) == 0) {
		snprintf(out + at, cap, "%u", seq);
		return 5;
	}
	if (strncmp(p, "{rand:", 6) == 0) {
		char *end;
		uint64_t n = strtoull(p + 6, &end, 10);

		snprintf(out + at, cap, "%" PRIu64, random_below(n));
		return *end == '}' ? (size_t)(end - p) + 1 : 0;
	}
	if (strncmp(p, "{tick}", 6) == 0) {
		block_slot(b, SLOT_TICK, at);
		snprintf(out + at, cap, "00000000");
		return 6;
	}
	if (strncmp(p, "{port}", 6) == 0) {
		block_slot(b, SLOT_PORT, at);
		snprintf(out + at, cap, "10000");
		return 6;
	}
	if (strncmp(p, "{ip}", 4) == 0) {
		block_slot(b, SLOT_IP, at);
		snprintf(out + at, cap, "10.100.100.100");
		return 4;
	}
	if (strncmp(p, "{key}", 5) == 0) {
		block_slot(b, SLOT_KEY, at);
		snprintf(out + at, cap, "gggggggg");
		return 5;
	}
	if (strncmp(p, "{to}", 4) == 0) {
		block_slot(b, SLOT_TO, at);
		snprintf(out + at, cap, "gggggggg");
		return 4;
	}
	if (strncmp(p, "{net}", 5) == 0) {
		block_slot(b, SLOT_NET, at);
		snprintf(out + at, cap, "130.100.100.100");
		return 5;
	}
	return 0;
}

static void
block_make(struct block *b, const char *template, unsigned seq)
{
	static char out[BLOCK_MAX_BYTES * 2];
	size_t len = 0;

	b->slots = 0;
	for (const char *p = template; *p != '\0';) {
		size_t skip =
		    *p == '{' ? expand(b, p, seq, out, len, sizeof(out) - len)
			      : 0;

		if (skip > 0) {
			p += skip;
			len += strlen(out + len);
		} else {
			out[len++] = *p++;
			out[len] = '\0';
		}
	}
	b->text = must(malloc(len + 1));
	memcpy(b->text, out, len);
	b->len = len;
}

static void
blocks_make(void)
{
	char *text[TEMPLATES_MAX] = {NULL};

	for (unsigned i = 0; i < opt.templates; i++)
		text[i] = read_file(opt.template[i]);
	blocks = must(calloc(opt.blocks, sizeof(*blocks)));
	for (unsigned i = 0; i < opt.blocks; i++)
		block_make(&blocks[i], text[i % opt.templates], i);
	for (unsigned i = 0; i < opt.templates; i++)
		free(text[i]);
}

static void
digits(char *p, uint32_t v, unsigned n)
{
	while (n-- > 0) {
		p[n] = (char)('0' + v % 10);
		v /= 10;
	}
}

/* No digits and nothing hexadecimal: who folds senders leaves these alone. */
static void
letters(char *p, uint32_t v)
{
	for (unsigned i = 0; i < 8; i++)
		p[i] = "ghjkmnpqrstvwxyz"[(v >> (28 - 4 * i)) & 15];
}

/* Three digits in each place, none with a zero in front. */
static void
net(char *p, uint32_t v)
{
	digits(p, 130 + v / (156 * 156) % 90, 3);
	digits(p + 4, 100 + v / 156 % 156, 3);
	digits(p + 8, 100 + v % 156, 3);
	digits(p + 12, 100 + v % 100, 3);
}

/* One to one, as the factor is odd. */
static uint32_t
scatter(uint32_t request)
{
	return request * 2654435761U;
}

static uint32_t
scatter_again(uint32_t request)
{
	return request * 2246822519U;
}

static void
block_patch(struct block *b, uint32_t session, uint32_t request)
{
	static const char hex[] = "0123456789abcdef";

	for (unsigned i = 0; i < b->slots; i++) {
		char *p = b->text + b->slot[i].at;

		switch (b->slot[i].kind) {
		case SLOT_TICK:
			for (unsigned k = 0; k < 8; k++)
				p[k] = hex[(session >> (28 - 4 * k)) & 15];
			break;
		case SLOT_PORT:
			digits(p, 10000 + session % 50000, 5);
			break;
		case SLOT_IP:
			digits(p + 3, 100 + session / 10000 % 100, 3);
			digits(p + 7, 100 + session / 100 % 100, 3);
			digits(p + 11, 100 + session % 100, 3);
			break;
		case SLOT_KEY:
			letters(p, scatter(request));
			break;
		case SLOT_TO:
			letters(p, scatter_again(request));
			break;
		case SLOT_NET:
			net(p, scatter(request));
			break;
		}
	}
}

/* The numbers of a run, as they stand in the requests. */
static void
print_requests(void)
{
	for (uint32_t i = 0; i < opt.round; i++) {
		char key[9] = "";
		char to[9] = "";
		char from[16] = "130.100.100.100";

		letters(key, scatter(opt.first + i));
		letters(to, scatter_again(opt.first + i));
		net(from, scatter(opt.first + i));
		printf("%s %s %s\n", from, key, to);
	}
}

/* ---- connections ---- */

static bool
conn_open(struct conn *c)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
	int one = 1;

	c->fd = socket(opt.peer.ss_family, SOCK_STREAM, 0);
	if (c->fd == -1)
		die("socket");
	if (connect(c->fd, (struct sockaddr *)&opt.peer, opt.peer_len) == -1) {
		close(c->fd);
		c->fd = -1;
		return false;
	}
	/* Fails on a unix socket, which has no need of it. */
	(void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	c->len = 0;
	c->sent_ns = 0;
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &ev) == -1)
		die("epoll_ctl");
	return true;
}

static void
conn_idle(const struct conn *c)
{
	idle[(idle_head + idle_count) % opt.conns] = (unsigned)(c - conns);
	idle_count++;
}

/* Start again after a failure; a server that stays away ends the run. */
static void
conn_fail(struct conn *c)
{
	errors++;
	if (errors > 100000) {
		fputs("polload: too many errors\n", stderr);
		exit(1);
	}
	if (c->fd != -1)
		close(c->fd);
	for (unsigned tries = 0; !conn_open(c); tries++) {
		if (tries == 500)
			die("connect");
		usleep(10000);
	}
}

static void
conn_send(struct conn *c)
{
	struct block *b = &blocks[next_block];

	if (++next_block == opt.blocks)
		next_block = 0;
	if (c->left == 0) {
		c->session = next_session++;
		c->left = opt.per_session;
	}
	c->left--;
	block_patch(b, c->session, next_request++);
	if (opt.round > 0 && next_request == opt.first + opt.round)
		next_request = opt.first;
	c->len = 0;
	c->sent_ns = now_ns();
	while (send(c->fd, b->text, b->len, MSG_NOSIGNAL) != (ssize_t)b->len) {
		conn_fail(c);
		c->sent_ns = now_ns();
	}
}

static void
answer_count(const char *text, size_t len)
{
	unsigned blanks = 0;
	size_t n = 0;

	/* The code and the enhanced code, or the keyword, tell them apart. */
	while (n < len && n < ANSWER_MAX_BYTES - 1) {
		if (text[n] == ' ' && ++blanks == 2)
			break;
		n++;
	}
	for (unsigned i = 0; i < ANSWERS_MAX; i++) {
		struct answer *a = &answers[i];

		if (a->count == 0) {
			memcpy(a->text, text, n);
			a->text[n] = '\0';
		} else if (strncmp(a->text, text, n) != 0 || a->text[n] != '\0')
			continue;
		a->count++;
		return;
	}
}

static void
conn_readable(struct conn *c)
{
	ssize_t n =
	    recv(c->fd, c->buf + c->len, sizeof(c->buf) - c->len, MSG_DONTWAIT);
	uint64_t took;

	if (n == -1 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		conn_fail(c);
		conn_idle(c);
		return;
	}
	c->len += (size_t)n;
	if (c->len < 2 || memcmp(c->buf + c->len - 2, "\n\n", 2) != 0) {
		if (c->len == sizeof(c->buf)) {
			conn_fail(c);
			conn_idle(c);
		}
		return;
	}
	if (c->sent_ns == 0 || c->len < 10 ||
	    memcmp(c->buf, "action=", 7) != 0 ||
	    memchr(c->buf, '\n', c->len - 2) != NULL) {
		conn_fail(c);
		conn_idle(c);
		return;
	}
	took = now_ns() - c->sent_ns;
	c->sent_ns = 0;
	total++;
	if (counting) {
		latency[bucket_of(took)]++;
		if (took > worst_ns)
			worst_ns = took;
		done++;
		answer_count(c->buf + 7, c->len - 9);
	}
	conn_idle(c);
}

/* ---- the run ---- */

/* Send what is due; returns the time of the next, or 0 if none waits. */
static uint64_t
send_due(uint64_t *due_ns)
{
	uint64_t step = opt.rate > 0 ? (uint64_t)((double)NS / opt.rate) : 0;

	while (idle_count > 0) {
		struct conn *c = &conns[idle[idle_head]];

		if (step > 0) {
			uint64_t now = now_ns();

			if (now < *due_ns)
				return *due_ns;
			/* What could not be sent in time is not made up for. */
			*due_ns = *due_ns + step < now ? now : *due_ns + step;
		}
		idle_head = (idle_head + 1) % opt.conns;
		idle_count--;
		conn_send(c);
	}
	return 0;
}

static void
run_until(uint64_t end_ns, uint64_t *due_ns)
{
	struct epoll_event ev[EVENTS_MAX];

	for (;;) {
		uint64_t wake = send_due(due_ns);
		uint64_t now = now_ns();
		struct timespec ts;
		int n;

		if (now >= end_ns)
			return;
		if (wake == 0 || wake > end_ns)
			wake = end_ns;
		wake = wake > now ? wake - now : 0;
		ts.tv_sec = (time_t)(wake / NS);
		ts.tv_nsec = (long)(wake % NS);
		n = epoll_pwait2(epoll_fd, ev, EVENTS_MAX, &ts, NULL);
		if (n == -1 && errno != EINTR)
			die("epoll_pwait2");
		for (int i = 0; i < n; i++)
			conn_readable(ev[i].data.ptr);
	}
}

/* Nothing more is sent, and what is out is waited for. */
static void
run_out(uint64_t end_ns)
{
	struct epoll_event ev[EVENTS_MAX];

	while (idle_count < opt.conns && now_ns() < end_ns) {
		int n = epoll_wait(epoll_fd, ev, EVENTS_MAX, 10);

		for (int i = 0; i < n; i++)
			conn_readable(ev[i].data.ptr);
	}
}

/* How long the oldest request has been out. */
static uint64_t
oldest_ns(void)
{
	uint64_t now = now_ns();
	uint64_t oldest = 0;

	for (unsigned i = 0; i < opt.conns; i++)
		if (conns[i].sent_ns != 0 && now - conns[i].sent_ns > oldest)
			oldest = now - conns[i].sent_ns;
	return oldest;
}

static void
counters_reset(void)
{
	done = 0;
	errors = 0;
	worst_ns = 0;
	memset(latency, 0, sizeof(latency));
	memset(answers, 0, sizeof(answers));
}

static double
cpu_self_us(void)
{
	struct rusage ru;

	getrusage(RUSAGE_SELF, &ru);
	return (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * 1e6 +
	       (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec);
}

static void
report(double elapsed_s, const struct cpu *a, const struct cpu *b,
    double self_us, uint64_t oldest)
{
	double n = done > 0 ? (double)done : 1;
	double tick_us = 1e6 / (double)sysconf(_SC_CLK_TCK);

	printf("connections=%u seconds=%.3f requests=%" PRIu64 " rate=%.0f "
	       "p50_us=%.1f p99_us=%.1f max_us=%.1f oldest_us=%.1f "
	       "errors=%" PRIu64 " loader_us=%.3f total=%" PRIu64 " left=%u",
	    opt.conns, elapsed_s, done, (double)done / elapsed_s,
	    quantile_us(0.5), quantile_us(0.99), (double)worst_ns / 1000,
	    (double)oldest / 1000, errors, self_us / n, total,
	    opt.conns - idle_count);
	if (opt.pid != 0)
		printf(" cpu_us=%.3f user_us=%.3f kernel_us=%.3f busy=%.2f",
		    (double)(b->run_ns - a->run_ns) / 1000 / n,
		    (double)(b->user_ticks - a->user_ticks) * tick_us / n,
		    (double)(b->kernel_ticks - a->kernel_ticks) * tick_us / n,
		    (double)(b->run_ns - a->run_ns) / 1e9 / elapsed_s);
	putchar('\n');
	for (unsigned i = 0; i < ANSWERS_MAX && answers[i].count > 0; i++)
		printf("answer %" PRIu64 " %s\n", answers[i].count,
		    answers[i].text);
}

/* ---- options ---- */

static void
peer_parse(const char *where)
{
	struct addrinfo hint = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *ai;
	char host[256];
	const char *colon = strrchr(where, ':');

	if (strncmp(where, "unix:", 5) == 0) {
		struct sockaddr_un sa = {.sun_family = AF_UNIX};

		if (strlen(where + 5) >= sizeof(sa.sun_path)) {
			errno = ENAMETOOLONG;
			die(where);
		}
		memcpy(sa.sun_path, where + 5, strlen(where + 5) + 1);
		memcpy(&opt.peer, &sa, sizeof(sa));
		opt.peer_len = sizeof(sa);
		return;
	}
	if (strncmp(where, "inet:", 5) == 0 && colon > where + 5 &&
	    (size_t)(colon - where - 5) < sizeof(host)) {
		memcpy(host, where + 5, (size_t)(colon - where - 5));
		host[colon - where - 5] = '\0';
		if (getaddrinfo(host, colon + 1, &hint, &ai) == 0) {
			memcpy(&opt.peer, ai->ai_addr, ai->ai_addrlen);
			opt.peer_len = ai->ai_addrlen;
			freeaddrinfo(ai);
			return;
		}
	}
	fprintf(stderr, "polload: no such address: %s\n", where);
	exit(2);
}

static void
usage(void)
{
	fputs("usage: polload -s unix:PATH|inet:HOST:PORT -r TEMPLATE...\n"
	      "  [-c CONNECTIONS] [-n BLOCKS] [-k REQUESTS-A-SESSION]\n"
	      "  [-w WARMUP-SECONDS] [-d SECONDS] [-R RATE] [-p PID]"
	      " [-S SESSION]\n"
	      "  [-F FIRST-REQUEST] [-K REQUESTS]\n"
	      "   or: polload -P [-F FIRST-REQUEST] -K REQUESTS\n",
	    stderr);
	exit(2);
}

static unsigned
count_parse(const char *s)
{
	char *end;
	unsigned long v = strtoul(s, &end, 10);

	if (end == s || *end != '\0' || v == 0 || v > 10000000)
		usage();
	return (unsigned)v;
}

static void
options_parse(int argc, char **argv)
{
	int c;

	while ((c = getopt(argc, argv, "s:r:c:n:k:w:d:R:p:S:F:K:P")) != -1) {
		switch (c) {
		case 's':
			peer_parse(optarg);
			break;
		case 'r':
			if (opt.templates == TEMPLATES_MAX)
				usage();
			opt.template[opt.templates++] = optarg;
			break;
		case 'c':
			opt.conns = count_parse(optarg);
			break;
		case 'n':
			opt.blocks = count_parse(optarg);
			break;
		case 'k':
			opt.per_session = count_parse(optarg);
			break;
		case 'w':
			opt.warmup_s = strtod(optarg, NULL);
			break;
		case 'd':
			opt.seconds = strtod(optarg, NULL);
			break;
		case 'R':
			opt.rate = strtod(optarg, NULL);
			break;
		case 'p':
			opt.pid = (int)count_parse(optarg);
			break;
		case 'S':
			next_session = count_parse(optarg);
			break;
		case 'F':
			opt.first = (uint32_t)strtoul(optarg, NULL, 10);
			break;
		case 'K':
			opt.round = count_parse(optarg);
			break;
		case 'P':
			opt.print = true;
			break;
		default:
			usage();
		}
	}
	if (opt.print && opt.round > 0 && optind == argc) {
		print_requests();
		exit(0);
	}
	if (opt.peer_len == 0 || opt.templates == 0 || optind != argc)
		usage();
	next_request = opt.first;
}

int
main(int argc, char **argv)
{
	struct cpu before;
	struct cpu after;
	uint64_t start;
	uint64_t due;
	uint64_t ended;
	double self_us;
	uint64_t oldest;

	options_parse(argc, argv);
	(void)signal(SIGPIPE, SIG_IGN);
	blocks_make();
	conns = must(calloc(opt.conns, sizeof(*conns)));
	idle = must(calloc(opt.conns, sizeof(*idle)));
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_fd == -1)
		die("epoll_create1");
	for (unsigned i = 0; i < opt.conns; i++) {
		if (!conn_open(&conns[i]))
			die("connect");
		conn_idle(&conns[i]);
	}

	due = now_ns();
	run_until(due + (uint64_t)(opt.warmup_s * (double)NS), &due);
	counters_reset();
	counting = true;
	before = cpu_of(opt.pid);
	self_us = cpu_self_us();
	start = now_ns();
	run_until(start + (uint64_t)(opt.seconds * (double)NS), &due);
	ended = now_ns();
	counting = false;
	self_us = cpu_self_us() - self_us;
	after = cpu_of(opt.pid);
	oldest = oldest_ns();
	run_out(ended + RUN_OUT_NS);
	report((double)(ended - start) / (double)NS, &before, &after, self_us,
	    oldest);
	return errors == 0 ? 0 : 1;
}
