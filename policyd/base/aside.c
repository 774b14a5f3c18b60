#include "base/aside.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <ev.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const double SHARE = 50, RETRY_S = 30;

/* At the end: where nobody said when that is, and where there is no time left. */
static const double END_S = 5, END_LEAST_S = 0.1;
static double end_by; /* clock_s(), or 0 */

struct aside {
	struct ev_loop *loop;
	struct aside_job job;
	ev_timer timer;
	ev_child child;
	double started;
	double took_s; /* the last child */
	bool dirty;    /* what is on disk lacks something */
	bool failed;   /* the last child */
};

static void
after(struct aside *a, double s)
{
	a->dirty = true;
	if (ev_is_active(&a->timer) || ev_is_active(&a->child))
		return;
	ev_timer_set(&a->timer, s, 0);
	ev_timer_start(a->loop, &a->timer);
}

void
aside_soon(struct aside *a)
{
	double s = a->took_s * SHARE;

	if (s < a->job.least_s)
		s = a->job.least_s;
	else if (s > a->job.most_s)
		s = a->job.most_s;
	after(a, s);
}

void
aside_forget(struct aside *a)
{
	a->dirty = false;
	ev_timer_stop(a->loop, &a->timer);
}

bool
aside_is_busy(struct aside *a)
{
	return ev_is_active(&a->child);
}

bool
aside_has_failed(const struct aside *a)
{
	return a != NULL && a->failed;
}

static void
failed(struct aside *a, int error)
{
	a->failed = true;
	a->job.failed(a->job.arg, error);
	after(a, RETRY_S);
}

/*
 * The child touches nothing of the loop, and lets go of every socket at once,
 * so that a new daemon can have them should this one die meanwhile.
 */
static pid_t
start_child(const struct aside *a, bool patient)
{
	pid_t parent = getpid(), pid = fork();

	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(EINTR); /* it died before that was set */
	close_range(3, ~0U, 0);
	if (patient)
		setpriority(PRIO_PROCESS, 0, 19);
	_exit(a->job.write(a->job.arg) == 0 ? 0 : errno & 0xff);
}

static void
on_timer(struct ev_loop *loop, ev_timer *w, int events)
{
	struct aside *a = w->data;
	pid_t pid = start_child(a, a->job.patient);

	(void)events;
	if (pid == -1) {
		failed(a, errno);
		return;
	}
	a->dirty = false;
	a->started = clock_s();
	ev_child_set(&a->child, pid, 0);
	ev_child_start(loop, &a->child);
}

/* 0, or why it did not do it. */
static int
error_of(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}

static void
on_child(struct ev_loop *loop, ev_child *w, int events)
{
	struct aside *a = w->data;
	int error = error_of(w->rstatus);

	(void)events;
	ev_child_stop(loop, w);
	a->took_s = clock_s() - a->started;
	a->failed = false;
	if (error != 0)
		failed(a, error);
	else if (a->dirty)
		aside_soon(a);
}

struct aside *
aside_new(struct ev_loop *loop, const struct aside_job *job)
{
	struct aside *a = mem_zalloc(sizeof(*a));

	a->loop = loop;
	a->job = *job;
	ev_timer_init(&a->timer, on_timer, 0, 0);
	ev_child_init(&a->child, on_child, 0, 0);
	a->timer.data = a->child.data = a;
	return a;
}

/* ---- the end ---- */

void
aside_end_within(double s)
{
	end_by = clock_s() + s;
}

/* Wait for it until then, and no longer: 0, or an errno. */
static int
wait_until(pid_t pid, double until)
{
	static const struct timespec pause = {0, 2000000};
	pid_t got;
	int status;

	while ((got = waitpid(pid, &status, WNOHANG)) == 0 &&
	    clock_s() < until)
		nanosleep(&pause, NULL);
	if (got == pid)
		return error_of(status);
	kill(pid, SIGKILL);
	return ETIMEDOUT;
}

static int
write_until(struct aside *a, double until)
{
	pid_t pid = start_child(a, false);

	if (pid != -1)
		return wait_until(pid, until);
	return a->job.write(a->job.arg) == 0 ? 0 : errno;
}

/* What a child has begun is not all, or it lets others go first: begin anew. */
void
aside_end(struct aside *a)
{
	double now = clock_s(), until = end_by > 0 ? end_by : now + END_S;
	int error;

	if (a == NULL)
		return;
	if (until < now + END_LEAST_S)
		until = now + END_LEAST_S;
	if (ev_is_active(&a->child)) {
		kill(a->child.pid, SIGKILL);
		wait_until(a->child.pid, until);
		a->dirty = true;
	}
	if (a->dirty && (error = write_until(a, until)) != 0)
		a->job.failed(a->job.arg, error);
	ev_timer_stop(a->loop, &a->timer);
	ev_child_stop(a->loop, &a->child);
	free(a);
}
