-- Step 4: the rules, the lists that they ask, and the schema for scripts.
--
-- The language of conditions and actions is the one of
-- policyd/tables/condition.c and policyd/tables/rule.c, byte for byte;
-- t/12-rules-schema.t holds the two against each other.

---- Words of the language

-- What a rule may ask of a request, and the kind of its value.
CREATE FUNCTION policyd.attribute_kind(name text)
RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT kind
	FROM (VALUES
	    ('protocol_state', 'text'),
	    ('protocol_name', 'text'),
	    ('client_address', 'address'),
	    ('client_name', 'text'),
	    ('client_port', 'number'),
	    ('reverse_client_name', 'text'),
	    ('server_address', 'address'),
	    ('server_port', 'number'),
	    ('helo_name', 'text'),
	    ('sender', 'mail'),
	    ('recipient', 'mail'),
	    ('recipient_count', 'number'),
	    ('queue_id', 'text'),
	    ('instance', 'text'),
	    ('size', 'number'),
	    ('etrn_domain', 'text'),
	    ('stress', 'text'),
	    ('sasl_method', 'text'),
	    ('sasl_username', 'mail'),
	    ('sasl_sender', 'mail'),
	    ('ccert_subject', 'text'),
	    ('ccert_issuer', 'text'),
	    ('ccert_fingerprint', 'text'),
	    ('ccert_pubkey_fingerprint', 'text'),
	    ('encryption_protocol', 'text'),
	    ('encryption_cipher', 'text'),
	    ('encryption_keysize', 'number'),
	    ('tls_sni', 'text'),
	    ('policy_context', 'text'),
	    ('compatibility_level', 'text'),
	    ('mail_version', 'text'),
	    ('sender_domain', 'text'),
	    ('sender_localpart', 'text'),
	    ('recipient_domain', 'text'),
	    ('recipient_localpart', 'text'),
	    ('recipient_is_local', 'yesno'),
	    ('client', 'text')
	) AS attribute (name, kind)
	WHERE attribute.name = lower($1 COLLATE "C");
END;
COMMENT ON FUNCTION policyd.attribute_kind IS
    'text, mail, address, number or yesno; null: no attribute has this name';

-- {attribute}: other braces are plain text.
CREATE FUNCTION policyd.placeholder_fault(value text)
RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT policyd.quoted(match[1]) || ' is no attribute'
	FROM regexp_matches(value, '\{([A-Za-z_]+)\}', 'g') AS match
	WHERE policyd.attribute_kind(match[1]) IS NULL
	LIMIT 1;
END;
COMMENT ON FUNCTION policyd.placeholder_fault IS
    'What is wrong with the placeholders in a text';

-- 192.0.2.0/24, 2001:db8::/32, or an address alone.
CREATE FUNCTION policyd.cidr_fault(value text)
RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	v4 text := '(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}'
	    '(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])';
	address text := substring(value from '^[^/]*');
	prefix text := substring(value from '/(.*)$');
	bits integer := CASE WHEN strpos(address, ':') > 0 THEN 128 ELSE 32 END;
BEGIN
	IF address !~ (CASE bits WHEN 32 THEN '^' || v4 || '$'
	    ELSE '^[0-9A-Fa-f:]+(?::' || v4 || ')?$' END) THEN
		RETURN policyd.quoted(address) || ' is no IP address';
	END IF;
	IF prefix !~ '^(?:0|[1-9][0-9]{0,2})$' OR prefix::integer > bits THEN
		RETURN policyd.quoted('/' || prefix)
		    || ' is no prefix: it goes from /0 to /' || bits;
	END IF;
	IF host(value::inet) <> host(network(value::inet)) THEN
		RETURN 'bits are set behind the prefix: the network is '
		    || network(value::inet);
	END IF;
	RETURN NULL;
EXCEPTION WHEN invalid_text_representation THEN
	RETURN policyd.quoted(address) || ' is no IP address';
END
$$;
COMMENT ON FUNCTION policyd.cidr_fault IS
    'What is wrong with an IP address or network';

-- As in step 2, but without the spellings that only PostgreSQL's inet knows.
CREATE OR REPLACE FUNCTION policyd.literal_fault(literal text)
RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN policyd.cidr_fault(coalesce(
	substring(literal from '^\[([0-9.]+)\]$'),
	substring(literal from '^\[[Ii][Pp][Vv]6:([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)\]$'),
	'')) IS NOT NULL
    THEN 'no IP address stands in the brackets' END;

CREATE FUNCTION policyd.glob_fault(glob text)
RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	rest text := glob;
	part text;
	range text[];
