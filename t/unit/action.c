#include "mail/action.h"

#include "tap.h"

#include <stdlib.h>

#define A_400 \
	"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" \
	"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" \
	"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" \
	"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" \
	"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" \
	"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" \
	"aaaaaaaaaaaaaaaa"

#define A_390 \
	"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" \
	"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" \
	"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" \
	"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" \
	"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" \
	"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" \
	"aaaaaa"

static const struct {
	const char *text;
	int good;
} texts[] = {
    {"DUNNO", 1},
    {"dunno", 1},
    {"DUNNO whatever", 1},
    {"OK", 1},
    {"RELAY", 1},
    {"REJECT", 1},
    {"REJECT go away", 1},
    {"REJECT 5.7.1 go away", 1},
    {"REJECT 5.7.1", 0},
    {"DEFER_IF_PERMIT 4.7.1", 0},
    {"DEFER_IF_PERMIT 4.7.1 later", 1},
    {"DEFER", 1},
    {"defer_if_reject later", 1},
    {"550", 0},
    {"421", 0},
    {"12345", 0},
    {"550 5.7.1", 0},
    {"550 5.7.1 no", 1},
    {"550 no", 1},
    {"550 5.7 no", 1},
    {"599 x", 1},
    {"600 x", 0},
    {"399 x", 0},
    {"250 2.1.5 ok", 0},
    {"45 x", 0},
    {"5500 x", 0},
    {"HOLD", 1},
    {"HOLD look at it", 1},
    {"DISCARD", 1},
    {"INFO", 1},
    {"WARN x", 1},
    {"FILTER", 0},
    {"FILTER smtp", 0},
    {"FILTER smtp:[127.0.0.1]:10025", 1},
    {"FILTER smtp: x", 0},
    {"FILTER :x", 0},
    {"REDIRECT", 0},
    {"REDIRECT bob", 0},
    {"REDIRECT bob@example.com", 1},
    {"REDIRECT @example.com", 0},
    {"REDIRECT bob@", 0},
    {"REDIRECT a b@c", 0},
    {"BCC bob@example.com", 1},
    {"BCC", 0},
    {"PREPEND X-A: b", 1},
    {"PREPEND X-A:b", 1},
    {"PREPEND X-A:", 0},
    {"PREPEND X A: b", 0},
    {"PREPEND : b", 0},
    {"PREPEND nothing", 0},
    {"permit_mynetworks", 1},
    {"permit_mynetworks, reject", 1},
    {"reject_unauth_destination permit", 1},
    {"reject_rbl_client zen.example.org", 1},
    {"reject_rbl_client zen.example.org=127.0.0.[2..11]", 1},
    {"reject_rbl_client", 0},
    {"reject_rbl_client a:b", 0},
    {"sleep 1", 1},
    {"sleep x", 0},
    {"check_client_access hash:/etc/x", 0},
    {"check_policy_service unix:x", 0},
    {"FOO: bar", 0},
    {"nonsense", 0},
    {"", 0},
    {",", 0},
    {", ,", 0},
    {" ", 0},
    {" DUNNO", 0},
    {"DUNNO ", 0},
    {"550 a\nb", 0},
    {"550 a\tb", 0},
    {"550 \x7f", 0},
    {"550 \xc2\x85", 0},
    {"550 \xff", 0},
    {"550 gr\xc3\xbc\xc3\x9f", 1},
    {"550 " A_400, 0},
};

static void
errors(void)
{
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct str part;
		const char *why = action_error(str_of(texts[i].text), &part);

		ok((why == NULL) == texts[i].good, "'%.40s' is %s%s",
		    texts[i].text, texts[i].good ? "good" : "refused: ",
		    why != NULL ? why : "");
	}
}

