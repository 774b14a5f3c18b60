#ifndef POLICYD_SENDER_H
#define POLICYD_SENDER_H

/*
 * sender - who an envelope sender is to greylisting: what stays the same in
 * it when mailers write a tag, a date, a number or the recipient into each.
 *
 * Floor 2: pure, and nothing is allocated.  RFC 6647 leaves the sender in the
 * key; a mailer that changes it with each attempt would never pass.  What is
 * folded, and where it is written down:
 *
 *   prvs=TAG=user       BATV (draft-levine-smtp-batv), its older order, and
 *                       those of Barracuda (btv1==) and SparkPost (msprvs1=)
 *   SRS0=HASH=TT=d=u    the Sender Rewriting Scheme (Wong; libsrs2, postsrsd)
 *   list-user=domain    VERP (Bernstein), of this recipient in any writing
 *   user+extension      RFC 5233
 *   numbers and tokens  in what is left, and in the first label of a domain
 *                       that has more than a registrable one
 *
 * An ordinary address is itself, in lower case.
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
