#include "mail/request.h"

#include "tap.h"

#include <stdlib.h>

static const struct {
	const char *name, *text;
	enum request_status status;
	const char *recipient; /* DONE: what it holds, NULL if absent */
} cases[] = {
    {"nothing yet", "", REQUEST_MORE, NULL},
    {"half a line", "request=smtpd", REQUEST_MORE, NULL},
    {"no empty line", "request=smtpd_access_policy\n", REQUEST_MORE, NULL},
    {"complete", "request=smtpd_access_policy\nrecipient=a@b\n\n",
	REQUEST_DONE, "a@b"},
    {"any order", "recipient=a@b\nrequest=smtpd_access_policy\n\n",
	REQUEST_DONE, "a@b"},
    {"an equals sign in a value", "recipient=a=b@c=d\n\n", REQUEST_DONE,
	"a=b@c=d"},
    {"an empty value", "recipient=\n\n", REQUEST_DONE, ""},
    {"absent", "sender=a@b\n\n", REQUEST_DONE, NULL},
    {"unknown names", "x=1\nrecipient=a@b\nyy=2\n\n", REQUEST_DONE, "a@b"},
    {"a longer name is another", "recipient_address=x\n\n", REQUEST_DONE,
	NULL},
    {"a shorter name is another", "recipien=x\n\n", REQUEST_DONE, NULL},
    {"names are case-sensitive", "Recipient=x\n\n", REQUEST_DONE, NULL},
    {"the first of two counts", "recipient=a\nrecipient=b\n\n", REQUEST_DONE,
	"a"},
    {"an empty request", "\n", REQUEST_DONE, NULL},
    {"control bytes in a value", "recipient=a\x01\r\x7f@b\n\n", REQUEST_DONE,
	"a\x01\r\x7f@b"},
    {"no equals sign", "recipient\n\n", REQUEST_BAD, NULL},
    {"no name", "=x\n\n", REQUEST_BAD, NULL},
    {"CRLF", "recipient=a@b\r\n\r\n\n", REQUEST_BAD, NULL},
};

static void
blocks(void)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct request r;
		size_t scanned = 0, used = 0;
		const char *why = NULL;
		enum request_status s = request_parse(&r, cases[i].text,
		    strlen(cases[i].text), &scanned, &used, &why);
		struct str v;

		is_long(s, cases[i].status, cases[i].name);
		if (s == REQUEST_BAD)
			ok(why != NULL, "%s: says why", cases[i].name);
		if (s != REQUEST_DONE)
			continue;
		is_long(used, strlen(cases[i].text), cases[i].name);
		v = r.value[ATTR_recipient];
		ok(cases[i].recipient == NULL ?
			!request_has(&r, ATTR_recipient) && v.n == 0 :
			request_has(&r, ATTR_recipient) &&
			    str_eq(v, str_of(cases[i].recipient)),
		    "%s: recipient", cases[i].name);
	}
}

/* Bytes that arrive one by one give the same request. */
static void
byte_by_byte(void)
{
	static const char text[] =
	    "request=smtpd_access_policy\nprotocol_state=RCPT\n"
	    "recipient=a@b\nsender=\n\nrequest=next";
	size_t block = strlen(text) - strlen("request=next");
	struct request r;
	size_t scanned = 0, used = 0;
	const char *why;
	int early = 0;

	for (size_t n = 1; n < block; n++)
		early += request_parse(&r, text, n, &scanned, &used, &why) !=
		    REQUEST_MORE;
	is_long(early, 0, "no request before its empty line");
	is_long(request_parse(&r, text, block, &scanned, &used, &why),
	    REQUEST_DONE, "a request with it");
	is_long(used, block, "of its length");
	ok(str_eq(r.value[ATTR_recipient], STR("a@b")), "with its values");
}

static void
one_bound(const char *name, size_t line, size_t lines, size_t filler,
    enum request_status want)
{
	char *buf = malloc(lines * (line + 1) + filler + 16);
	size_t n = 0, scanned = 0, used;
	struct request r;
	const char *why;

	for (size_t i = 0; i < lines; i++) {
		memcpy(buf + n, "x=", 2);
		memset(buf + n + 2, 'y', line - 2);
		n += line;
		buf[n++] = '\n';
	}
	memset(buf + n, 'z', filler);
	n += filler;
	if (filler == 0)
		buf[n++] = '\n';
	is_long(request_parse(&r, buf, n, &scanned, &used, &why), want, name);
	free(buf);
}

static void
bounds(void)
{
	one_bound("the longest line", REQUEST_LINE_MAX_BYTES, 1, 0,
	    REQUEST_DONE);
	one_bound("a longer one", REQUEST_LINE_MAX_BYTES + 1, 1, 0,
	    REQUEST_BAD);
	one_bound("a longer one without an end", 10, 1,
	    REQUEST_LINE_MAX_BYTES + 1, REQUEST_BAD);
	one_bound("64 attributes", 10, 64, 0, REQUEST_DONE);
	one_bound("65 attributes", 10, 65, 0, REQUEST_BAD);
	/* 4 lines of 16383 bytes and the empty line: 65537, one too many. */
	one_bound("the longest request and a byte", 16383, 4, 0, REQUEST_BAD);
	one_bound("the longest request", 16382, 4, 0, REQUEST_DONE);
}

static void
binary(void)
{
	static const char text[] = "recipient=a\0b\n\n";
	struct request r;
	size_t scanned = 0, used;
	const char *why;

	is_long(request_parse(&r, text, sizeof(text) - 1, &scanned, &used,
		    &why), REQUEST_BAD, "a NUL byte");
}

static void
names(void)
{
	int good = 1;

	for (enum attribute a = 0; a < ATTRIBUTES; a++)
		good = good && attribute_named(attribute_name(a)) == a;
	ok(good, "every attribute is found by its name");
	is_long(attribute_named(STR("nothing")), ATTRIBUTES, "and none other");
}

int
main(void)
{
	blocks();
	byte_by_byte();
	bounds();
	binary();
	names();
	return tap_done();
}
