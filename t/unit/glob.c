#include "mail/glob.h"

#include "tap.h"

#include <stdlib.h>
#include <time.h>

static const struct {
	const char *pattern, *text;
	bool want;
} cases[] = {
    {"*.example.org", "a.example.org", true},
    {"*.example.org", "A.B.EXAMPLE.ORG", true},
    {"*.EXAMPLE.org", "a.example.org", true},
    {"*.example.org", "example.org", false},
    {"*.example.org", "a.example.org.net", false},
    {"", "", true},
    {"", "a", false},
    {"a", "", false},
    {"*", "", true},
    {"*", "anything", true},
    {"**", "", true},
    {"**a**", "bab", true},
    {"?", "", false},
    {"?", "a", true},
    {"?", "ab", false},
    {"??", "ab", true},
    {"?*", "", false},
    {"?*", "abc", true},
    {"*?", "abc", true},
    {"?", "\xc3\xbc", true},
    {"??", "\xc3\xbc", false},
    {"?", "\xf0\x9f\x98\x80", true},
    {"b?cher", "b\xc3\xbc" "cher", true},
    {"*\xbc", "\xc3\xbc", false},
    {"\xc3\xbc*", "\xc3\xbc!", true},
    {"\xc3\xbc", "\xc3\x9c", false}, /* only ASCII is folded */
    {"?", "\xff", true},
    {"\xff", "\xff", true},
    {"??", "\xc3\xff", true},
    {"a*b*c", "abc", true},
    {"a*b*c", "aXbYc", true},
    {"a*b*c", "aXbYcZ", false},
    {"a*b*c", "acb", false},
    {"*ab", "aab", true},
    {"*aab", "aaaaab", true},
    {"mail*.*.example.net", "mail7.eu.example.net", true},
    {"[abc]", "b", true},
    {"[abc]", "B", true},
    {"[ABC]", "b", true},
    {"[abc]", "d", false},
    {"[abc]", "", false},
    {"[a-f0-9]*", "c0ffee", true},
    {"[a-f0-9]", "F", true},
    {"[A-F]", "c", true},
    {"[Z-a]", "A", true},
    {"[Z-a]", "z", true},
    {"[Z-a]", "b", false},
    {"[!a-z]", "5", true},
    {"[!a-z]", "Q", false},
    {"[!a-z]", "", false},
    {"[!a]", "\xc3\xbc", true},
    {"[!\xc3\xbc]", "\xc3\xbc", false},
    {"[\xc3\xa0-\xc3\xbf]x", "\xc3\xbcx", true},
    {"[\xc3\xa0-\xc3\xbf]x", "ux", false},
    {"[]]", "]", true},
    {"[]a]", "a", true},
    {"[!]]", "]", false},
    {"[!]]", "a", true},
    {"[a-]", "-", true},
    {"[a-]", "b", false},
    {"[-a]", "-", true},
    {"[!-a]", "-", false},
    {"[--/]", ".", true},
    {"[a-c-e]", "-", true},
    {"[a-c-e]", "d", false},
    {"[a!]", "!", true},
    {"[a^]", "^", true},
    {"[*]", "*", true},
    {"[*]", "a", false},
    {"[?]", "a", false},
    {"[[]", "[", true},
    {"[\\]", "\\", true},
    {"[\\]", "]", false},
    {"[\\]]", "\\]", true},
    {"[!\\]", "\\", false},
    {"[a\\-^]", "]", true},
    {"[a\\-^]", "b", false},
    {"]", "]", true},
    {"\\*", "*", true},
    {"\\*", "a", false},
    {"\\?", "?", true},
    {"\\[a]", "[a]", true},
    {"\\\\", "\\", true},
    {"\\a", "A", true},
    {"\\\xc3\xbc", "\xc3\xbc", true},
    {"a-b", "a-b", true},
    {"{a,b}", "{a,b}", true},
    {"*[0-9]-[0-9]*.example.net", "pool-192-0-2-1.example.net", true},
    {"*[0-9]-[0-9]*.example.net", "pool.example.net", false},
};

static const char *const wrong[] = {"\\", "a\\", "*\\", "[", "[a", "[!", "[]",
    "[!]", "[]a", "[a-", "[a-]x[", "[z-a]", "[a-A]", "[a\\", "[a-\\", "[a-z",
    "[\xc3\xbc-a]", "x[9-0]"};

/* Each would take exponential time of a matcher that goes back to all stars. */
static void
bounded(void)
{
	char pattern[501], *text = malloc(16384);
	clock_t start = clock();
	double s;

	for (size_t i = 0; i < 500; i++)
		pattern[i] = i % 2 == 0 ? '*' : 'a';
	memset(text, 'a', 16384);
	pattern[499] = 'b';
	ok(!glob_match((struct str){pattern, 500}, (struct str){text, 16384}),
	    "250 stars in 16 KiB");
	memset(pattern, 'a', sizeof(pattern));
	pattern[0] = '*';
	pattern[499] = 'b';
	ok(!glob_match((struct str){pattern, 500}, (struct str){text, 16384}),
	    "a star and 498 letters that nearly match");
	s = (double)(clock() - start) / CLOCKS_PER_SEC;
	ok(s < 2, "in bounded time: %.3f s", s);
	free(text);
}

int
main(void)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct str p = str_of(cases[i].pattern);

		ok(glob_error(p) == NULL, "'%s' is a pattern",
		    cases[i].pattern);
		ok(glob_match(p, str_of(cases[i].text)) == cases[i].want,
		    "'%s' is %slike it", cases[i].text,
		    cases[i].want ? "" : "not ");
	}
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		const char *why = glob_error(str_of(wrong[i]));

		ok(why != NULL && !glob_match(str_of(wrong[i]), STR("b")),
		    "'%s' is none", wrong[i]);
	}
	bounded();
	return tap_done();
}
