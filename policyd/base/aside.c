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
#include <unistd.h>

static const double SHARE = 50, RETRY_S = 30;

struct aside {
	struct ev_loop *loop;
	struct aside_job job;
	ev_timer timer;
	ev_child child;
	double started;
	double took_s; /* the last child */
	bool dirty;    /* what is on disk lacks something */
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

static void
failed(struct aside *a, int error)
{
	a->job.failed(a->job.arg, error);
	after(a, RETRY_S);
}

/*
 * The child touches nothing of the loop, and lets go of every socket at once,
 * so that a new daemon can have them should this one die meanwhile.
 */
static void
on_timer(struct ev_loop *loop, ev_timer *w, int events)
{
	struct aside *a = w->data;
	pid_t parent = getpid(), pid = fork();

	(void)events;
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(EINTR); /* it died before that was set */
		close_range(3, ~0U, 0);
		if (a->job.patient)
			setpriority(PRIO_PROCESS, 0, 19);
		_exit(a->job.write(a->job.arg) == 0 ? 0 : errno & 0xff);
	}
	if (pid == -1) {
		failed(a, errno);
		return;
	}
	a->dirty = false;
	a->started = clock_s();
	ev_child_set(&a->child, pid, 0);
	ev_child_start(loop, &a->child);
}

static void
on_child(struct ev_loop *loop, ev_child *w, int events)
{
	struct aside *a = w->data;
	bool good = WIFEXITED(w->rstatus) && WEXITSTATUS(w->rstatus) == 0;

	(void)events;
	ev_child_stop(loop, w);
	a->took_s = clock_s() - a->started;
	if (!good)
		failed(a,
		    WIFEXITED(w->rstatus) ? WEXITSTATUS(w->rstatus) : EINTR);
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

void
aside_end(struct aside *a)
{
	int status;

	if (a == NULL)
		return;
	if (ev_is_active(&a->child) &&
	    (waitpid(a->child.pid, &status, 0) == -1 || !WIFEXITED(status) ||
		WEXITSTATUS(status) != 0))
		a->dirty = true;
	if (a->dirty && a->job.write(a->job.arg) == -1)
		a->job.failed(a->job.arg, errno);
	ev_timer_stop(a->loop, &a->timer);
	ev_child_stop(a->loop, &a->child);
	free(a);
}
