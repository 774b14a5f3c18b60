#include "tables/list.h"

#include "base/hash.h"
#include "tables/strtab.h"

#include "fuzz.h"

/*
 * Lines: the first byte of each says what is done with the rest.  What was put
 * is found, can be copied whole, and answers the same from there; bytes of a
 * copy that come from anywhere are refused or do no harm.
 */

static void
put(struct lists *l, struct str list, struct str value)
{
	uint32_t id = lists_id(l, list);
	bool is_mail = value.n > 0 && memchr(value.p, '@', value.n) != NULL;

	if (!lists_put(l, list, value))
		return;
	CHECK(lists_entries(l, id) > 0);
	if (is_mail && value.p[0] != '@' && value.p[value.n - 1] != '@')
		CHECK(lists_has(l, id, LIST_MAIL, value));
	else if (!is_mail && value.p[0] != '.')
		CHECK(lists_has(l, id, LIST_ADDRESS, value) ||
		    lists_has(l, id, LIST_NAME, value));
}

static void
ask_both(struct lists *l, struct lists *m, struct str list, struct str value)
{
	for (int kind = LIST_MAIL; kind <= LIST_NAME; kind++)
		CHECK(lists_has(l, lists_id(l, list), (enum list_kind)kind,
			  value) ==
		    lists_has(m, lists_id(m, list), (enum list_kind)kind,
			value));
}

static void
copy(const struct lists *from, struct lists *to)
{
	lists_begin(to);
	for (int part = LISTS_PARTS - 1; part >= 0; part--) {
		uint64_t cursor = 0;
		struct str k, v;

		while (strtab_next(lists_part(from, part), &cursor, &k, &v))
			CHECK(lists_restore(to, part, k, v));
	}
	lists_swap(to);
	CHECK(lists_count(to) == lists_count(from));
}

static void
each_line(struct lists *l, struct lists *m, struct str rest, bool asking)
{
	while (rest.n > 1) {
		const char *end = memchr(rest.p, '\n', rest.n);
		struct str line = {rest.p,
		    end != NULL ? (size_t)(end - rest.p) : rest.n};
		struct str list = {line.p, line.n > 0}, value;

		rest = str_from(rest, line.n + (end != NULL));
		if (line.n == 0)
			continue;
		value = str_from(line, 1);
		if (asking) {
			ask_both(l, m, list, value);
		} else if (line.p[0] == '-') {
			lists_forget(l, STR("+"), value);
		} else if (line.p[0] >= '0' && line.p[0] <= '2') {
			size_t n = value.n < 4 ? value.n : 4;

			lists_restore(m, line.p[0] - '0', value, STR(""));
			lists_restore(m, 1, str_from(value, n),
			    (struct str){value.p, n});
		} else {
			put(l, list, value);
		}
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static bool ready;
	struct lists *l, *m;
	char *buf = malloc(n + 1);

	if (!ready)
		hash_init();
	ready = true;
	memcpy(buf, data, n);
	l = lists_new();
	m = lists_new();
	lists_begin(m);
	each_line(l, m, (struct str){buf, n}, false);
	lists_swap(m);
	copy(l, m);
	each_line(l, m, (struct str){buf, n}, true);
	lists_free(l);
	lists_free(m);
	free(buf);
	return 0;
}
