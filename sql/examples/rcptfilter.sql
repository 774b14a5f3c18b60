-- A closed mail system, as the rcptFilter plugin makes one: mail for the
-- domains of a list, and for nobody else, whoever sends it.
--
--   policyctl schema install
--   psql -1 -v ON_ERROR_STOP=1 -d policyd -f rcptfilter.sql
--   policyd -c rcptfilter.ini

-- The list.  Letter case does not matter, here or in what clients send.  Which
-- addresses exist in these domains is not for policyd to say: all do.
INSERT INTO policyd.domain (name, recipients) VALUES
  ('mycompany.com', 'any'),
  ('Subsidiary.COM', 'any'),
  ('ACME-Labs.example', 'any');
