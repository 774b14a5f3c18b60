-- Step 3: the domains, addresses and aliases of the site.
--
-- Values stay as they were typed, but letter case makes no two rows of one
-- name.  Collation "C" keeps that apart from the language of the database:
-- lower() folds A-Z and nothing else, as policyd does.

CREATE TABLE policyd.domain (
	name text COLLATE "C" PRIMARY KEY
	    CHECK (policyd.domain_error(name) IS NULL),
	recipients text NOT NULL DEFAULT 'listed'
	    CHECK (recipients IN ('listed', 'any', 'verify')),
	greylist boolean,
	max_recipients integer
	    CHECK (max_recipients >= 1),
	subdomains boolean NOT NULL DEFAULT false,
	enabled boolean NOT NULL DEFAULT true
);
CREATE UNIQUE INDEX domain_is_unique ON policyd.domain (lower(name));

COMMENT ON TABLE policyd.domain IS
    'The domains that this site receives mail for';
COMMENT ON COLUMN policyd.domain.name IS
    'example.com, also in letters beyond ASCII, or an address literal';
COMMENT ON COLUMN policyd.domain.recipients IS
    'listed: as in address and alias; any; verify: Postfix asks the next hop';
COMMENT ON COLUMN policyd.domain.greylist IS
    'Whether its recipients are greylisted; null: as policyd.ini says';
COMMENT ON COLUMN policyd.domain.max_recipients IS
    'Recipients that a message to it may have; null: as policyd.ini says';
COMMENT ON COLUMN policyd.domain.subdomains IS
    'Whether every domain below it is local too';
COMMENT ON COLUMN policyd.domain.enabled IS
    'False: the domain is not local, whatever else would make it so';

CREATE TABLE policyd.address (
	address text COLLATE "C" PRIMARY KEY
	    CHECK (policyd.address_error(address) IS NULL),
	greylist boolean,
	reply text COLLATE "C"
	    CHECK (policyd.action_error(reply) IS NULL),
	expires_at timestamptz,
	enabled boolean NOT NULL DEFAULT true
);
CREATE UNIQUE INDEX address_is_unique ON policyd.address (lower(address));

COMMENT ON TABLE policyd.address IS
    'The recipients that exist, and those that are answered in another way';
COMMENT ON COLUMN policyd.address.address IS
    'user@example.com, or @example.com for all that have no row of their own';
COMMENT ON COLUMN policyd.address.greylist IS
    'Whether it is greylisted; null: as its domain says';
COMMENT ON COLUMN policyd.address.reply IS
    'The action that answers for it, such as 550 5.7.1 No mail, please';
COMMENT ON COLUMN policyd.address.expires_at IS
    'From then on it is unknown, even where there is a catch-all';
COMMENT ON COLUMN policyd.address.enabled IS
    'False: it is unknown, even where there is a catch-all';

CREATE TABLE policyd.alias (
	address text COLLATE "C" NOT NULL
	    CHECK (policyd.address_error(address) IS NULL),
	destination text COLLATE "C" NOT NULL
	    CHECK (policyd.destination_error(destination) IS NULL),
	expires_at timestamptz,
	enabled boolean NOT NULL DEFAULT true,
	PRIMARY KEY (address, destination)
);
CREATE UNIQUE INDEX alias_is_unique
    ON policyd.alias (lower(address), lower(destination));

COMMENT ON TABLE policyd.alias IS
    'Recipients whose mail goes elsewhere: a row for each destination';
COMMENT ON COLUMN policyd.alias.address IS
    'user@example.com, or @example.com for all that have no row of their own';
COMMENT ON COLUMN policyd.alias.destination IS
    'user@example.net, or a local user';
COMMENT ON COLUMN policyd.alias.expires_at IS
    'From then on this row counts no more';
COMMENT ON COLUMN policyd.alias.enabled IS
    'False: this row does not count';

