#include "tables/side.h"

#include "base/mem.h"
#include "tables/follower.h"
#include "tables/line.h"
#include "tables/tables.h"

#include <stdlib.h>

struct side {
	struct tables *tables;
	const struct follower *beside;
	struct follower *follower;
	uint64_t during; /* the job of the other one that it began in */
	bool blind;      /* it cannot follow until that is over */
};

/* There is something to do while the other one reads a table whole. */
static bool
has_use(const struct side *s)
{
	return follower_is_busy(s->beside) &&
	    follower_wants_whole(s->beside) && follower_answers(s->beside);
}

static bool
is_in_time(const struct side *s)
{
	return has_use(s) && !s->blind &&
	    s->during == follower_jobs(s->beside);
}

/*
 * One transaction may have changed a table, which is too much here, and a row
 * of another: nothing is half in force, so all that follows has to wait.
 */
static void
on_too_much(void *arg)
{
	struct side *s = arg;

	s->blind = true;
}

static bool
on_may_begin(void *arg)
{
	struct side *s = arg;

	if (s->during != follower_jobs(s->beside))
		s->blind = false;
	s->during = follower_jobs(s->beside);
	s->blind = s->blind || follower_wants_whole(s->follower);
	return has_use(s) && !s->blind;
}

static void
on_read(void *arg, const struct follower_read *read)
{
	const struct side *s = arg;

	if (!is_in_time(s))
		return;
	tables_pause(s->tables);
	rounds_apply(&read->reading->rounds, s->tables);
	tables_resume(s->tables);
}

struct side *
side_new(struct ev_loop *loop, const struct config *config,
    struct tables *tables, const struct follower *beside)
{
	struct side *s = mem_zalloc(sizeof(*s));
	struct follower_handlers handlers = {
	    .read = on_read,
	    .may_begin = on_may_begin,
	    .too_much = on_too_much,
	    .arg = s,
	};

	s->tables = tables;
	s->beside = beside;
	s->follower = follower_new(loop, config, tables, beside, &handlers);
	return s;
}

void
side_free(struct side *s)
{
	if (s == NULL)
		return;
	follower_free(s->follower);
	free(s);
}

void
side_reconfigure(struct side *s, const struct config *config)
{
	follower_reconfigure(s->follower, config);
}

bool
side_follows(const struct side *s)
{
	return line_is_up(follower_line(s->follower)) && !s->blind;
}

void
side_count(const struct side *s, struct db_count *count)
{
	line_count(follower_line(s->follower), count);
}