/* `\x{85}` in the shared examples is U+0085. */
static size_t
unescape(char *line)
{
	char *to = line;

	for (const char *p = line; *p != '\0' && *p != '\n';) {
		unsigned c;
		int n;

		if (sscanf(p, "\\x{%x}%n", &c, &n) != 1) {
			*to++ = *p++;
			continue;
		}
		p += n;
		if (c < 0x80) {
			*to++ = (char)c;
		} else if (c < 0x800) {
			*to++ = (char)(0xc0 | c >> 6);
			*to++ = (char)(0x80 | (c & 0x3f));
		} else {
			*to++ = (char)(0xe0 | c >> 12);
			*to++ = (char)(0x80 | (c >> 6 & 0x3f));
			*to++ = (char)(0x80 | (c & 0x3f));
		}
	}
	return (size_t)(to - line);
}

/* What the schema is tested with, too: both must judge alike. */
static void
shared_examples(void)
{
	FILE *f = fopen("t/data/actions.txt", "r");
	char line[4096];
	int count = 0;

	while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
		char *tab = strchr(line, '\t');
		bool good = strncmp(line, "yes\t", 4) == 0;
		struct str text, part;

		if (tab == NULL || (!good && strncmp(line, "no: ", 4) != 0))
			continue;
		text = (struct str){tab + 1, unescape(tab + 1)};
		ok((action_error(text, &part) == NULL) == good,
		    "shared example '%.*s' is %s", (int)text.n, text.p,
		    good ? "good" : "refused");
		count++;
	}
	if (f != NULL)
		fclose(f);
	ok(count > 50, "there are shared examples: %d", count);
}

static const struct {
	const char *name, *text, *recipient;
	size_t subject;
	const char *want;
} formats[] = {
    {"as it is", "550 5.1.1 User unknown", "", 0,
	"action=550 5.1.1 User unknown\n\n"},
    {"a placeholder", "550 5.1.1 <{recipient}> unknown", "a@b", 0,
	"action=550 5.1.1 <a@b> unknown\n\n"},
    {"an unknown placeholder stays", "550 {what} {recipient", "a@b", 0,
	"action=550 {what} {recipient\n\n"},
    {"control bytes of a stranger", "550 no {recipient}", "a\r\nb\x01", 0,
	"action=550 no a??b?\n\n"},
    {"bad UTF-8 of a stranger", "550 no {recipient}", "\xff\xc3", 0,
	"action=550 no ??\n\n"},
    {"a redirection to nowhere", "REDIRECT {recipient}", "bob", 0,
	"action=DEFER x\n\n"},
    {"a header without a value", "PREPEND X-Login: {recipient}", "", 0,
	"action=DUNNO\n\n"},
    {"a header with one", "PREPEND X-Login: {recipient}", "a", 0,
	"action=PREPEND X-Login: a\n\n"},
    {"a text that is too long is cut", "550 5.7.1 " A_400 A_400, "", 0,
	"action=550 5.7.1 " A_390 "\n\n"},
    {"all digits", "550", "", 0, "action=550 Refused\n\n"},
    {"empty", "", "", 0, "action=DEFER x\n\n"},
    {"a long subject leaves a little", "550 5.1.1 User unknown in the "
				       "virtual mailbox table",
	"", 5000, "action=550 5.1.1 User unknown in the virt\n\n"},
    {"no text left", "550 5.1.1 {recipient}", "", 10,
	"action=550 5.1.1 Refused\n\n"},
    {"a text that is an enhanced code", "550 {recipient}", "5.7.1", 10,
	"action=550 5.7.1 Refused\n\n"},
    {"one of another class", "550 {recipient}", "4.7.1", 10,
	"action=550 4.7.1 Refused\n\n"},
    {"a deferral", "450 {recipient}", "4.7.1", 10,
	"action=450 4.7.1 Try again later\n\n"},
    {"a verb", "REJECT {recipient}", "5.7.1", 10,
	"action=REJECT 5.7.1 Refused\n\n"},
    {"what was never an action", "{recipient}", "5.7.1", 10,
	"action=DEFER x\n\n"},
    {"cut between characters",
	"550 5.1.1 12345678901234567890123\xc3\xbc", "", 5000,
	"action=550 5.1.1 12345678901234567890123\n\n"},
};

static void
wire(void)
{
	for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
		char buf[ACTION_WIRE_MAX_BYTES];
		struct sbuf b = sbuf_over(buf, sizeof(buf));
		const struct action_placeholder with[] = {
		    {STR("recipient"), str_of(formats[i].recipient)}};

		action_format(&b, str_of(formats[i].text), with, 1,
		    formats[i].subject, STR("DEFER x"));
		is_str(buf, formats[i].want, formats[i].name);
	}
}

