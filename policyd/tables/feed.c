#include "tables/feed.h"

#include "base/aside.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "config/config.h"
#include "tables/copy.h"
#include "tables/directory.h"
#include "tables/follower.h"
#include "tables/line.h"
#include "tables/list.h"
#include "tables/rule.h"
#include "tables/side.h"
#include "tables/tables.h"

#include <errno.h>
#include <ev.h>
#include <stdlib.h>
#include <unistd.h>

/* How soon the copy has a change: a large one takes a while. */
static const double COPY_LEAST_S = 1, COPY_MOST_S = 3600;
/* No start waits longer than this where there is a copy to serve from. */
static const double START_MAX_S = 15;

struct feed {
	struct ev_loop *loop;
	const struct config *config;
	struct tables *tables;
	struct follower *follower;
	struct side *side; /* follows changes while that one reads all */
	struct aside *copy; /* writes it */
	void (*settled)(void *arg); /* NULL once it was called */
	void *arg;
	ev_timer refresh;
	ev_timer start;
	struct feed_status status;
};

/* ---- the copy on disk ---- */

static int
write_copy(void *arg)
{
	const struct feed *f = arg;
	char *path = copy_path(f->config->policyd.state_dir);
	int rc = copy_save(f->tables, path, f->tables->origin);
	int error = errno;

	free(path);
	errno = error;
	return rc;
}

/* The disk may be full, or not ours. */
static void
copy_failed(void *arg, int error)
{
	const struct feed *f = arg;
	struct log_entry e;

	log_begin(&e, LOG_ERR, "the copy of the tables cannot be written");
	log_str(&e, "state_dir", str_of(f->config->policyd.state_dir));
	log_str(&e, "error", str_of(strerror(error)));
	log_end(&e);
}

static void
load_copy(struct feed *f)
{
	char *path = copy_path(f->config->policyd.state_dir);
	const char *why;
	struct log_entry e;

	if (copy_load(f->tables, path, source_origin(f->config), &why) == 0) {
		f->status.from_copy = true;
		f->tables->origin = source_origin(f->config);
		log_begin(&e, LOG_NOTICE, "serving from the copy of the tables");
	} else {
		log_begin(&e, LOG_WARNING,
		    "no copy of the tables to serve from");
		log_str(&e, "error", str_of(why));
	}
	log_str(&e, "file", str_of(path));
	log_end(&e);
	free(path);
}

/* ---- being ready ---- */

static void
settle(struct feed *f)
{
	void (*settled)(void *arg) = f->settled;

	f->settled = NULL;
	ev_timer_stop(f->loop, &f->start);
	if (settled != NULL)
		settled(f->arg);
}

/* PostgreSQL is not to be had: begin with the copy, if that is the first. */
static void
settle_without(struct feed *f)
{
	if (f->settled == NULL)
		return;
	if (!directory_ready(f->tables->directory))
		load_copy(f);
	settle(f);
}

/* ---- what was read ---- */

static void
log_read(const struct feed *f, double seconds, int left_out)
{
	const struct directory *d = f->tables->directory;
	struct log_entry e;

	log_begin(&e, LOG_INFO, "tables read");
	log_int(&e, "domains", (int64_t)directory_count(d, DIRECTORY_DOMAIN));
	log_int(&e, "domain_aliases",
	    (int64_t)directory_count(d, DIRECTORY_DOMAIN_ALIAS));
	log_int(&e, "addresses",
	    (int64_t)directory_count(d, DIRECTORY_ADDRESS));
	log_int(&e, "aliases", (int64_t)directory_count(d, DIRECTORY_ALIAS));
	log_int(&e, "list_entries", (int64_t)lists_count(f->tables->lists));
	log_int(&e, "rules", (int64_t)rules_count(f->tables->rules));
	log_int(&e, "bytes",
	    (int64_t)(directory_bytes(d) + lists_bytes(f->tables->lists)));
	log_real(&e, "seconds", seconds);
	if (left_out > 0)
		log_int(&e, "left_out", left_out);
	log_end(&e);
}

/* Everything is as PostgreSQL has it. */
static void
complete(struct feed *f)
{
	f->status.reads++;
	f->status.read_at = ev_now(f->loop);
	f->status.from_copy = false;
	f->tables->origin = source_origin(f->config);
}

