#ifndef POLICYD_ACTION_H
#define POLICYD_ACTION_H

/*
 * action - what policyd may say to Postfix, and the one door it goes through.
 *
 * Floor 1: pure.  An action is text such as `550 5.1.1 User unknown`, written
 * by an administrator (in policyd.ini, in a table) or returned by a script.
 * Postfix reads some texts in ways nobody means: an all-digit action permits,
 * an empty one too, a code and enhanced code without text prints leftovers of
 * its memory, a word that it does not know turns into 451.  action_error()
 * finds those when the text is written; action_format() makes sure of it again
 * when it goes on the wire, whatever its origin.
 */

#include "base/str.h"

enum {
	ACTION_MAX_BYTES = 400,       /* of an action as it is written down */
	SMTP_REPLY_MAX_BYTES = 510,   /* of Postfix's whole reply line */
	ACTION_WIRE_MAX_BYTES = 1024, /* of "action=…\n\n"; sizes buffers */

	/* Of the text behind "250 2.1.5 ". */
	ACTION_POSITIVE_MAX_BYTES = SMTP_REPLY_MAX_BYTES - 10,
};

/*
 * NULL if the text is an action that is safe to give to Postfix; else what is
 * wrong with it, and in *part the piece of the text that is.
 */
const char *action_error(struct str text, struct str *part);

/* What an action comes to. */
enum action_meaning {
	MEANS_DUNNO,
	MEANS_PERMITS,
	MEANS_DEFERS,  /* 4NN, DEFER and theirs */
	MEANS_REJECTS, /* 5NN, REJECT and theirs */
	MEANS_MORE,    /* all else: PREPEND, HOLD, a restriction, ... */
	ACTION_MEANINGS,
};

enum action_meaning action_meaning(struct str text);

/* Is it a refusal, for now or for good? */
static inline bool
action_refuses(struct str text)
{
	enum action_meaning meaning = action_meaning(text);

	return meaning == MEANS_DEFERS || meaning == MEANS_REJECTS;
}

/*
 * What `{name}` in an action's text stands for.  Placeholders that are not in
 * the table stay as they are.
 */
struct action_placeholder {
	struct str name;
	struct str value;
};

/*
 * What a client wrote stands in an action where a placeholder was: it may have
 * left a refusal without a text, or with one that reads as an enhanced code.
 * The refusal stands, and gets a text of ours; another action comes back as it
 * is.  buf has room for 64 bytes.
 */
struct str action_complete(struct str action, char *buf, size_t size);

/*
 * Write `action=TEXT\n\n` into out.
 *
 * The text that goes out has its placeholders filled in, is valid UTF-8 with
 * no control bytes in it, and is cut so that Postfix's whole reply stays within
 * SMTP_REPLY_MAX_BYTES: subject_len is the length of the longest thing that
 * Postfix may put before it (an address, a host name).  Where that is not safe
 * false is returned: what has placeholders is completed, anything else becomes
 * `fallback`, which must be one that passes action_error() and has no
 * placeholders.  Only PREPEND with nothing to put becomes DUNNO, and is good.
 */
bool action_format(struct sbuf *out, struct str text,
    const struct action_placeholder *with, size_t count, size_t subject_len,
    struct str fallback);

/*
 * A positive SMTP reply for clients that understand one (EXPN, which Postfix
 * does not have): `action=250 2.1.5 TEXT\n\n`, made safe in the same way.
 */
void action_format_positive(struct sbuf *out, struct str text);

#endif