/* What Postfix makes of an action whose text is `x`s, and what it adds. */
static const struct {
	const char *name, *head, *before;
} replies[] = {
    {"a recipient", "550 5.7.1 ",
	"550 5.7.1 <>: Recipient address rejected: "},
    {"one that is quoted", "550 5.7.1 ",
	"550 5.7.1 <\"\">: Recipient address rejected: "},
    {"the longest enhanced code", "550 5.100.100 ",
	"550 5.100.100 <\"\">: Recipient address rejected: "},
    {"one behind a verb", "DEFER_IF_PERMIT 4.100.100 ",
	"450 4.100.100 <\"\">: Recipient address rejected: "},
    {"no enhanced code", "550 ",
	"550 5.7.1 <\"\">: Recipient address rejected: "},
};

/* Whatever the subject's length, Postfix's line keeps its bound. */
static void
lengths(void)
{
	for (size_t i = 0; i < sizeof(replies) / sizeof(replies[0]); i++) {
		size_t head = strlen(replies[i].head), most = 0;
		char text[ACTION_MAX_BYTES + 1] = "";

		memset(text, 'x', sizeof(text) - 1);
		memcpy(text, replies[i].head, head);
		for (size_t subject = 0; subject < 435; subject++) {
			char buf[ACTION_WIRE_MAX_BYTES];
			struct sbuf b = sbuf_over(buf, sizeof(buf));
			size_t line;

			action_format(&b, str_of(text), NULL, 0, subject,
			    STR("DEFER x"));
			line = strlen(replies[i].before) + subject + b.n -
			    strlen("action=\n\n") - head;
			most = line > most ? line : most;
		}
		ok(most <= SMTP_REPLY_MAX_BYTES,
		    "the whole reply stays within 510 bytes: %s: %zu",
		    replies[i].name, most);
	}
}

static void
meanings(void)
{
	ok(action_refuses(STR("550 x")), "a code refuses");
	ok(action_refuses(STR("reject")), "REJECT refuses");
	ok(action_refuses(STR("DEFER_IF_PERMIT x")), "so does a deferral");
	ok(!action_refuses(STR("DUNNO")), "DUNNO does not");
	ok(!action_refuses(STR("PREPEND A: b")), "PREPEND does not");
	ok(!action_refuses(STR("permit_mynetworks")), "a permit does not");
	is_long(action_meaning(STR("dunno")), MEANS_DUNNO, "dunno");
	is_long(action_meaning(STR("OK")), MEANS_PERMITS, "OK permits");
	is_long(action_meaning(STR("421 4.7.0 x")), MEANS_DEFERS, "4NN defers");
	is_long(action_meaning(STR("DEFER_IF_PERMIT x")), MEANS_DEFERS,
	    "DEFER_IF_PERMIT defers");
	is_long(action_meaning(STR("554 5.7.1 x")), MEANS_REJECTS,
	    "5NN rejects");
	is_long(action_meaning(STR("PREPEND A: b")), MEANS_MORE,
	    "PREPEND is more");
	is_long(action_meaning(STR("250 2.1.5 a@b")), MEANS_MORE,
	    "so is what EXPN is told");
}

static void
positive(void)
{
	char buf[ACTION_WIRE_MAX_BYTES], text[2000];
	struct sbuf b = sbuf_over(buf, sizeof(buf));

	action_format_positive(&b, STR("a@b c@d\n"));
	is_str(buf, "action=250 2.1.5 a@b c@d?\n\n", "EXPN's answer is safe");
	memset(text, 'x', sizeof(text));
	b = sbuf_over(buf, sizeof(buf));
	action_format_positive(&b, (struct str){text, sizeof(text)});
	ok(b.n <= SMTP_REPLY_MAX_BYTES + strlen("action=\n\n"),
	    "and short enough");
}

int
main(void)
{
	errors();
	shared_examples();
	wire();
	lengths();
	meanings();
	positive();
	return tap_done();
}