CREATE TABLE policyd.domain_alias (
	name text COLLATE "C" PRIMARY KEY
	    CHECK (policyd.domain_error(name) IS NULL),
	target text COLLATE "C" NOT NULL
	    CHECK (policyd.domain_error(target) IS NULL),
	CHECK (lower(name) <> lower(target))
);
CREATE UNIQUE INDEX domain_alias_is_unique
    ON policyd.domain_alias (lower(name));
CREATE INDEX domain_alias_target ON policyd.domain_alias (lower(target));

COMMENT ON TABLE policyd.domain_alias IS
    'Other names of domains: every address of target exists under name too';
COMMENT ON COLUMN policyd.domain_alias.name IS 'The other name';
COMMENT ON COLUMN policyd.domain_alias.target IS
    'The domain itself, not another alias';

GRANT SELECT ON policyd.domain, policyd.address, policyd.alias,
    policyd.domain_alias TO policyd, policyd_admin;
GRANT INSERT, UPDATE, DELETE, TRUNCATE ON policyd.domain, policyd.address,
    policyd.alias, policyd.domain_alias TO policyd_admin;

---- What the CHECK constraints refuse, said so that it helps

CREATE FUNCTION policyd.recipients_error(recipients text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN recipients NOT IN ('listed', 'any', 'verify')
    THEN policyd.quoted(recipients) || ' does not say which recipients exist'
    END;
COMMENT ON FUNCTION policyd.recipients_error IS
    'Null, or what is wrong with domain.recipients';

CREATE FUNCTION policyd.max_recipients_error(max_recipients integer)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN max_recipients < 1
    THEN policyd.quoted(max_recipients::text) || ' is no limit of recipients'
    END;
COMMENT ON FUNCTION policyd.max_recipients_error IS
    'Null, or what is wrong with domain.max_recipients';

CREATE FUNCTION policyd.domain_alias_error(name text, target text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN lower(name COLLATE "C") = lower(target COLLATE "C")
    THEN policyd.quoted(name) || ' cannot be an alias of itself' END;
COMMENT ON FUNCTION policyd.domain_alias_error IS
    'Null, or what is wrong with a row of domain_alias';

CREATE TRIGGER check_name BEFORE INSERT OR UPDATE ON policyd.domain
    FOR EACH ROW WHEN (policyd.domain_error(new.name) IS NOT NULL)
    EXECUTE FUNCTION policyd.refuse('domain_error',
	'Write a name such as example.com, or an address such as [192.0.2.1].',
	'name');
CREATE TRIGGER check_recipients BEFORE INSERT OR UPDATE ON policyd.domain
    FOR EACH ROW WHEN (policyd.recipients_error(new.recipients) IS NOT NULL)
    EXECUTE FUNCTION policyd.refuse('recipients_error',
	'Write listed, any or verify.', 'recipients');
CREATE TRIGGER check_max_recipients BEFORE INSERT OR UPDATE ON policyd.domain
    FOR EACH ROW
    WHEN (policyd.max_recipients_error(new.max_recipients) IS NOT NULL)
    EXECUTE FUNCTION policyd.refuse('max_recipients_error',
	'Write a number from 1 on, or NULL for the limit in policyd.ini.',
	'max_recipients');

CREATE TRIGGER check_address BEFORE INSERT OR UPDATE ON policyd.address
    FOR EACH ROW WHEN (policyd.address_error(new.address) IS NOT NULL)
    EXECUTE FUNCTION policyd.refuse('address_error',
	'Write user@example.com, or @example.com for every other address of '
	'the domain.', 'address');
CREATE TRIGGER check_reply BEFORE INSERT OR UPDATE ON policyd.address
    FOR EACH ROW WHEN (policyd.action_error(new.reply) IS NOT NULL)
    EXECUTE FUNCTION policyd.refuse('action_error',
	'Write an action such as 550 5.7.1 No mail wanted here, REJECT, DUNNO '
	'or REDIRECT user@example.com.', 'reply');

CREATE TRIGGER check_address BEFORE INSERT OR UPDATE ON policyd.alias
    FOR EACH ROW WHEN (policyd.address_error(new.address) IS NOT NULL)
    EXECUTE FUNCTION policyd.refuse('address_error',
	'Write user@example.com, or @example.com for every other address of '
	'the domain.', 'address');
CREATE TRIGGER check_destination BEFORE INSERT OR UPDATE ON policyd.alias
    FOR EACH ROW WHEN (policyd.destination_error(new.destination) IS NOT NULL)
    EXECUTE FUNCTION policyd.refuse('destination_error',
	'Write user@example.net, or the name of a local user.', 'destination');

CREATE TRIGGER check_name BEFORE INSERT OR UPDATE ON policyd.domain_alias
    FOR EACH ROW WHEN (policyd.domain_error(new.name) IS NOT NULL)
    EXECUTE FUNCTION policyd.refuse('domain_error',
	'Write a name such as example.com, or an address such as [192.0.2.1].',
	'name');
CREATE TRIGGER check_target BEFORE INSERT OR UPDATE ON policyd.domain_alias
    FOR EACH ROW WHEN (policyd.domain_error(new.target) IS NOT NULL)
    EXECUTE FUNCTION policyd.refuse('domain_error',
	'Write a name such as example.com, or an address such as [192.0.2.1].',
	'target');
CREATE TRIGGER check_unlike BEFORE INSERT OR UPDATE ON policyd.domain_alias
    FOR EACH ROW
    WHEN (policyd.domain_alias_error(new.name, new.target) IS NOT NULL)
    EXECUTE FUNCTION policyd.refuse('domain_alias_error',
	'Write the domain that has the addresses as the target.',
	'name', 'target');

-- An alias of an alias would have to be followed at every mail.  Looked for
-- when the statement is done, so that one statement may turn things round.
CREATE FUNCTION policyd.refuse_chain()
RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	first text;
	second text;
	third text;
BEGIN
	-- Two transactions that do not see each other could make one together.
	PERFORM pg_advisory_xact_lock('policyd.domain_alias'::regclass::bigint);
	SELECT a.name, a.target, b.target INTO first, second, third
	FROM policyd.domain_alias AS a
	JOIN policyd.domain_alias AS b ON lower(b.name) = lower(a.target)
	WHERE lower(a.name) IN (SELECT lower(name) FROM new_rows)
	    OR lower(b.name) IN (SELECT lower(name) FROM new_rows)
	LIMIT 1;
	IF NOT FOUND THEN
		RETURN NULL;
	END IF;
	RAISE EXCEPTION USING
	    ERRCODE = 'check_violation',
	    MESSAGE = format('%s cannot be an alias of %s, which is itself an '
		'alias of %s', policyd.quoted(first), policyd.quoted(second),
		policyd.quoted(third)),
	    HINT = CASE WHEN lower(third) = lower(first)
		THEN 'Remove one of the two rows.'
		ELSE format('Write %s as the target of %s.', third, first) END,
	    SCHEMA = tg_table_schema,
	    TABLE = tg_table_name,
	    COLUMN = 'target';
END
$$;
COMMENT ON FUNCTION policyd.refuse_chain IS
    'Trigger: no alias of an alias among the domains';

CREATE TRIGGER refuse_chain_insert AFTER INSERT ON policyd.domain_alias
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION policyd.refuse_chain();
CREATE TRIGGER refuse_chain_update AFTER UPDATE ON policyd.domain_alias
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION policyd.refuse_chain();

CALL policyd.announce_changes('policyd.domain', 'domain', 'name');
CALL policyd.announce_changes('policyd.address', 'address', 'address');
CALL policyd.announce_changes('policyd.alias', 'alias', 'address');
CALL policyd.announce_changes('policyd.domain_alias', 'domain_alias', 'name');

INSERT INTO policyd.schema_version (version) VALUES (3);
