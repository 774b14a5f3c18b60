-- The example site of `make demo`: a small mail provider.

-- Domains whose mail comes here.  "listed": only who has a row in address or
-- alias; "any": whoever it is.
INSERT INTO policyd.domain (name, recipients) VALUES
	('example.com', 'listed'),
	('example.org', 'listed'),
	('lists.example.com', 'any');

-- example.net is example.com under another name.
INSERT INTO policyd.domain_alias (name, target) VALUES
	('example.net', 'example.com');

-- Mailboxes; @example.org takes all that has no row of its own.
INSERT INTO policyd.address (address) VALUES
	('alice@example.com'),
	('bob@example.com'),
	('carol@example.org'),
	('@example.org');

-- Somebody who has left, and somebody who moved.
INSERT INTO policyd.address (address, enabled) VALUES
	('dave@example.org', false);
INSERT INTO policyd.address (address, reply) VALUES
	('erin@example.com', '550 5.1.6 Erin has moved to erin@elsewhere.example');

-- A mailing list: one row for each who is on it.
INSERT INTO policyd.alias (address, destination) VALUES
	('sales@example.com', 'alice@example.com'),
	('sales@example.com', 'bob@example.com');
