#ifndef POLICYD_SENDER_H
#define POLICYD_SENDER_H

/*
 * sender - who an envelope sender is to greylisting: what stays the same in
 * it while mailers write a tag, a date, a number or the recipient into each.
 *
 * Floor 2: pure, and nothing is allocated.  The sender is part of the key
 * (RFC 6647), and a mailer that has a new one for each attempt would not pass.
 * An ordinary address is itself, in lower case; of others is left out:
 *
 *   prvs=TAG=user       BATV (draft-levine-smtp-batv), also in its older order
 *                       and those of Barracuda (btv1==) and SparkPost
 *   SRS0=HASH=TT=d=u    the hash and the day of the Sender Rewriting Scheme
 *                       (Shevek; libsrs2, postsrsd); d, u and forwarders stay
 *   list-user=domain    VERP (Bernstein): this recipient in any writing, or
 *                       anybody's address at the end
 *   user+extension      RFC 5233
 *   numbers             also in the first label of a domain, if that cannot be
 *                       the registered one
 *   tokens              pieces that look random, be it by the case of their
 *                       letters; and all that follows a long one
 *
 * Two who differ in nothing else become one: user1 and user2.  It errs so with
 * what machines make, since a sender is but one of the key's three parts.
 */

#include "base/str.h"

enum { SENDER_MAX_BYTES = 320 }; /* RFC 5321: 64, an '@' and 255 */

/*
 * The sender folded.  It cannot fail: what is no address is folded as a local
 * part, one that is too long loses the end of its local part.  The result is
 * UTF-8 without control characters ('?' stands for a byte of what was not) and
 * has a NUL behind it; folded again, it is the same.  '#' stands for what was
 * left out.  Borrows from buf.
 */
struct str sender_fold(struct str sender, struct str recipient,
    char buf[SENDER_MAX_BYTES + 1]);

#endif
