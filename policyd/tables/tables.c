#include "tables/tables.h"

#include "tables/directory.h"
#include "tables/list.h"
#include "tables/rule.h"

void
tables_init(struct tables *t, bool fold_local_part)
{
	t->directory = directory_new(fold_local_part);
	t->lists = lists_new();
	t->rules = rules_new(t->lists);
	t->origin = 0;
}

void
tables_fini(struct tables *t)
{
	rules_free(t->rules);
	lists_free(t->lists);
	directory_free(t->directory);
}

void
tables_swap(struct tables *t)
{
	directory_swap(t->directory);
	lists_swap(t->lists);
	rules_swap(t->rules);
}

void
tables_abandon(struct tables *t)
{
	directory_abandon(t->directory);
	lists_abandon(t->lists);
	rules_abandon(t->rules);
}

void
tables_pause(struct tables *t)
{
	directory_pause(t->directory);
	lists_pause(t->lists);
	rules_pause(t->rules);
}

void
tables_resume(struct tables *t)
{
	directory_resume(t->directory);
	lists_resume(t->lists);
	rules_resume(t->rules);
}

bool
tables_wasteful(const struct tables *t)
{
	return directory_wasteful(t->directory) || lists_wasteful(t->lists);
}
