#include "policy/session.h"

#include "base/hash.h"

#include "tap.h"

int
main(void)
{
	struct sessions *all;
	struct session *s;

	hash_init();
	all = sessions_new();
	ok(sessions_find(all, 1, 0) == NULL, "no session at first");
	s = sessions_get(all, 1, 0);
	ok(sessions_get(all, 1, 1) == s, "the same key, the same session");
	ok(sessions_get(all, 2, 1) != s, "another key, another session");

	session_refuse(s, 10);
	session_refuse(s, 10);
	is_long(session_errors(s, 99), 1, "a repeated refusal counts once");
	is_long(session_errors(s, 10), 0, "and not against itself");
	session_refuse(s, 11);
	is_long(session_errors(s, 10), 2, "an older one does");
	is_long(session_errors(s, 11), 1, "the last does not");

	session_message(s, 5);
	session_accept(s, 20, 100);
	session_accept(s, 20, 100);
	session_accept(s, 21, 50);
	is_long(session_accepted(s), 2, "a recipient counts once");
	ok(session_has_accepted(s, 20), "it is known");
	is_long(session_limit(s, 5), 100, "the highest limit is remembered");
	is_long(session_limit(s, 6), 0, "for this message alone");
	session_message(s, 5);
	is_long(session_accepted(s), 2, "the same message goes on");
	session_message(s, 6);
	is_long(session_accepted(s), 0, "another begins anew");
	is_long(session_errors(s, 99), 2, "but errors are the session's");

	session_end(s, 100);
	session_end(s, 100 + SESSION_ENDED_S);
	s = sessions_get(all, 1, 100 + SESSION_ENDED_S);
	is_long(session_errors(s, 99), 2, "told to go, it may ask again");
	s = sessions_get(all, 1, 101 + SESSION_ENDED_S);
	is_long(session_errors(s, 99), 0, "later it is another on its port");
	session_refuse(s, 10);
	session_refuse(s, 11);
	s = sessions_get(all, 1, 102 + 2 * SESSION_ENDED_S);
	is_long(session_errors(s, 99), 2, "which has not been told to go");

	s = sessions_get(all, 1, 1 + SESSION_IDLE_S);
	is_long(session_errors(s, 99), 2, "remembered while it may be alive");
	s = sessions_get(all, 1, 2 + 2 * SESSION_IDLE_S);
	is_long(session_errors(s, 99), 0, "forgotten after that");

	session_refuse(s, 10);
	for (uint64_t key = 100; key < 100 + SESSIONS_MAX; key++)
		session_refuse(sessions_get(all, key, 5000), key);
	is_long(session_errors(sessions_get(all, 1, 5000), 99), 0,
	    "the oldest goes when there are too many");
	is_long(session_errors(sessions_get(all, 99 + SESSIONS_MAX, 5000), 1),
	    1, "the newest stay");
	sessions_free(all);
	return tap_done();
}