BEGIN
	WHILE rest <> '' LOOP
		-- What is no set, then a set.
		part := substring(rest from '^(?:[^[\\]|\\.)+');
		rest := substr(rest, coalesce(length(part), 0) + 1);
		IF rest = '\' THEN
			RETURN 'nothing stands after the "\" at its end';
		END IF;
		EXIT WHEN rest = '';
		part := substring(rest
		    from '^\[(?:!|(?!!))(?:\]|(?!\]))[^]]*\]');
		IF part IS NULL THEN
			RETURN policyd.quoted(rest)
			    || ' begins a set that no "]" ends';
		END IF;
		rest := substr(rest, length(part) + 1);
		FOR range IN SELECT regexp_matches(
		    substring(part from '^\[!?(.*)\]$'), '(.)-(.)|.', 'g')
		LOOP
			IF range[1] COLLATE "C" > range[2] COLLATE "C" THEN
				RETURN policyd.quoted(range[1] || '-'
				    || range[2]) || ' runs backwards';
			END IF;
		END LOOP;
	END LOOP;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION policyd.glob_fault IS
    'What is wrong with the pattern of like';

CREATE FUNCTION policyd.regex_fault(regex text)
RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM '' ~* regex;
	RETURN NULL;
EXCEPTION WHEN invalid_regular_expression THEN
	RETURN sqlerrm;
END
$$;
COMMENT ON FUNCTION policyd.regex_fault IS
    'What is wrong with a regular expression';

---- Conditions

-- What is wrong with a text of at most so many bytes, whatever it means.
CREATE FUNCTION policyd.text_fault(value text, at_most integer)
RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN octet_length(value) > at_most
    THEN 'it is longer than ' || at_most || ' bytes'
    WHEN value ~ '[\u0001-\u001f\u007f-\u009f]'
    THEN 'a control character stands in it'
    END;
COMMENT ON FUNCTION policyd.text_fault IS
    'What is wrong with a text: too long, or a control character in it';

-- The part behind `in`.
CREATE FUNCTION policyd.items_fault(kind text, value text,
    OUT fault text, OUT hint text)
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	list text := substring(value from '^[Ll][Ii][Ss][Tt]:(.*)$');
	item text;
BEGIN
	IF list IS NOT NULL THEN
		hint := 'Write a list of mail addresses, networks or names: '
		    'sender in list:blocked.';
		fault := CASE
		    WHEN kind IN ('number', 'yesno')
		    THEN 'such an attribute can be in no list'
		    WHEN list !~ '^[A-Za-z0-9_.-]{1,63}$'
		    THEN policyd.quoted(list) || ' is no name of a list' END;
		RETURN;
	END IF;
	FOREACH item IN ARRAY string_to_array(value, ',') LOOP
		item := btrim(item, ' ');
		hint := CASE
		    WHEN kind = 'yesno' THEN 'Write yes or no.'
		    WHEN kind = 'address' THEN 'Write client_address in '
			'192.0.2.0/24, 2001:db8::/32, or in list:NAME.'
		    ELSE 'Write sender in a@example.com, b@example.com, or '
			'in list:NAME.' END;
		fault := CASE
		    WHEN item = '' THEN 'an item is empty'
		    WHEN octet_length(item) > 500
		    THEN policyd.quoted(item) || ' is longer than 500 bytes'
		    WHEN kind = 'address' THEN policyd.cidr_fault(item)
		    WHEN kind = 'yesno'
			AND lower(item COLLATE "C") NOT IN ('yes', 'no')
		    THEN policyd.quoted(item) || ' is neither yes nor no'
		    END;
		EXIT WHEN fault IS NOT NULL;
	END LOOP;
END
$$;
COMMENT ON FUNCTION policyd.items_fault IS
    'What is wrong with the items of in';

-- What is wrong with the value of an operator, for an attribute of this kind.
CREATE FUNCTION policyd.value_fault(kind text, operator text, value text,
    OUT fault text, OUT hint text)
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	open boolean := value ~ '\{[A-Za-z_]+\}';
	word text := lower(value COLLATE "C");
BEGIN
	CASE
	WHEN operator = 'in' THEN
		SELECT (f).* INTO fault, hint
		FROM policyd.items_fault(kind, value) AS f;
	WHEN octet_length(value) > 500 THEN
		fault := policyd.quoted(value) || ' is longer than 500 bytes';
		hint := 'Write a shorter value, or sender in list:blocked.';
	WHEN operator ~ '[<>]' THEN
		hint := 'Write size > 20000000, or with k, M or G: size > 20M.';
		fault := CASE
		    WHEN kind <> 'number'
		    THEN 'such an attribute is not compared by '
			|| policyd.quoted(operator)
		    WHEN value !~ '^[0-9]{1,15}[kKmMgG]?$'
		    THEN policyd.quoted(value) || ' is no number' END;
	WHEN operator = 'like' THEN
		fault := policyd.glob_fault(value);
		hint := 'Write client_name like *.dyn[0-9]?.example.com.';
	WHEN operator = 'matches' THEN
		fault := policyd.regex_fault(value);
		hint := 'Write client_name matches '
		    '^dyn(-[0-9]+){4}[.]example[.]com$.';
	WHEN operator = 'under' AND kind NOT IN ('text', 'mail') THEN
		fault := 'such an attribute has no domain';
		hint := 'Write recipient under example.com.';
	WHEN open THEN
		fault := policyd.placeholder_fault(value);
		hint := 'Write the name of an attribute: '
		    'sender != {sasl_username}.';
	WHEN operator = 'under' THEN
		fault := policyd.domain_error(value);
		hint := 'Write recipient under example.com: without @, * or a '
		    'dot before it.';
	WHEN kind = 'address' THEN
		fault := CASE
		    WHEN word = 'unknown' THEN NULL
		    WHEN strpos(value, '/') > 0
		    THEN policyd.quoted(value) || ' is no address'
		    ELSE policyd.cidr_fault(value) END;
		hint := 'Write client_address = 192.0.2.1, or '
		    'client_address in 192.0.2.0/24.';
	WHEN kind = 'yesno' THEN
		fault := CASE WHEN word NOT IN ('yes', 'no') THEN
		    policyd.quoted(value) || ' is neither yes nor no' END;
		hint := 'Write recipient_is_local = yes.';
	ELSE
		NULL;
	END CASE;