static void
on_read(void *arg, const struct follower_read *read)
{
	struct feed *f = arg;
	const struct rounds *rounds = &read->reading->rounds;
	bool whole = rounds_any_whole(rounds);
	int left_out = rounds_apply(rounds, f->tables);

	f->status.changes += rounds_changes(rounds);
	if (whole)
		log_read(f, clock_s() - read->began,
		    read->reading->left_out + left_out);
	if (read->complete)
		complete(f);
	aside_soon(f->copy);
	if (!whole && !follower_is_behind(f->follower) &&
	    tables_wasteful(f->tables))
		follower_want_all(f->follower);
	settle(f);
}

/* What a lost connection missed is read when it is back. */
static void
on_listening(void *arg)
{
	const struct feed *f = arg;

	follower_want_all(f->follower);
}

static void
on_down(void *arg)
{
	settle_without(arg);
}

static bool
on_can_wait(void *arg)
{
	const struct feed *f = arg;

	return side_follows(f->side);
}

/* ---- timers ---- */

static void
on_refresh(struct ev_loop *loop, ev_timer *w, int events)
{
	const struct feed *f = w->data;

	(void)loop;
	(void)events;
	if (!line_is_listening(follower_line(f->follower)))
		return; /* all is read anyway once it is up */
	if (follower_is_busy(f->follower) && follower_is_behind(f->follower))
		return; /* it is being read */
	follower_want_all(f->follower);
}

static void
on_start_deadline(struct ev_loop *loop, ev_timer *w, int events)
{
	struct feed *f = w->data;
	char *path = copy_path(f->config->policyd.state_dir);

	(void)loop;
	(void)events;
	/* Without a copy there is nothing better to do than to read on. */
	if (access(path, R_OK) != 0)
		settle(f);
	else if (!line_drop(follower_line(f->follower),
		     "the first read takes too long"))
		settle_without(f);
	free(path);
}

static void
start_refresh(struct feed *f)
{
	ev_timer_stop(f->loop, &f->refresh);
	ev_timer_set(&f->refresh, f->config->lookup.refresh_s,
	    f->config->lookup.refresh_s);
	ev_timer_start(f->loop, &f->refresh);
}

/* ---- life ---- */

struct feed *
feed_new(struct ev_loop *loop, const struct config *config,
    struct tables *tables, void (*settled)(void *arg), void *arg)
{
	struct feed *f = mem_zalloc(sizeof(*f));
	struct follower_handlers handlers = {
	    .read = on_read,
	    .listening = on_listening,
	    .down = on_down,
	    .can_wait = on_can_wait,
	    .arg = f,
	};

	f->loop = loop;
	f->config = config;
	f->tables = tables;
	f->settled = settled;
	f->arg = arg;
	f->follower = follower_new(loop, config, tables, NULL, &handlers);
	f->side = side_new(loop, config, tables, f->follower);
	f->copy = aside_new(loop,
	    &(struct aside_job){write_copy, copy_failed, f, COPY_LEAST_S,
		COPY_MOST_S, .patient = true});
	ev_timer_init(&f->refresh, on_refresh, 0, 0);
	ev_timer_init(&f->start, on_start_deadline, START_MAX_S, 0);
	f->refresh.data = f->start.data = f;
	start_refresh(f);
	ev_timer_start(loop, &f->start);
	return f;
}

void
feed_free(struct feed *f)
{
	if (f == NULL)
		return;
	side_free(f->side);
	follower_free(f->follower);
	aside_end(f->copy);
	ev_timer_stop(f->loop, &f->refresh);
	ev_timer_stop(f->loop, &f->start);
	free(f);
}

void
feed_reconfigure(struct feed *f, const struct config *config)
{
	const char *old_dir = f->config->policyd.state_dir;

	if (strcmp(old_dir, config->policyd.state_dir) != 0 &&
	    directory_ready(f->tables->directory))
		aside_soon(f->copy);
	f->config = config;
	directory_set_fold(f->tables->directory, config->rcpt.fold_local_part);
	start_refresh(f);
	follower_reconfigure(f->follower, config);
	side_reconfigure(f->side, config);
}

struct feed_status
feed_status(const struct feed *f)
{
	const struct line *line = follower_line(f->follower);
	struct feed_status status = f->status;

	status.connected = line_is_up(line);
	line_count(line, &status.db);
	side_count(f->side, &status.db);
	status.copy_failed = aside_has_failed(f->copy);
	return status;
}
