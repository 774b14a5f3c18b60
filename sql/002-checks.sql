-- Step 2: what a value must look like, and what happens when a row changes.
--
-- There are two functions for each kind of value.  X_error(value) is null or
-- says what is wrong; CHECK constraints and triggers call it, and it is cheap:
-- plain values pass two regular expressions, in the caller's own plan.
-- X_fault(value) looks at all others in detail.  What an _error passes, its
-- _fault would pass too.  (The letters beyond ASCII that it knows are those of
-- the scripts from Latin to Thai, and of Japanese, Chinese and Korean.)

-- A value as a message quotes it: not too long, and nothing invisible in it.
CREATE FUNCTION policyd.quoted(value text)
RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN '"' || regexp_replace(
    CASE WHEN length(value) > 120 THEN left(value, 117) || '...' ELSE value END,
    '[\u0001-\u001f\u007f-\u009f]', '?', 'g') || '"';
COMMENT ON FUNCTION policyd.quoted IS 'A value as error messages show it';

---- Domains

-- [192.0.2.1] or [IPv6:2001:db8::1]
CREATE FUNCTION policyd.literal_fault(literal text)
RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	v4 text := substring(literal from '^\[(\d+\.\d+\.\d+\.\d+)\]$');
	v6 text := substring(literal from '^\[[Ii][Pp][Vv]6:([0-9A-Fa-f:.]+)\]$');
BEGIN
	IF family(v4::inet) = 4 OR family(v6::inet) = 6 THEN
		RETURN NULL;
	END IF;
	RETURN 'no IP address stands in the brackets';
EXCEPTION WHEN invalid_text_representation THEN
	RETURN 'no IP address stands in the brackets';
END
$$;
COMMENT ON FUNCTION policyd.literal_fault IS
    'What is wrong with an address literal';

CREATE FUNCTION policyd.domain_fault(name text)
RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	-- Beyond ASCII anything may be a letter to IDNA, but for what looks
	-- like a blank or a dot and is neither.
	stranger text := substring(name from '[\u0001-,/:-@[-^`{-\u00a0'
	    '\u1680\u2000-\u200f\u2028-\u202f\u205f\u2060\u3000\u3002\ufeff'
	    '\uff0e\uff61]');
	label text;
	fault text;
BEGIN
	IF starts_with(name, '[') THEN
		RETURN policyd.literal_fault(name);
	END IF;
	fault := CASE
	    WHEN name = '' THEN 'it is empty'
	    WHEN octet_length(name) > 255 THEN 'it is longer than 255 bytes'
	    WHEN stranger ~ '[\u0001-\u001f\u007f-\u009f]'
	    THEN 'a control character stands in it'
	    WHEN stranger = ' ' THEN 'a blank stands in it'
	    WHEN stranger ~ '[\u00a0-\uffff]'
	    THEN 'what looks like a blank or a dot stands in it'
	    WHEN stranger IS NOT NULL
	    THEN policyd.quoted(stranger) || ' stands in it'
	    WHEN starts_with(name, '.') THEN 'a dot stands at its beginning'
	    WHEN right(name, 1) = '.' THEN 'a dot stands at its end'
	    WHEN name ~ '\.\.' THEN 'two dots stand side by side'
	    WHEN name ~ '^[0-9.]+$'
	    THEN 'it is a number; an IP address stands in brackets, [192.0.2.1]'
	END;
	IF fault IS NOT NULL THEN
		RETURN fault;
	END IF;
	FOREACH label IN ARRAY string_to_array(name, '.') LOOP
		-- The bytes of a U-label say nothing about its A-label, which
		-- has at least a letter for each of its characters.
		fault := CASE
		    WHEN starts_with(label, '-') THEN 'begins with a hyphen'
		    WHEN right(label, 1) = '-' THEN 'ends in a hyphen'
		    WHEN length(label) > 63 THEN 'is longer than 63 bytes'
		END;
		IF fault IS NOT NULL THEN
			RETURN 'the label ' || policyd.quoted(label) || ' '
			    || fault;
		END IF;
	END LOOP;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION policyd.domain_fault IS
    'What is wrong with a domain name or address literal';