END
$$;
COMMENT ON FUNCTION policyd.value_fault IS
    'What is wrong with the value of a condition';

CREATE FUNCTION policyd.condition_fault(condition text,
    OUT fault text, OUT hint text)
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	part text[] := regexp_match(condition,
	    '^ *(?:[Nn][Oo][Tt] +)?([A-Za-z_]*) *(.*?) *$');
	kind text := policyd.attribute_kind(part[1]);
	rest text := part[2];
	sign text := substring(rest from '^(?:[!<>]=|[=<>])');
	operator text := coalesce(sign,
	    lower(substring(rest from '^[^ ]+') COLLATE "C"));
	value text := ltrim(substr(rest, length(operator) + 1), ' ');
BEGIN
	hint := 'Write a condition such as sender = user@example.com or '
	    'size > 20M.';
	fault := CASE WHEN btrim(condition, ' ') = '' THEN 'it is empty'
	    ELSE policyd.text_fault(condition, 1000) END;
	IF fault IS NOT NULL THEN
		RETURN;
	END IF;
	IF kind IS NULL THEN
		hint := 'Write an attribute such as sender, recipient_domain '
		    'or client_address; policyd.rules(5) has them all.';
		fault := CASE WHEN part[1] = ''
		    THEN 'no attribute stands at its beginning'
		    ELSE policyd.quoted(part[1]) || ' is no attribute' END;
		RETURN;
	END IF;
	hint := 'Write is empty, is not empty, =, !=, <, <=, >, >=, in, under, '
	    'like or matches after the attribute: sender = user@example.com.';
	IF operator IS NULL THEN
		fault := 'no operator stands after the attribute';
	ELSIF operator = 'is' THEN
		fault := CASE WHEN value !~ '^(?:[Nn][Oo][Tt] +)?'
		    '[Ee][Mm][Pp][Tt][Yy]$' THEN policyd.quoted(rest)
		    || ' is neither is empty nor is not empty' END;
	ELSIF sign IS NULL
	    AND operator NOT IN ('in', 'under', 'like', 'matches') THEN
		fault := policyd.quoted(substring(rest from '^[^ ]+'))
		    || ' is no operator';
	ELSIF value = '' THEN
		fault := 'no value stands after '
		    || policyd.quoted(substr(rest, 1, length(operator)));
	ELSE
		SELECT (f).* INTO fault, hint
		FROM policyd.value_fault(kind, operator, value) AS f;
	END IF;
END
$$;
COMMENT ON FUNCTION policyd.condition_fault IS
    'What is wrong with a condition of a rule, and a right one';

