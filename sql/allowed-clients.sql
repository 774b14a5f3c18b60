-- Clients that are better not greylisted: a list to start from.
--
--	psql -d policyd -f /usr/share/policyd/sql/allowed-clients.sql
--
-- Loaded again, it replaces its own rows, which are those whose reason begins
-- with "allowed-clients:", and no other's.  A client that an administrator has
-- allowed keeps his reason.  All at once, without the file:
--
--	DELETE FROM policyd.client WHERE reason LIKE 'allowed-clients:%';
--
-- The list is short since most of what such lists are made of needs none here.
-- A pool of hosts whose names are verified is one client, from wherever it
-- comes back, and once it has come back it is not greylisted any more.  Tags,
-- counters and copies of the recipient in the sender are folded.  What is left:
--
-- code   Its mail has codes and links that are good for some minutes, and it
--        tries again when they are not.  Nobody but its owner can send by
--        hosts with verified names in these domains, and they always come
--        back: to greylist them keeps nothing out.
-- domains   One message is tried from hosts with names in several domains, so
--        that each attempt would be of another client.
-- once   It tries once, and reports what it was answered.
--
-- Where a domain stands here, so do the hosts whose names policyd takes for
-- hosts of that domain: policyctl greylist allow HOST says which that is.

WITH list (client, since, reason) AS (VALUES
    ('amazon.com', date '2026-11-22', 'code'),
    ('apple.com', '2026-11-22', 'code; domains, with icloud.com and me.com'),
    ('ebay.com', '2026-11-22', 'code'),
    ('facebook.com', '2026-11-22', 'code'),
    ('github.com', '2026-11-22', 'code'),
    ('icloud.com', '2026-11-22', 'domains, with apple.com and me.com'),
    ('linkedin.com', '2026-11-22', 'code'),
    ('me.com', '2026-11-22', 'domains, with apple.com and icloud.com'),
    ('paypal.com', '2026-11-22', 'code'),
    ('steampowered.com', '2026-11-22', 'code'),
    ('twitter.com', '2026-11-22', 'code; domains, with x.com'),
    ('x.com', '2026-11-22', 'code; domains, with twitter.com'),
    -- Mailchimp and its Mandrill, which sends other people's codes.
    ('mandrillapp.com', '2026-11-22', 'code; domains, with mcsv.net'),
    ('mcdlv.net', '2026-11-22', 'domains, with mcsv.net and rsgsv.net'),
    ('mcsv.net', '2026-11-22', 'domains, with mcdlv.net and rsgsv.net'),
    ('rsgsv.net', '2026-11-22', 'domains, with mcdlv.net and mcsv.net'),
    -- A test of TLS that an administrator starts himself.
    ('checktls.com', '2026-11-22', 'once')
), gone AS (
	DELETE FROM policyd.client AS c
	WHERE starts_with(c.reason, 'allowed-clients: ')
	AND NOT EXISTS (SELECT FROM list AS l WHERE l.client = c.client)
)
INSERT INTO policyd.client AS c (client, allowed_at, reason)
SELECT l.client, l.since, 'allowed-clients: ' || l.reason FROM list AS l
ON CONFLICT (client) DO UPDATE SET
    allowed_at = excluded.allowed_at, reason = excluded.reason
WHERE c.allowed_at IS NULL OR starts_with(c.reason, 'allowed-clients: ');
