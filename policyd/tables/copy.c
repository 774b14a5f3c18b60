#include "tables/copy.h"

#include "base/mem.h"
#include "base/sealed.h"
#include "tables/directory.h"
#include "tables/list.h"
#include "tables/rule.h"
#include "tables/strtab.h"
#include "tables/tables.h"


/* Raise it with every change of what stands in the file. */
#define FORMAT 2

static struct seal
seal(uint64_t origin)
{
	return (struct seal){"policyd", FORMAT, origin,
	    "it is no copy of the tables"};
}

/* For each part: its count, and so often two lengths, key and value. */
struct lengths {
	uint32_t key;
	uint32_t value;
};

char *
copy_path(const char *state_dir)
{
	return mem_printf("%s/tables.copy", state_dir);
}

static void
put_part(struct sealed *s, const struct strtab *t)
{
	uint64_t count = strtab_count(t), cursor = 0;
	struct str key, value;

	sealed_put(s, &count, sizeof(count));
	while (strtab_next(t, &cursor, &key, &value)) {
		struct lengths n = {(uint32_t)key.n, (uint32_t)value.n};

		sealed_put(s, &n, sizeof(n));
		sealed_put(s, key.p, key.n);
		sealed_put(s, value.p, value.n);
	}
}

/* Within each: what the others refer to comes first. */
static void
put_all(struct sealed *s, const void *arg)
{
	const struct tables *t = arg;
	struct strtab *rules = rules_part(t->rules);

	for (int part = DIRECTORY_PARTS - 1; part >= 0; part--)
		put_part(s, directory_part(t->directory, part));
	for (int part = LISTS_PARTS - 1; part >= 0; part--)
		put_part(s, lists_part(t->lists, part));
	put_part(s, rules);
	strtab_free(rules);
}

int
copy_save(const struct tables *t, const char *path, uint64_t origin)
{
	const struct seal s = seal(origin);

	return sealed_save(path, &s, put_all, t);
}

/* ---- reading ---- */

/* The parts in the order in which they were put, counted from 0. */
enum { PARTS = DIRECTORY_PARTS + LISTS_PARTS + 1 };

static bool
restore(struct tables *t, int i, struct str key, struct str value)
{
	if (i < DIRECTORY_PARTS)
		return directory_restore(t->directory, DIRECTORY_PARTS - 1 - i,
		    key, value);
	i -= DIRECTORY_PARTS;
	if (i < LISTS_PARTS)
		return lists_restore(t->lists, LISTS_PARTS - 1 - i, key, value);
	return rules_restore(t->rules, key, value);
}

static bool
read_part(struct tables *t, int part, struct str *rest)
{
	uint64_t count;

	if (!sealed_take(rest, &count, sizeof(count)))
		return false;
	for (; count > 0; count--) {
		struct lengths n;
		struct str key, value;

		if (!sealed_take(rest, &n, sizeof(n)) || rest->n < n.key ||
		    rest->n - n.key < n.value)
			return false;
		key = (struct str){rest->p, n.key};
		value = (struct str){rest->p + n.key, n.value};
		*rest = str_from(*rest, key.n + value.n);
		if (!restore(t, part, key, value))
			return false;
	}
	return true;
}

static const char *
take_all(void *arg, struct str body)
{
	struct tables *t = arg;

	directory_begin_restore(t->directory);
	lists_begin(t->lists);
	rules_begin(t->rules);
	for (int part = 0; part < PARTS; part++)
		if (!read_part(t, part, &body)) {
			tables_abandon(t);
			return "a record in it is none";
		}
	if (body.n > 0) {
		tables_abandon(t);
		return "something follows its end";
	}
	tables_swap(t);
	return NULL;
}

int
copy_load(struct tables *t, const char *path, uint64_t origin,
    const char **why)
{
	const struct seal s = seal(origin);

	return sealed_load(path, &s, take_all, t, why);
}