CREATE FUNCTION policyd.domain_error(name text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN octet_length(name) <= 63
    AND name ~ ('^[A-Za-z0-9_.\u00c0-\u167f\u3041-\ud7ff-]*'
	'[A-Za-z\u00c0-\u167f\u3041-\ud7ff]$')
    AND name !~ '^[.-]|[.-][.]|[.]-'
    THEN NULL
    ELSE policyd.quoted(name) || ' is no domain name: '
	|| policyd.domain_fault(name) END;
COMMENT ON FUNCTION policyd.domain_error IS
    'Null, or what is wrong with a domain name';

---- Addresses

-- A local part is what Postfix passes on: the quotes are stripped, blanks and
-- an "@" may be in it, and the domain is what follows the last "@".
CREATE FUNCTION policyd.address_fault(address text, is_destination boolean)
RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	local text := substring(address from '^(.*)@[^@]*$');
	domain text := substring(address from '[^@]*$');
	blank text := '[ \u00a0\u1680\u2000-\u200f\u2028-\u202f\u205f\u2060'
	    '\u3000\ufeff]';
BEGIN
	RETURN CASE
	    WHEN address = '' THEN 'it is empty'
	    WHEN octet_length(address) > 512
	    THEN 'it is longer than 512 bytes'
	    WHEN address ~ '[\u0001-\u001f\u007f-\u009f]'
	    THEN 'a control character stands in it'
	    WHEN address ~ ('^' || blank || '|' || blank || '$')
	    THEN 'a blank stands before or after it'
	    WHEN is_destination AND address ~ '^[^|/:"].*,'
	    THEN 'a comma stands in it; every destination is a row of its own'
	    WHEN is_destination AND local IS NULL THEN NULL
	    WHEN local IS NULL THEN 'an "@" is missing'
	    WHEN domain = '' THEN 'nothing stands after the "@"'
	    WHEN local = '' AND is_destination
	    THEN 'nothing stands before the "@"'
	    WHEN right(local, 1) = '@' THEN 'two "@" stand side by side'
	    WHEN local ~ (blank || '$') THEN 'a blank stands before the "@"'
	    WHEN local ~ '^".*"$'
	    THEN 'the local part stands in quotes, which Postfix strips'
	    ELSE 'the domain is wrong: ' || policyd.domain_fault(domain)
	END;
END
$$;
COMMENT ON FUNCTION policyd.address_fault IS
    'What is wrong with an address, or with the destination of an alias';

CREATE FUNCTION policyd.address_error(address text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN octet_length(address) <= 63
    AND address ~ ('^[A-Za-z0-9!#$%&''*+/=?^_`{|}~.'
	'\u00c0-\u167f\u3041-\ud7ff-]*@'
	'[A-Za-z0-9_.\u00c0-\u167f\u3041-\ud7ff-]*'
	'[A-Za-z\u00c0-\u167f\u3041-\ud7ff]$')
    AND address !~ '[@.-][.]|[@.]-'
    THEN NULL
    ELSE policyd.quoted(address) || ' is no address: '
	|| policyd.address_fault(address, false) END;
COMMENT ON FUNCTION policyd.address_error IS
    'Null, or what is wrong with user@domain or @domain';

CREATE FUNCTION policyd.destination_error(address text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN octet_length(address) <= 63
    AND address ~ ('^[A-Za-z0-9!#$%&''*+/=?^_`{|}~.'
	'\u00c0-\u167f\u3041-\ud7ff-]+@'
	'[A-Za-z0-9_.\u00c0-\u167f\u3041-\ud7ff-]*'
	'[A-Za-z\u00c0-\u167f\u3041-\ud7ff]$')
    AND address !~ '[@.-][.]|[@.]-'
    THEN NULL
    ELSE policyd.quoted(address) || ' is no destination: '
	|| policyd.address_fault(address, true) END;
COMMENT ON FUNCTION policyd.destination_error IS
    'Null, or what is wrong with the destination of an alias';

---- Actions: the twin of policyd/mail/action.c

-- What kind of action the first word makes it; null: it is no action's name.
CREATE FUNCTION policyd.action_form(word text)
RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN word ~ '^[45][0-9][0-9]$' THEN 'code'
    WHEN word ~ '^[0-9]+$' THEN 'number'
    ELSE (SELECT form
	FROM (VALUES
	    ('dunno', 'text'),
	    ('ok', 'text'),
	    ('relay', 'text'),
	    ('reject', 'dsn_text'),
	    ('defer', 'dsn_text'),
	    ('defer_if_permit', 'dsn_text'),
	    ('defer_if_reject', 'dsn_text'),
	    ('hold', 'text'),
	    ('discard', 'text'),
	    ('info', 'text'),
	    ('warn', 'text'),
	    ('filter', 'transport'),
	    ('redirect', 'address'),
	    ('bcc', 'address'),
	    ('prepend', 'header')
	) AS action (name, form)
	WHERE name = lower(word COLLATE "C"))
    END;
COMMENT ON FUNCTION policyd.action_form IS
    'The kind of action that begins with this word; null if none does';

-- The restrictions that Postfix knows by name and that make sense as an answer,
-- with the pattern of their argument, or '' where they take none.
CREATE FUNCTION policyd.restriction_argument(name text)
RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT argument
	FROM (VALUES
	    ('permit', ''),
	    ('defer', ''),
	    ('reject', ''),
	    ('warn_if_reject', ''),
	    ('defer_if_permit', ''),
	    ('defer_if_reject', ''),
	    ('permit_mynetworks', ''),
	    ('permit_sasl_authenticated', ''),
	    ('permit_tls_clientcerts', ''),
	    ('permit_tls_all_clientcerts', ''),
	    ('permit_auth_destination', ''),
	    ('permit_mx_backup', ''),
	    ('permit_inet_interfaces', ''),
	    ('reject_unauth_destination', ''),
	    ('defer_unauth_destination', ''),
	    ('reject_unauth_pipelining', ''),
	    ('reject_unverified_recipient', ''),
	    ('reject_unverified_sender', ''),
	    ('reject_unlisted_recipient', ''),
	    ('reject_unlisted_sender', ''),
	    ('reject_unknown_client_hostname', ''),
	    ('reject_unknown_reverse_client_hostname', ''),
	    ('reject_unknown_helo_hostname', ''),
	    ('reject_unknown_recipient_domain', ''),
	    ('reject_unknown_sender_domain', ''),
	    ('reject_invalid_helo_hostname', ''),
	    ('reject_non_fqdn_helo_hostname', ''),
	    ('reject_non_fqdn_recipient', ''),
	    ('reject_non_fqdn_sender', ''),
	    ('reject_sender_login_mismatch', ''),
	    ('reject_authenticated_sender_login_mismatch', ''),
	    ('reject_known_sender_login_mismatch', ''),
	    ('reject_unauthenticated_sender_login_mismatch', ''),
	    ('reject_multi_recipient_bounce', ''),
	    ('reject_plaintext_session', ''),
	    ('reject_rbl_client', '^[A-Za-z0-9._=;[\]-]+$'),
	    ('reject_rhsbl_client', '^[A-Za-z0-9._=;[\]-]+$'),
	    ('reject_rhsbl_helo', '^[A-Za-z0-9._=;[\]-]+$'),
	    ('reject_rhsbl_recipient', '^[A-Za-z0-9._=;[\]-]+$'),
	    ('reject_rhsbl_reverse_client', '^[A-Za-z0-9._=;[\]-]+$'),
	    ('reject_rhsbl_sender', '^[A-Za-z0-9._=;[\]-]+$'),
	    ('permit_dnswl_client', '^[A-Za-z0-9._=;[\]-]+$'),
	    ('permit_rhswl_client', '^[A-Za-z0-9._=;[\]-]+$'),
	    ('sleep', '^[0-9]+$')
	) AS restriction (name, argument)
	WHERE restriction.name = lower($1 COLLATE "C");
END;
COMMENT ON FUNCTION policyd.restriction_argument IS
    'The argument of a restriction of Postfix, as a pattern; null if unknown';

-- A list as it may stand in main.cf: blanks and commas between the words.
CREATE FUNCTION policyd.restrictions_fault(list text)
RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	words text[] := regexp_split_to_array(btrim(list, ' ,'), '[ ,]+');
	pattern text := '';
	word text;
	name text;
BEGIN
	FOREACH word IN ARRAY words LOOP
		IF pattern <> '' THEN
			EXIT WHEN word !~ pattern;
			pattern := '';
			CONTINUE;
		END IF;
		name := word;
		pattern := policyd.restriction_argument(word);
		IF pattern IS NULL THEN
			RETURN policyd.quoted(word)
			    || ' is no action and no restriction of Postfix';
		END IF;
	END LOOP;
	IF pattern = '' THEN
		RETURN NULL;
	END IF;
	RETURN policyd.quoted(name) || CASE WHEN word IS NOT NULL
	    AND word <> name THEN ' does not take ' || policyd.quoted(word)
	    ELSE ' takes an argument' END;
END
$$;
COMMENT ON FUNCTION policyd.restrictions_fault IS
    'What is wrong with a list of restrictions';

CREATE FUNCTION policyd.action_fault(action text)
RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	form text := policyd.action_form(substring(action from '^[^ ]+'));
	rest text := substring(action from '^[^ ]+ *(.*)$');
	fault text := CASE
	    WHEN action = '' THEN 'it is empty, which permits'
	    WHEN octet_length(action) > 400 THEN 'it is longer than 400 bytes'
	    WHEN action ~ '[\u0001-\u001f\u007f-\u009f]'
	    THEN 'a control character stands in it'
	    WHEN action <> btrim(action, ' ')
	    THEN 'a blank stands before or after it'
	END;
BEGIN
	IF fault IS NOT NULL THEN
		RETURN fault;
	END IF;
	IF form IS NULL THEN
		RETURN policyd.restrictions_fault(action);
	END IF;
	-- A code and an enhanced code need a text: without one the first
	-- permits, and the second prints leftovers of Postfix's memory.
	RETURN (SELECT otherwise
	    FROM (VALUES
		('text', '', ''),
		('code', '^(?![0-9]\.[0-9]{1,3}\.[0-9]{1,3}$).',
		    'a text must follow the code'),
		('dsn_text', '^(?![0-9]\.[0-9]{1,3}\.[0-9]{1,3}$)',
		    'a text must follow the code'),
		('number', '^(?!)',
		    'it begins with a number that is no 4NN or 5NN'),
		('transport', '^[^ :]+:[^ ]*$',
		    'FILTER takes transport:destination'),
		('address', '^[^ ]+@[^ @]+$',
		    'one address must follow, user@example.com'),
		('header', '^[!-9;-~]+:.*[^ ]',
		    'PREPEND takes a header, Name: value')
	    ) AS follows (name, pattern, otherwise)
	    WHERE name = form AND rest !~ pattern);
END
$$;
COMMENT ON FUNCTION policyd.action_fault IS 'What is wrong with an action';

CREATE FUNCTION policyd.action_error(action text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN octet_length(action) <= 400
    AND action ~ '^[45][0-9][0-9] [245]\.[0-9]\.[0-9] [!-~]+(?: [!-~]+)*$'
    THEN NULL
    ELSE policyd.quoted(action) || ' is no action: '
	|| policyd.action_fault(action) END;
COMMENT ON FUNCTION policyd.action_error IS
    'Null, or what is wrong with an action of Postfix';

---- Triggers

-- refuse(CHECKER, HINT, COLUMN...): the error that goes with a WHEN condition
-- in which CHECKER found something wrong with these columns.
CREATE FUNCTION policyd.refuse()
RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	fault text;
BEGIN
	EXECUTE format('SELECT policyd.%I(%s)', tg_argv[0],
	    (SELECT string_agg(format('($1).%I', name), ', ')
	    FROM unnest(tg_argv[2:]) AS name))
	INTO fault USING new;
	RAISE EXCEPTION USING
	    ERRCODE = 'check_violation',
	    MESSAGE = fault,
	    HINT = tg_argv[1],
	    SCHEMA = tg_table_schema,
	    TABLE = tg_table_name,
	    COLUMN = tg_argv[2];
END
$$;
COMMENT ON FUNCTION policyd.refuse IS
    'Trigger refuse(CHECKER, HINT, COLUMN...): the row is refused';

-- announce(TABLE, KEY): tell every daemon which rows of TABLE a statement has
-- changed, by the value of their column KEY; or, where there are many, that it
-- should read them all.
CREATE FUNCTION policyd.announce()
RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	at_most integer := 20;
	keys text[];
	changed text := CASE tg_op
	    WHEN 'INSERT' THEN 'SELECT %1$I AS key FROM new_rows'
	    WHEN 'DELETE' THEN 'SELECT %1$I AS key FROM old_rows'
	    WHEN 'UPDATE' THEN 'SELECT %1$I AS key FROM old_rows'
		' UNION ALL SELECT %1$I FROM new_rows'
	END;
BEGIN
	IF tg_op = 'TRUNCATE' THEN
		PERFORM pg_notify('policyd', tg_argv[0]);
		RETURN NULL;
	END IF;
	IF tg_op = 'UPDATE' THEN
		at_most := 2 * at_most;
	END IF;
	EXECUTE format('SELECT array_agg(key) FROM (' || changed
	    || ' LIMIT %2$s) AS t', tg_argv[1], at_most + 1) INTO keys;
	IF cardinality(keys) > at_most THEN
		PERFORM pg_notify('policyd', tg_argv[0]);
	ELSE
		-- No row of ours has such a key, but a site's own tables may.
		PERFORM pg_notify('policyd', CASE
		    WHEN octet_length(key) <= 1000
		    THEN tg_argv[0] || ':' || key ELSE tg_argv[0] END)
		FROM (SELECT DISTINCT unnest(keys)) AS t (key);
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION policyd.announce IS
    'Trigger announce(TABLE, KEY): NOTIFY policyd of what a statement changed';

-- A trigger with a transition table can be for one event only.
CREATE PROCEDURE policyd.announce_changes(what regclass, name text, key text)
LANGUAGE plpgsql AS $$
DECLARE
	event text;
	rows text;
BEGIN
	FOR event, rows IN VALUES
	    ('insert', 'REFERENCING NEW TABLE AS new_rows'),
	    ('update', 'REFERENCING OLD TABLE AS old_rows'
		' NEW TABLE AS new_rows'),
	    ('delete', 'REFERENCING OLD TABLE AS old_rows'),
	    ('truncate', '')
	LOOP
		EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s %s'
		    ' FOR EACH STATEMENT EXECUTE FUNCTION'
		    ' policyd.announce(%L, %L)',
		    'announce_' || event, event, what, rows, name, key);
	END LOOP;
END
$$;
COMMENT ON PROCEDURE policyd.announce_changes IS
    'Make a table announce its changes, as those of policyd.NAME by column KEY';

INSERT INTO policyd.schema_version (version) VALUES (2);
