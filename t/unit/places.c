#include "db/places.h"

#include "base/mem.h"
#include "tap.h"

#include <ev.h>
#include <stdlib.h>

static void
on_done(void *arg)
{
	*(bool *)arg = true;
}

/* host, hostaddr, port and session_attrs, `-` where conninfo knows. */
static char *
text_of(const struct places_list *to)
{
	return mem_printf("%s %s %s %s", to->host ? to->host : "-",
	    to->hostaddr ? to->hostaddr : "-", to->port ? to->port : "-",
	    to->session_attrs ? to->session_attrs : "-");
}

static void
is_list(struct places *p, const char *wanted, const char *name)
{
	struct places_list to;
	const char *why = places_list(p, &to);
	char *text = why != NULL ? mem_strdup(why) : text_of(&to);

	is_str(text, wanted, name);
	free(text);
}

/* Nothing of it is to be looked up. */
static void
test_known(const char *conninfo, int turns, const char *wanted)
{
	bool done = false;
	struct places *p = places_new(ev_default_loop(0), conninfo, on_done,
	    &done);
	char *name = mem_printf("%s, turned %d times", conninfo, turns);

	places_find(p);
	for (int i = 0; i < turns; i++)
		places_turn(p);
	if (places_wait_s(p, 9) > 0)
		ok(false, "%s: nothing to wait for", name);
	is_list(p, wanted, name);
	places_in_order(p);
	places_free(p);
	free(name);
}

static void
test_names(void)
{
	struct ev_loop *loop = ev_default_loop(0);
	bool done = false;
	struct places *p = places_new(loop,
	    "host=localhost,/run hostaddr=,", on_done, &done);
	struct places *q = places_new(loop, "host=localhost port=1", on_done,
	    &done);
	struct places_list to;

	places_find(p);
	places_find(q);
	ok(places_wait_s(p, 9) <= 1, "a second is enough where one is known");
	ok(places_wait_s(q, 9) > 1, "more where none is");
	ok(places_list(q, &to) != NULL, "nowhere, but for patience");
	is_list(p, "/run  5432 read-write", "what is known, without patience");
	while (!done)
		ev_run(loop, EVRUN_ONCE);
	ok(places_wait_s(q, 9) <= 0, "all is known");
	ok(places_list(q, &to) == NULL && strstr(to.hostaddr, "127.0.0.1") &&
		strstr(to.host, "localhost"),
	    "a name has an address, and is told with it");
	places_free(p);
	places_free(q);
}

/* One that goes while a child looks for it. */
static void
test_freed(void)
{
	bool done = false;
	struct places *p = places_new(ev_default_loop(0), "host=localhost",
	    on_done, &done);

	places_find(p);
	places_free(p);
	ev_run(ev_default_loop(0), EVRUN_NOWAIT);
	ok(!done, "nobody hears of what was freed");
}

int
main(void)
{
	unsetenv("PGHOST");
	unsetenv("PGHOSTADDR");
	unsetenv("PGPORT");
	unsetenv("PGSERVICE");
	unsetenv("PGTARGETSESSIONATTRS");
	test_known("dbname=mail", 1, "- - - -");
	test_known("mail", 0, "- - - -");
	test_known("host=/run/postgresql port=6000", 1,
	    "/run/postgresql  6000 -");
	test_known("hostaddr=192.0.2.1", 1, " 192.0.2.1 5432 -");
	test_known("host=192.0.2.1", 0, "192.0.2.1  5432 -");
	test_known("host=db.invalid hostaddr=192.0.2.1", 0,
	    "db.invalid 192.0.2.1 5432 -");
	test_known("postgresql://mail@[2001:db8::1]:6000/mail", 0,
	    "2001:db8::1  6000 -");
	test_known("host=/a,/b,/c", 0, "/a,/b,/c ,, 5432,5432,5432 read-write");
	test_known("host=/a,/b,/c port=1,,3", 1,
	    "/b,/c,/a ,, ,3,1 read-write");
	test_known("host=/a,/b,/c", 5, "/c,/a,/b ,, 5432,5432,5432 read-write");
	test_known("hostaddr=192.0.2.1,192.0.2.2", 1,
	    ", 192.0.2.2,192.0.2.1 5432,5432 read-write");
	test_known("host=/a,/b target_session_attrs=primary", 0,
	    "/a,/b , 5432,5432 -");
	test_known("host=db.invalid,/b port=1,2,3", 0, "- - - -");
	test_known("host=", 0, "- - - -");
	test_known("no=option", 0, "- - - -");
	test_known("service=none.such", 0, "- - - -");
	setenv("PGHOST", "/e,/f", 1);
	test_known("dbname=mail", 0, "/e,/f , 5432,5432 read-write");
	test_names();
	test_freed();
	return tap_done();
}