CREATE FUNCTION policyd.condition_error(condition text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN policyd.quoted(condition) || ' is no condition: '
    || (policyd.condition_fault(condition)).fault;
COMMENT ON FUNCTION policyd.condition_error IS
    'Null, or what is wrong with a condition of a rule';

CREATE FUNCTION policyd.conditions_error(conditions text[])
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN array_ndims(conditions) > 1 THEN 'the conditions are nested'
    WHEN cardinality(conditions) > 100 THEN 'there are more than 100 conditions'
    WHEN array_position(conditions, NULL) IS NOT NULL
    THEN 'a condition is null'
    ELSE (SELECT policyd.condition_error(condition)
	FROM unnest(conditions) AS condition
	WHERE policyd.condition_error(condition) IS NOT NULL LIMIT 1)
    END;
COMMENT ON FUNCTION policyd.conditions_error IS
    'Null, or what is wrong with the first wrong condition of a rule';

---- Actions of rules

CREATE FUNCTION policyd.setting_fault(setting text, value text)
RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	name text := lower(setting COLLATE "C");
	word text := lower(value COLLATE "C");
	number numeric := substring(value from '^[0-9]+')::numeric;
	unit text := substring(word from '^[0-9]+(.*)$');
	takes text := CASE name
	    WHEN 'relay' THEN 'no, authenticated or yes'
	    WHEN 'vrfy' THEN 'no, authenticated or yes'
	    WHEN 'expn' THEN 'no, authenticated or yes'
	    WHEN 'greylist' THEN 'no or yes'
	    WHEN 'max_recipients' THEN 'a number from 1 to 1000000'
	    WHEN 'errors_total' THEN 'a number from 0 to 1000'
	    WHEN 'errors_wait' THEN 'a duration from 0s to 60s'
	    WHEN 'script' THEN 'the name of a function, or none'
	    END;
BEGIN
	IF takes IS NULL THEN
		RETURN coalesce(policyd.quoted(setting) || ' is no setting',
		    'a setting must follow');
	END IF;
	RETURN CASE WHEN (CASE name
	    WHEN 'greylist' THEN word IN ('no', 'yes')
	    WHEN 'max_recipients' THEN unit = ''
		AND number BETWEEN 1 AND 1000000
	    WHEN 'errors_total' THEN unit = '' AND number BETWEEN 0 AND 1000
	    WHEN 'errors_wait' THEN length(value) < 32 AND number * CASE unit
		WHEN 'ms' THEN 0.001 WHEN 's' THEN 1 WHEN '' THEN 1
		WHEN 'm' THEN 60 WHEN 'h' THEN 3600 WHEN 'd' THEN 86400
		WHEN 'w' THEN 604800 END BETWEEN 0 AND 60
	    WHEN 'script' THEN word = 'none'
		OR value ~ '^[a-z_][a-z0-9_]{0,62}$'
	    ELSE word IN ('no', 'authenticated', 'yes') END) IS NOT TRUE
	THEN coalesce(policyd.quoted(value) || ' is not for ' || name
	    || ', which takes ' || takes, name || ' takes ' || takes) END;
END
$$;
COMMENT ON FUNCTION policyd.setting_fault IS
    'What is wrong with a setting that a rule makes';

-- The actions of our own: set, script, limit and greylist.
CREATE FUNCTION policyd.verb_fault(action text)
RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	part text[] := regexp_match(action, '^([^ ]+) *(.*)$');
	verb text := lower(part[1] COLLATE "C");
	rest text := part[2];
BEGIN
	RETURN CASE
	    WHEN action <> btrim(action, ' ')
	    THEN 'a blank stands before or after it'
	    WHEN policyd.text_fault(action, 400) IS NOT NULL
	    THEN policyd.text_fault(action, 400)
	    WHEN verb = 'greylist' AND rest <> ''
	    THEN policyd.quoted(rest) || ' stands after greylist, which is alone'
	    WHEN verb = 'script' AND rest !~ '^[a-z_][a-z0-9_]{0,62}$'
	    THEN policyd.quoted(rest) || ' is no name of a function'
	    WHEN verb = 'limit' AND rest !~ '^[A-Za-z0-9_.-]{1,63}$'
	    THEN policyd.quoted(rest) || ' is no name of a limit'
	    WHEN verb = 'set' THEN policyd.setting_fault(
		substring(rest from '^[^ ]+'),
		substring(rest from '^[^ ]+ +(.*)$'))
	    END;
END
$$;
COMMENT ON FUNCTION policyd.verb_fault IS
    'What is wrong with set, script, limit or greylist in a rule';

CREATE FUNCTION policyd.rule_action_error(action text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN lower(substring(action from '[^ ]+') COLLATE "C")
	IN ('set', 'script', 'limit', 'greylist')
    THEN policyd.quoted(action) || ' is no action: '
	|| policyd.verb_fault(action)
    ELSE coalesce(policyd.action_error(action),
	policyd.quoted(action) || ' is no action: '
	|| policyd.placeholder_fault(action))
    END;
COMMENT ON FUNCTION policyd.rule_action_error IS
    'Null, or what is wrong with the action of a rule';

CREATE FUNCTION policyd.rule_action_hint(action text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN policyd.placeholder_fault(action) IS NOT NULL
    THEN 'Write the name of an attribute: 550 5.7.1 Not from {sender}.'
    ELSE CASE lower(substring(action from '[^ ]+') COLLATE "C")
	WHEN 'set' THEN 'Write set relay yes, or one of max_recipients, script, '
	    'greylist, vrfy, expn, errors_total and errors_wait with its value.'
	WHEN 'script' THEN
	    'Write script FUNCTION, a function in schema policyd_script.'
	WHEN 'limit' THEN 'Write limit NAME.'
	WHEN 'greylist' THEN 'Write greylist alone, or set greylist no.'
	ELSE 'Write an action such as REJECT 5.7.1 Not wanted here, DUNNO, '
	    'HOLD or set relay yes.'
	END END;
COMMENT ON FUNCTION policyd.rule_action_hint IS
    'A right action beside a wrong one';

CREATE FUNCTION policyd.state_error(state text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN state NOT IN ('CONNECT', 'EHLO', 'HELO', 'MAIL', 'RCPT',
    'DATA', 'END-OF-MESSAGE', 'VRFY', 'ETRN', 'EXPN', 'ANY')
    THEN policyd.quoted(state) || ' is no SMTP state' END;
COMMENT ON FUNCTION policyd.state_error IS
    'Null, or what is wrong with the state of a rule';

---- Lists

-- An entry is of one kind at first sight, so that a mistyped network is not
-- taken for a login.
CREATE FUNCTION policyd.list_value_kind(value text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN strpos(value, '@') > 0 THEN 'mail'
    WHEN value ~ '[g-zG-Z_]' THEN 'name'
    WHEN value ~ '^[0-9.]*[./][0-9./]*$|^[0-9A-Fa-f.:/]*:[0-9A-Fa-f.:/]*$'
    THEN 'address'
    ELSE 'name' END;
COMMENT ON FUNCTION policyd.list_value_kind IS
    'mail, address or name: what a value in a list is about';

CREATE FUNCTION policyd.list_value_fault(value text)
RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	fault text := CASE WHEN value = '' THEN 'it is empty'
	    ELSE policyd.text_fault(value, 512) END;
	kind text := policyd.list_value_kind(value);
BEGIN
	RETURN CASE
	    WHEN fault IS NOT NULL THEN fault
	    WHEN kind = 'address' THEN policyd.cidr_fault(value)
	    WHEN value = '@' THEN 'nothing stands beside the "@"'
	    WHEN value ~ '@$'
	    THEN policyd.address_fault(value || 'example.com', false)
	    WHEN value ~ '^@[.]'
	    THEN 'the domain is wrong: '
		|| policyd.domain_fault(substr(value, 3))
	    WHEN kind = 'mail' THEN policyd.address_fault(value, false)
	    WHEN strpos(value, ' ') > 0 THEN 'a blank stands in it'
	    WHEN strpos(value, ',') > 0
	    THEN 'a comma stands in it; every entry is a row of its own'
	    WHEN strpos(value, '*') > 0
	    THEN 'a "*" stands in it; .example.com is every name below it'
	    WHEN starts_with(value, '.')
	    THEN 'the domain is wrong: '
		|| policyd.domain_fault(substr(value, 2))
	    END;
END
$$;
COMMENT ON FUNCTION policyd.list_value_fault IS
    'What is wrong with a value in a list';

-- Plain networks; all others take the long way.
CREATE FUNCTION policyd.is_plain_network(value text)
RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN value !~ CASE WHEN strpos(value, ':') > 0
	THEN '^(?:[0-9A-Fa-f]{1,4}:){1,6}:(?:/(?:[1-9]?[0-9]|1[01][0-9]|12[0-8]))?$'
	ELSE '^(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])[.]){3}'
	'(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])'
	'(?:/(?:[0-9]|[12][0-9]|3[0-2]))?$' END THEN false
    WHEN strpos(value, '/') = 0 THEN true
    ELSE network(value::inet) = value::inet END;
COMMENT ON FUNCTION policyd.is_plain_network IS
    'True: a network or address that needs no second look';

CREATE FUNCTION policyd.list_value_error(value text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN octet_length(value) <= 63 AND value ~
	('^(?:[A-Za-z0-9!#$%&''*+/=?^_`{|}~-]+(?:[.][A-Za-z0-9_+=-]+)*@)?'
	'(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?[.])*'
	'[A-Za-z](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?$')
    THEN NULL
    WHEN policyd.is_plain_network(value) THEN NULL
    ELSE policyd.quoted(value) || ' is no entry of a list: '
	|| policyd.list_value_fault(value) END;
COMMENT ON FUNCTION policyd.list_value_error IS
    'Null, or what is wrong with a value in a list';

CREATE FUNCTION policyd.list_error(list text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN list !~ '^[A-Za-z0-9_.-]{1,63}$'
    THEN policyd.quoted(list) || ' is no name of a list' END;
COMMENT ON FUNCTION policyd.list_error IS
    'Null, or what is wrong with the name of a list';

-- The lists that a rule asks, each as KIND:LIST, the kind of the attribute.
CREATE FUNCTION policyd.conditions_lists(conditions text[])
RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT array_agg(policyd.attribute_kind(match[1]) || ':' || match[2])
	FROM unnest(conditions) AS condition,
	    regexp_match(condition, '^ *(?:[Nn][Oo][Tt] +)?([A-Za-z_]+) +'
		'[Ii][Nn] +[Ll][Ii][Ss][Tt]:([A-Za-z0-9_.-]+) *$') AS match
	WHERE match IS NOT NULL;
END;
COMMENT ON FUNCTION policyd.conditions_lists IS
    'The lists that conditions ask, as KIND:LIST; null: none';

---- The tables

CREATE TABLE policyd.list_entry (
	list text COLLATE "C" NOT NULL
	    CHECK (policyd.list_error(list) IS NULL),
	value text COLLATE "C" NOT NULL
	    CHECK (policyd.list_value_error(value) IS NULL),
	comment text,
	PRIMARY KEY (list, value)
);
-- One index keeps (list, lower(value)) unique, and finds what was announced.
CREATE UNIQUE INDEX list_entry_is_unique
    ON policyd.list_entry (lower(list || ' ' || value), list);
CREATE INDEX list_entry_kind
    ON policyd.list_entry (list, policyd.list_value_kind(value));

COMMENT ON TABLE policyd.list_entry IS
    'Named lists for the rules: attribute in list:NAME';
COMMENT ON COLUMN policyd.list_entry.list IS
    'The name of the list, in which letter case matters';
COMMENT ON COLUMN policyd.list_entry.value IS
    'user@example.com, user@, @example.com, @.example.com; a network; or a name';
COMMENT ON COLUMN policyd.list_entry.comment IS
    'For people';

CREATE TABLE policyd.rule (
	id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
	priority integer NOT NULL,
	state text COLLATE "C"
	    CHECK (policyd.state_error(state) IS NULL),
	conditions text[] COLLATE "C" NOT NULL DEFAULT '{}'
	    CHECK (policyd.conditions_error(conditions) IS NULL),
	action text COLLATE "C" NOT NULL
	    CHECK (policyd.rule_action_error(action) IS NULL),
	shadow boolean NOT NULL DEFAULT false,
	enabled boolean NOT NULL DEFAULT true,
	comment text
);
CREATE INDEX rule_order ON policyd.rule (priority, id);
CREATE INDEX rule_lists
    ON policyd.rule USING gin (policyd.conditions_lists(conditions));

COMMENT ON TABLE policyd.rule IS
    'What is decided before the recipient is looked at: see policyd.rules(5)';
COMMENT ON COLUMN policyd.rule.id IS
    'Given by PostgreSQL; of two rules of one priority the lower runs first';
COMMENT ON COLUMN policyd.rule.priority IS
    'Lower ones run first';
COMMENT ON COLUMN policyd.rule.state IS
    'The SMTP state that it is for, or ANY; null: RCPT';
COMMENT ON COLUMN policyd.rule.conditions IS
    'All of them must hold; none: it always holds';
COMMENT ON COLUMN policyd.rule.action IS
    'An action of Postfix; or set, script, limit, greylist';
COMMENT ON COLUMN policyd.rule.shadow IS
    'True: only log and count what it would do';
COMMENT ON COLUMN policyd.rule.enabled IS
    'False: as if the row were not there';
COMMENT ON COLUMN policyd.rule.comment IS
    'For people';

GRANT SELECT ON policyd.list_entry, policyd.rule TO policyd, policyd_admin;
GRANT INSERT, UPDATE, DELETE, TRUNCATE ON policyd.list_entry, policyd.rule
    TO policyd_admin;

---- What is refused, said so that it helps

CREATE TRIGGER check_list BEFORE INSERT OR UPDATE ON policyd.list_entry
    FOR EACH ROW WHEN (policyd.list_error(new.list) IS NOT NULL)
    EXECUTE FUNCTION policyd.refuse('list_error',
	'Write up to 63 letters, digits, "_", "." or "-".', 'list');
CREATE TRIGGER check_value BEFORE INSERT OR UPDATE ON policyd.list_entry
    FOR EACH ROW WHEN (policyd.list_value_error(new.value) IS NOT NULL)
    EXECUTE FUNCTION policyd.refuse('list_value_error',
	'Write user@example.com, user@, @example.com or @.example.com; '
	'192.0.2.1 or 2001:db8::/32; or host.example.com, .example.com or a '
	'login.', 'value');

CREATE TRIGGER check_state BEFORE INSERT OR UPDATE ON policyd.rule
    FOR EACH ROW WHEN (policyd.state_error(new.state) IS NOT NULL)
    EXECUTE FUNCTION policyd.refuse('state_error',
	'Write CONNECT, EHLO, HELO, MAIL, RCPT, DATA, END-OF-MESSAGE, VRFY, '
	'ETRN, EXPN or ANY; or NULL for RCPT.', 'state');

-- The hint of a rule is about the very thing that is wrong.
CREATE FUNCTION policyd.refuse_rule()
RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	fault text := policyd.conditions_error(new.conditions);
	flaw text;
	part text := 'conditions';
BEGIN
	IF starts_with(fault, '"') THEN
		SELECT (f).hint INTO flaw
		FROM unnest(new.conditions) AS condition,
		    policyd.condition_fault(condition) AS f
		WHERE (f).fault IS NOT NULL LIMIT 1;
	ELSIF fault IS NULL THEN
		fault := policyd.rule_action_error(new.action);
		flaw := policyd.rule_action_hint(new.action);
		part := 'action';
	END IF;
	RAISE EXCEPTION USING
	    ERRCODE = 'check_violation',
	    MESSAGE = fault,
	    HINT = coalesce(flaw, 'Write ARRAY[''sender = user@example.com'', '
		'''size > 20M''], or {} for none.'),
	    SCHEMA = tg_table_schema,
	    TABLE = tg_table_name,
	    COLUMN = part;
END
$$;
COMMENT ON FUNCTION policyd.refuse_rule IS
    'Trigger: the row is refused for its conditions or its action';

CREATE TRIGGER check_rule BEFORE INSERT OR UPDATE ON policyd.rule
    FOR EACH ROW WHEN (policyd.conditions_error(new.conditions) IS NOT NULL
	OR policyd.rule_action_error(new.action) IS NOT NULL)
    EXECUTE FUNCTION policyd.refuse_rule();

---- Lists of one kind, and rules that fit them

-- Two transactions that do not see each other could make a misfit together:
-- whoever writes to a list, or a rule about it, takes a lock until the end.
-- A statement takes at most 64, in one order.
CREATE FUNCTION policyd.lock_lists(lists text[])
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM pg_advisory_xact_lock(
	    ('policyd.list_entry'::regclass::bigint << 6) | lock)
	FROM (SELECT DISTINCT hashtext(list) & 63 AS lock
	    FROM unnest(lists) AS list ORDER BY 1) AS locks;
END
$$;
COMMENT ON FUNCTION policyd.lock_lists IS
    'Keep others from changing what kind these lists are of';

-- A kind of values, as a message calls it.
CREATE FUNCTION policyd.kind_name(kind text)
RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE kind WHEN 'mail' THEN 'mail addresses'
    WHEN 'address' THEN 'IP addresses' ELSE 'names' END;
COMMENT ON FUNCTION policyd.kind_name IS
    'What a list of this kind holds';

-- The uses of a list, as conditions_lists() has them, that do not fit a kind.
CREATE FUNCTION policyd.unfit_uses(list text, kind text)
RETURNS text[] LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE kind
    WHEN 'mail' THEN ARRAY['address:' || list, 'text:' || list]
    WHEN 'address' THEN ARRAY['mail:' || list, 'text:' || list]
    ELSE ARRAY['address:' || list] END;
COMMENT ON FUNCTION policyd.unfit_uses IS
    'KIND:LIST for each kind of attribute that cannot be in such a list';

CREATE FUNCTION policyd.refuse_misfit(list text, kind text, use text)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RAISE EXCEPTION USING
	    ERRCODE = 'check_violation',
	    MESSAGE = format('the list %s holds %s, and a rule asks it for %s',
		policyd.quoted(list), policyd.kind_name(kind),
		CASE split_part(use, ':', 1) WHEN 'mail'
		THEN 'a sender, recipient or login' WHEN 'address'
		THEN 'an IP address' ELSE 'a name' END),
	    HINT = format('Write %s in list:%s, or another list.', CASE kind
		WHEN 'mail' THEN 'sender' WHEN 'address' THEN 'client_address'
		ELSE 'client_name' END, list),
	    SCHEMA = 'policyd',
	    TABLE = 'rule',
	    COLUMN = 'conditions';
END
$$;
COMMENT ON FUNCTION policyd.refuse_misfit IS
    'Refuse a rule and a list that are of different kinds';

-- Once a statement, whatever its rows; the index has the kinds of a list first
-- and last.  (A plan made while the table was small would not use it, and what
-- is told not to scan or sort looks costly enough to be compiled.)
CREATE FUNCTION policyd.check_lists()
RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_sort = off
SET jit = off AS $$
DECLARE
	lists text[] := ARRAY(SELECT DISTINCT list FROM new_rows);
	name text;
	first text;
	last text;
	wrong text;
	use text;
BEGIN
	PERFORM policyd.lock_lists(lists);
	FOREACH name IN ARRAY lists LOOP
		SELECT policyd.list_value_kind(value) INTO first
		FROM policyd.list_entry AS e WHERE e.list = name
		ORDER BY policyd.list_value_kind(value) LIMIT 1;
		SELECT policyd.list_value_kind(value) INTO last
		FROM policyd.list_entry AS e WHERE e.list = name
		ORDER BY policyd.list_value_kind(value) DESC LIMIT 1;
		CONTINUE WHEN first = last;
		-- What was there says the kind; else the first that came.
		SELECT policyd.list_value_kind(value) INTO first
		FROM policyd.list_entry AS e WHERE e.list = name
		    AND value NOT IN (SELECT value FROM new_rows AS n
			WHERE n.list = name) LIMIT 1;
		SELECT coalesce(first, policyd.list_value_kind(value))
		INTO first FROM new_rows AS n WHERE n.list = name LIMIT 1;
		SELECT value INTO wrong FROM new_rows AS n WHERE n.list = name
		    AND policyd.list_value_kind(value) <> first LIMIT 1;
		RAISE EXCEPTION USING
		    ERRCODE = 'check_violation',
		    MESSAGE = format('%s does not fit the list %s, which holds '
			'%s', policyd.quoted(wrong), policyd.quoted(name),
			policyd.kind_name(first)),
		    HINT = 'Write it into a list of its own: a list is one of '
			'mail addresses (user@example.com), of IP addresses '
			'(192.0.2.0/24) or of names (host.example.com).',
		    SCHEMA = tg_table_schema,
		    TABLE = tg_table_name,
		    COLUMN = 'value';
	END LOOP;
	-- Each list is of one kind now: of the kind of any new row.
	FOR name, first IN SELECT DISTINCT n.list,
	    policyd.list_value_kind(n.value) FROM new_rows AS n
	LOOP
		SELECT u INTO use FROM policyd.rule AS r,
		    unnest(policyd.conditions_lists(r.conditions)) AS u
		WHERE policyd.conditions_lists(r.conditions)
			&& policyd.unfit_uses(name, first)
		    AND u = ANY (policyd.unfit_uses(name, first)) LIMIT 1;
		IF FOUND THEN
			PERFORM policyd.refuse_misfit(name, first, use);
		END IF;
	END LOOP;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION policyd.check_lists IS
    'Trigger: the entries of a list are of one kind, which fits the rules';

CREATE TRIGGER check_kind_insert AFTER INSERT ON policyd.list_entry
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION policyd.check_lists();
CREATE TRIGGER check_kind_update AFTER UPDATE ON policyd.list_entry
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION policyd.check_lists();

CREATE FUNCTION policyd.check_rules()
RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off AS $$
DECLARE
	uses text[] := ARRAY(SELECT DISTINCT u FROM new_rows AS r,
	    unnest(policyd.conditions_lists(r.conditions)) AS u);
	use text;
	name text;
	kind text;
BEGIN
	PERFORM policyd.lock_lists(ARRAY(SELECT split_part(u, ':', 2)
	    FROM unnest(uses) AS u));
	FOREACH use IN ARRAY uses LOOP
		name := split_part(use, ':', 2);
		SELECT policyd.list_value_kind(value) INTO kind
		FROM policyd.list_entry AS e WHERE e.list = name LIMIT 1;
		IF FOUND AND use = ANY (policyd.unfit_uses(name, kind)) THEN
			PERFORM policyd.refuse_misfit(name, kind, use);
		END IF;
	END LOOP;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION policyd.check_rules IS
    'Trigger: the lists that rules ask are of a kind that fits';

CREATE TRIGGER check_lists_insert AFTER INSERT ON policyd.rule
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION policyd.check_rules();
CREATE TRIGGER check_lists_update AFTER UPDATE ON policyd.rule
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION policyd.check_rules();

---- What is announced

-- As before, but the key may be made of several columns, and up to 1000 rows
-- are named: a daemon reads them in less time than a large table.
CREATE OR REPLACE FUNCTION policyd.announce()
RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	at_most integer := 1000;
	keys text[];
	key text := (SELECT string_agg(format('%I::text', name), ' || '' '' || ')
	    FROM unnest(tg_argv[1:]) AS name);
	changed text := CASE tg_op
	    WHEN 'INSERT' THEN 'SELECT %1$s AS key FROM new_rows'
	    WHEN 'DELETE' THEN 'SELECT %1$s AS key FROM old_rows'
	    WHEN 'UPDATE' THEN 'SELECT %1$s AS key FROM old_rows'
		' UNION ALL SELECT %1$s FROM new_rows'
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
	    || ' LIMIT %2$s) AS t', key, at_most + 1) INTO keys;
	IF cardinality(keys) > at_most THEN
		PERFORM pg_notify('policyd', tg_argv[0]);
	ELSE
		-- No row of ours has such a key, but a site's own tables may.
		PERFORM pg_notify('policyd', CASE
		    WHEN octet_length(changed_key) <= 1000
		    THEN tg_argv[0] || ':' || changed_key ELSE tg_argv[0] END)
		FROM (SELECT DISTINCT unnest(keys)) AS t (changed_key);
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION policyd.announce IS
    'Trigger announce(TABLE, KEY...): NOTIFY policyd of what a statement changed';

DROP PROCEDURE policyd.announce_changes(regclass, text, text);
CREATE PROCEDURE policyd.announce_changes(what regclass, name text,
    VARIADIC key text[])
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
		    ' policyd.announce(%L, %s)',
		    'announce_' || event, event, what, rows, name,
		    (SELECT string_agg(quote_literal(part), ', ')
		    FROM unnest(key) AS part));
	END LOOP;
END
$$;
COMMENT ON PROCEDURE policyd.announce_changes IS
    'Make a table announce its changes, as those of policyd.NAME by columns KEY';

CALL policyd.announce_changes('policyd.list_entry', 'list_entry', 'list',
    'value');
CALL policyd.announce_changes('policyd.rule', 'rule', 'id');

---- Scripts

CREATE SCHEMA policyd_script;
COMMENT ON SCHEMA policyd_script IS
    'Functions that rules call: FUNCTION(request jsonb) RETURNS text';
GRANT USAGE ON SCHEMA policyd_script TO policyd;
GRANT USAGE, CREATE ON SCHEMA policyd_script TO policyd_admin;
-- Whoever makes one, even where a site has taken this right from PUBLIC.
ALTER DEFAULT PRIVILEGES IN SCHEMA policyd_script
    GRANT EXECUTE ON FUNCTIONS TO policyd;
ALTER DEFAULT PRIVILEGES FOR ROLE policyd_admin IN SCHEMA policyd_script
    GRANT EXECUTE ON FUNCTIONS TO policyd;

INSERT INTO policyd.schema_version (version) VALUES (4);
