-- The example of the Stalwart documentation, as a site of policyd: what its
-- RCPT stage says in one file stands here (who is local, what holds for whom)
-- and in stalwart.ini (numbers, and who may relay and ask).
--
--   policyctl schema install
--   psql -1 -v ON_ERROR_STOP=1 -d policyd -f greylist-once.sql -f stalwart.sql
--   policyd -c stalwart.ini

-- Two local domains, whose addresses are listed.
INSERT INTO policyd.domain (name) VALUES
  ('foobar.com'),
  ('foobar.net');

INSERT INTO policyd.address (address) VALUES
  ('postmaster@foobar.com'),
  ('john@foobar.com'),
  ('jane@foobar.com'),
  ('postmaster@foobar.net'),
  ('bill@foobar.net');

-- EXPN tells who is behind a list.
INSERT INTO policyd.alias (address, destination) VALUES
  ('sales@foobar.com', 'john@foobar.com'),
  ('sales@foobar.com', 'bill@foobar.net');

-- The greylisting script is for those who have not authenticated.
INSERT INTO policyd.rule (priority, conditions, action, comment) VALUES
  (100, ARRAY['sasl_username is empty'], 'set script greylist_once',
   'strangers come back later');
