-- Step 5: greylisting.
--
-- The state of greylisting is the daemon's: it writes greylist and client, with
-- the functions below and no other statement.  What an administrator changes
-- in them is announced like a change of any other table; what the daemon
-- writes is not, but for a client that has shown that it retries, and for a key
-- that hosts which were cut off from one another had both seen.

-- Is a row worth nothing any more?  One that waits, because its retry did not
-- come in time; one that passed, because it was not used for too long.
CREATE FUNCTION policyd.greylist_is_old(first_seen timestamptz,
    last_seen timestamptz, passed_at timestamptz, waiting_since timestamptz,
    good_since timestamptz)
RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN passed_at IS NULL
    THEN first_seen < waiting_since ELSE last_seen < good_since END;
COMMENT ON FUNCTION policyd.greylist_is_old IS
    'Whether a row of greylist counts as if it were not there';

CREATE FUNCTION policyd.client_error(client text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN client = '' THEN 'the client is empty'
    WHEN octet_length(client) > 255
    THEN policyd.quoted(client) || ' is too long'
    WHEN client ~ '[A-Z]' THEN policyd.quoted(client) || ' has capitals'
    WHEN client ~ '[[:cntrl:] ]' THEN policyd.quoted(client) || ' has a blank'
    END;
COMMENT ON FUNCTION policyd.client_error IS
    'Null, or what is wrong with client.client';

-- No column but the key is indexed, and pages keep room, so that an update
-- stays on its page and touches no index (HOT).  Old rows are found by reading
-- the table a piece at a time: policyd.purge.
CREATE TABLE policyd.greylist (
	client text COLLATE "C" NOT NULL,
	sender text COLLATE "C" NOT NULL,
	recipient text COLLATE "C" NOT NULL,
	first_seen timestamptz NOT NULL DEFAULT now(),
	last_seen timestamptz NOT NULL DEFAULT now(),
	passed_at timestamptz,
	attempts integer NOT NULL DEFAULT 1,
	PRIMARY KEY (client, sender, recipient)
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02);
COMMENT ON TABLE policyd.greylist IS
    'Whom policyd has asked to try again, and who has';
COMMENT ON COLUMN policyd.greylist.client IS
    'The registrable domain of a verified name, or a network';
COMMENT ON COLUMN policyd.greylist.sender IS
    'The sender, with what differs from one attempt to the next folded away';
COMMENT ON COLUMN policyd.greylist.recipient IS
    'The recipient, folded as addresses are';
COMMENT ON COLUMN policyd.greylist.first_seen IS
    'The first attempt, or the first after an earlier one was too old';
COMMENT ON COLUMN policyd.greylist.last_seen IS
    'The last attempt, written back within seconds; under load, within an hour';
COMMENT ON COLUMN policyd.greylist.passed_at IS
    'When it passed; null: it has not tried again yet';
COMMENT ON COLUMN policyd.greylist.attempts IS
    'How often it tried, until it passed';

CREATE TABLE policyd.client (
	client text COLLATE "C" PRIMARY KEY
	    CHECK (policyd.client_error(client) IS NULL),
	passes integer NOT NULL DEFAULT 0
	    CHECK (passes >= 0),
	last_seen timestamptz NOT NULL DEFAULT now(),
	allowed_at timestamptz,
	reason text
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02);
COMMENT ON TABLE policyd.client IS
    'The clients that have shown that they retry, or need not';
COMMENT ON COLUMN policyd.client.client IS
    'example.com, or a network such as 192.0.2.0/24, as in greylist';
COMMENT ON COLUMN policyd.client.passes IS
    'How many of its keys have passed';
COMMENT ON COLUMN policyd.client.last_seen IS
    'When it was last heard of, written back as in greylist';
COMMENT ON COLUMN policyd.client.allowed_at IS
    'When an administrator exempted it for good; null: nobody did';
COMMENT ON COLUMN policyd.client.reason IS
    'Why';

-- A row that is not there was deleted by somebody, purged, lost in a crash, or
-- never came to the standby that is the primary now.  Only the first is meant:
-- what the daemon has in memory brings back the others.
CREATE TABLE policyd.greylist_forgotten (
	client text COLLATE "C" NOT NULL,
	sender text COLLATE "C" NOT NULL,
	recipient text COLLATE "C" NOT NULL,
	forgotten_at timestamptz NOT NULL,
	PRIMARY KEY (client, sender, recipient)
);
COMMENT ON TABLE policyd.greylist_forgotten IS
    'What somebody has deleted from greylist, for max_age; client empty: many';
COMMENT ON COLUMN policyd.greylist_forgotten.client IS
    'As in greylist';
COMMENT ON COLUMN policyd.greylist_forgotten.sender IS
    'As in greylist';
COMMENT ON COLUMN policyd.greylist_forgotten.recipient IS
    'As in greylist';
COMMENT ON COLUMN policyd.greylist_forgotten.forgotten_at IS
    'When: all that was seen of the key before is of no account';

GRANT SELECT, INSERT, UPDATE, DELETE ON policyd.greylist, policyd.client
    TO policyd, policyd_admin;
GRANT TRUNCATE ON policyd.greylist, policyd.client TO policyd_admin;
GRANT SELECT, UPDATE, DELETE ON policyd.greylist_forgotten TO policyd;
GRANT SELECT ON policyd.greylist_forgotten TO policyd_admin;

CREATE TRIGGER check_client BEFORE INSERT OR UPDATE OF client
    ON policyd.client
    FOR EACH ROW WHEN (policyd.client_error(new.client) IS NOT NULL)
    EXECUTE FUNCTION policyd.refuse('client_error',
	'Write a domain such as example.com, or a network such as '
	'192.0.2.0/24.', 'client');

---- What the daemon does

-- Before a statement of the daemon's own.  Nobody need be told of what it
-- writes.  And it does not wait for the disk: a commit that a crash takes back
-- (at most three times wal_writer_delay, 0.6 s) is made once more by the daemon,
-- while to wait would cost each new sender a flush.  Nor does it wait for long for
-- what somebody else has locked, memory can judge: less than deadlock_timeout, so
-- that it is the daemon that gives way.  All of it ends with the transaction.
CREATE FUNCTION policyd.begin_as_daemon()
RETURNS text LANGUAGE sql
RETURN set_config('policyd.is_daemon', 'yes', true)
    || set_config('synchronous_commit', 'off', true)
    || set_config('lock_timeout', '500ms', true);
COMMENT ON FUNCTION policyd.begin_as_daemon IS
    'What follows in this transaction is not announced, and waits for nobody';

-- greylist_see: these keys are tried now, each COUNTS times.
--
-- Comes back with a row for each client or network that is not greylisted
-- (sender is null), and with one for each other key, as it is now.  passed_at
-- is the clock where the key has passed by this very attempt.  Times are in
-- seconds since 1970.
--
-- A client that has a name is known by its network too, from when its name
-- could not be verified: a key that is new takes over what that one had.
--
-- Rows are locked in the order of their keys, those of greylist first, here
-- and in greylist_merge: hosts wait for one another, and never in a circle.
-- Its plans are made once for a session, when the tables may still be empty:
-- hence no scan of a whole table.
CREATE FUNCTION policyd.greylist_see(clients text[], networks text[],
    senders text[], recipients text[], counts integer[], delay float8,
    retry_window float8, max_age float8, auto_allow_after integer)
RETURNS TABLE (client text, sender text, recipient text, first_seen float8,
    last_seen float8, passed_at float8, clock float8)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
	t timestamptz := clock_timestamp();
	early_since timestamptz := t - make_interval(secs => delay);
	waiting_since timestamptz := t - make_interval(secs => retry_window);
	good_since timestamptz := t - make_interval(secs => max_age);
	allowed text[];
	heard float8[];
	proven text[];
BEGIN
	PERFORM policyd.begin_as_daemon();
	SELECT array_agg(c.client), array_agg(CASE WHEN c.allowed_at IS NULL
	    THEN date_part('epoch', c.last_seen) ELSE 'infinity' END)
	INTO allowed, heard
	FROM policyd.client AS c
	WHERE c.client = ANY (clients || networks)
	AND (c.allowed_at IS NOT NULL OR auto_allow_after > 0
	    AND c.passes >= auto_allow_after AND c.last_seen >= good_since);
	RETURN QUERY
	SELECT a.client, NULL, NULL, NULL::float8, a.heard, NULL::float8,
	    date_part('epoch', t)
	FROM unnest(allowed, heard) AS a (client, heard);
	FOR client, sender, recipient, first_seen, last_seen, passed_at, clock IN
		INSERT INTO policyd.greylist AS g (client, sender, recipient,
		    first_seen, last_seen, passed_at, attempts)
		SELECT s.client, s.sender, s.recipient,
		    coalesce(before.first_seen, t), t,
		    CASE WHEN before.passed_at IS NOT NULL
			THEN before.passed_at
		    WHEN before.first_seen <= early_since THEN t END,
		    s.count
		FROM unnest(clients, networks, senders, recipients, counts)
		    AS s (client, network, sender, recipient, count)
		LEFT JOIN LATERAL (
			SELECT b.* FROM policyd.greylist AS b
			WHERE s.network <> s.client AND b.client = s.network
			AND b.sender = s.sender AND b.recipient = s.recipient
			AND NOT policyd.greylist_is_old(b.first_seen,
			    b.last_seen, b.passed_at, waiting_since,
			    good_since)
			LIMIT 1
		) AS before ON true
		WHERE allowed IS NULL
		OR s.client <> ALL (allowed) AND s.network <> ALL (allowed)
		ORDER BY s.client COLLATE "C", s.sender COLLATE "C",
		    s.recipient COLLATE "C"
		ON CONFLICT (client, sender, recipient) DO UPDATE SET
		    first_seen = CASE
			WHEN policyd.greylist_is_old(g.first_seen, g.last_seen,
			    g.passed_at, waiting_since, good_since)
			THEN excluded.first_seen
			ELSE least(g.first_seen, t) END,
		    last_seen = t,
		    passed_at = CASE
			WHEN policyd.greylist_is_old(g.first_seen, g.last_seen,
			    g.passed_at, waiting_since, good_since)
			THEN excluded.passed_at
			WHEN g.passed_at IS NULL
			AND least(g.first_seen, t) <= early_since
			THEN t ELSE g.passed_at END,
		    attempts = CASE
			WHEN policyd.greylist_is_old(g.first_seen, g.last_seen,
			    g.passed_at, waiting_since, good_since)
			THEN excluded.attempts
			WHEN g.passed_at IS NULL
			THEN g.attempts + excluded.attempts
			ELSE g.attempts END
		RETURNING g.client, g.sender, g.recipient,
		    date_part('epoch', g.first_seen), date_part('epoch', t),
		    date_part('epoch', g.passed_at), date_part('epoch', t)
	LOOP
		RETURN NEXT;
		IF passed_at = clock THEN
			proven := proven || client;
		END IF;
	END LOOP;
	IF proven IS NOT NULL THEN
		INSERT INTO policyd.client AS c (client, passes, last_seen)
		SELECT p.client, count(*), t FROM unnest(proven) AS p (client)
		GROUP BY p.client ORDER BY p.client COLLATE "C"
		ON CONFLICT (client) DO UPDATE SET
		    passes = c.passes + excluded.passes, last_seen = t;
		-- Every daemon asks about it anew.
		PERFORM pg_notify('policyd', 'client:' || p.client)
		FROM unnest(proven) AS p (client);
	END IF;
END
$$;
COMMENT ON FUNCTION policyd.greylist_see IS
    'The daemon: these keys are tried now';

-- greylist_touch: keys that PostgreSQL knows were used, or tried COUNTS times
-- too early.  What is not there any more stays away.  Keys come in their order.
CREATE FUNCTION policyd.greylist_touch(clients text[], senders text[],
    recipients text[], last_seens float8[], counts integer[])
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
	PERFORM policyd.begin_as_daemon();
	WITH locked AS MATERIALIZED (
		SELECT s.*
		FROM unnest(clients, senders, recipients, last_seens, counts)
		    AS s (client, sender, recipient, last_seen, count)
		CROSS JOIN LATERAL (
			SELECT FROM policyd.greylist AS g
			WHERE g.client = s.client
			AND g.sender = s.sender
			AND g.recipient = s.recipient
			FOR UPDATE
		) AS g
	)
	UPDATE policyd.greylist AS g SET
	    last_seen = greatest(g.last_seen,
		least(to_timestamp(l.last_seen), clock_timestamp())),
	    attempts = g.attempts
		+ CASE WHEN g.passed_at IS NULL THEN l.count ELSE 0 END
	FROM locked AS l
	WHERE g.client = l.client AND g.sender = l.sender
	AND g.recipient = l.recipient;
END
$$;
COMMENT ON FUNCTION policyd.greylist_touch IS
    'The daemon: these keys were used, or tried too early';

-- greylist_merge: what was judged in memory: keys that began there, or (KNOWN)
-- keys that were here and have passed there.  COUNTS are attempts.  It may come
-- twice: a pass is counted for its client by the statement that makes it one.
--
-- Of a row and what comes, the one that counts for nothing any more gives way;
-- where both count, the earlier first_seen wins.  Who may remember less of the
-- key than is true now is told: "greylist_merged:KEY".
--
-- A key that somebody has deleted since it began stays deleted, though another
-- host may have seen it again.  Any other that is not here is made, also what was
-- here before (see greylist_forgotten).  A statement that deleted very many says
-- nothing of keys that began in memory: they were not among them.  No clock of a
-- host that was wrong makes times that are yet to come.
--
-- A row whose first_seen is its passed_at was taken over from the network of
-- its client (see greylist_see): that is no pass of its own.
CREATE FUNCTION policyd.greylist_merge(known boolean, clients text[],
    senders text[], recipients text[], first_seens float8[],
    last_seens float8[], passed_ats float8[], counts integer[],
    retry_window float8, max_age float8)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
	t timestamptz := clock_timestamp();
	waiting_since timestamptz := t - make_interval(secs => retry_window);
	age interval := make_interval(secs => max_age);
	s record;
	old policyd.greylist;
	new policyd.greylist;
	found_it boolean;
	forgotten boolean;
	made boolean;
	passes boolean;
	proven text[];
	proven_at timestamptz[];
BEGIN
	PERFORM policyd.begin_as_daemon();
	FOR s IN
		SELECT k.client, k.sender, k.recipient,
		    least(to_timestamp(k.first_seen), t) AS first_seen,
		    least(to_timestamp(k.last_seen), t) AS last_seen,
		    CASE WHEN k.passed_at IS NOT NULL
			THEN least(to_timestamp(k.passed_at), t)
			END AS passed_at, k.count
		FROM unnest(clients, senders, recipients, first_seens,
		    last_seens, passed_ats, counts)
		    AS k (client, sender, recipient, first_seen, last_seen,
		    passed_at, count)
		ORDER BY k.client COLLATE "C", k.sender COLLATE "C",
		    k.recipient COLLATE "C"
	LOOP
		made := false;
		-- Who deletes it just now is waited for, and then seen.  A
		-- row that the site keeps out stays out.
		FOR attempt IN 1 .. 3 LOOP
			SELECT * INTO old FROM policyd.greylist AS g
			WHERE g.client = s.client AND g.sender = s.sender
			AND g.recipient = s.recipient
			FOR UPDATE;
			found_it := FOUND;
			forgotten := EXISTS (
				SELECT FROM policyd.greylist_forgotten AS f
				WHERE (f.client, f.sender, f.recipient) IN
				    ((s.client, s.sender, s.recipient),
				    ('', '', ''))
				AND f.forgotten_at >= s.first_seen
				AND (known OR f.client <> ''));
			EXIT WHEN found_it OR forgotten;
			INSERT INTO policyd.greylist
			VALUES (s.client, s.sender, s.recipient, s.first_seen,
			    s.last_seen, s.passed_at, greatest(s.count, 1))
			ON CONFLICT DO NOTHING;
			made := FOUND;
			EXIT WHEN made;
		END LOOP;
		CONTINUE WHEN forgotten OR NOT (made OR found_it);
		IF made THEN
			passes := s.passed_at > s.first_seen;
		ELSE
			new := old;
			new.last_seen := greatest(old.last_seen, s.last_seen);
			IF (CASE WHEN old.passed_at IS NULL
			    THEN old.first_seen < waiting_since
			    ELSE old.last_seen < s.first_seen - age END)
			THEN
				new.first_seen := s.first_seen;
				new.passed_at := s.passed_at;
				new.attempts := greatest(s.count, 1);
				passes := s.passed_at > s.first_seen;
			ELSIF (CASE WHEN s.passed_at IS NULL
			    THEN s.first_seen < waiting_since
			    ELSE s.last_seen < old.first_seen - age END)
			THEN
				passes := false;
			ELSE
				-- A known one comes back a little off.
				IF NOT known OR s.first_seen
				    < old.first_seen - interval '1 s'
				THEN
					new.first_seen := least(old.first_seen,
					    s.first_seen);
				END IF;
				new.passed_at := least(old.passed_at,
				    s.passed_at);
				new.attempts := old.attempts + CASE WHEN known
				    AND old.passed_at IS NOT NULL THEN 0
				    ELSE s.count END;
				passes := old.passed_at IS NULL
				    AND s.passed_at > s.first_seen;
			END IF;
			UPDATE policyd.greylist AS g
			SET first_seen = new.first_seen,
			    last_seen = new.last_seen,
			    passed_at = new.passed_at,
			    attempts = new.attempts
			WHERE g.client = s.client AND g.sender = s.sender
			AND g.recipient = s.recipient;
			IF new.first_seen < old.first_seen
			    OR new.passed_at IS NOT NULL
			    AND old.passed_at IS NULL
			THEN
				PERFORM pg_notify('policyd', 'greylist_merged:'
				    || concat_ws(' ', s.client, s.sender,
					s.recipient));
			END IF;
		END IF;
		IF passes THEN
			proven := proven || s.client;
			proven_at := proven_at || s.passed_at;
		END IF;
	END LOOP;
	INSERT INTO policyd.client AS c (client, passes, last_seen)
	SELECT p.client, count(*), max(p.at)
	FROM unnest(proven, proven_at) AS p (client, at)
	GROUP BY p.client ORDER BY p.client COLLATE "C"
	ON CONFLICT (client) DO UPDATE SET
	    passes = c.passes + excluded.passes,
	    last_seen = greatest(c.last_seen, excluded.last_seen);
	PERFORM pg_notify('policyd', 'client:' || p.client)
	FROM unnest(proven) AS p (client);
END
$$;
COMMENT ON FUNCTION policyd.greylist_merge IS
    'The daemon: these keys were tried while it judged from memory';

-- client_merge: these clients were heard of.  One that somebody has deleted
-- stays deleted.  They come in their order.
CREATE FUNCTION policyd.client_merge(clients text[], last_seens float8[])
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
	PERFORM policyd.begin_as_daemon();
	WITH locked AS MATERIALIZED (
		SELECT s.*
		FROM unnest(clients, last_seens) AS s (client, last_seen)
		CROSS JOIN LATERAL (
			SELECT FROM policyd.client AS c
			WHERE c.client = s.client
			FOR UPDATE
		) AS c
	)
	UPDATE policyd.client AS c SET
	    last_seen = greatest(c.last_seen,
		least(to_timestamp(l.last_seen), clock_timestamp()))
	FROM locked AS l
	WHERE c.client = l.client;
END
$$;
COMMENT ON FUNCTION policyd.client_merge IS
    'The daemon: these clients were heard of';

-- purge: delete the old rows in some blocks of a table.
--
-- Comes back with the block to go on from: 0 after the last one, null where
-- another host is at it.  A small step, which locks nothing that somebody else
-- has locked, and needs no index that every statement would have to keep up.
CREATE FUNCTION policyd.purge(what text, from_block bigint, blocks integer,
    retry_window float8, max_age float8,
    OUT next_block bigint, OUT deleted integer)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	total bigint;
	is_old text := CASE what
	    WHEN 'greylist' THEN
		'policyd.greylist_is_old(first_seen, last_seen, passed_at,'
		' now() - make_interval(secs => $3),'
		' now() - make_interval(secs => $4))'
	    WHEN 'client' THEN
		'allowed_at IS NULL'
		' AND last_seen < now() - make_interval(secs => $4)'
	    WHEN 'greylist_forgotten' THEN
		'forgotten_at < now() - make_interval(secs => greatest($3, $4))'
	END;
BEGIN
	deleted := 0;
	-- "policyd", and the purge is the first of its locks.
	IF NOT pg_try_advisory_xact_lock(1886350457, 1) THEN
		RETURN;
	END IF;
	PERFORM policyd.begin_as_daemon();
	total := pg_relation_size(format('policyd.%I', what)::regclass)
	    / current_setting('block_size')::bigint;
	IF from_block < total THEN
		EXECUTE format('DELETE FROM policyd.%1$I WHERE ctid = ANY (ARRAY('
		    'SELECT ctid FROM policyd.%1$I'
		    ' WHERE ctid >= $1 AND ctid < $2 AND %2$s'
		    ' FOR UPDATE SKIP LOCKED))', what, is_old)
		USING format('(%s,0)', from_block)::tid,
		    format('(%s,0)', from_block + blocks)::tid,
		    retry_window, max_age;
		GET DIAGNOSTICS deleted = ROW_COUNT;
	END IF;
	next_block := CASE WHEN from_block + blocks < total
	    THEN from_block + blocks ELSE 0 END;
END
$$;
COMMENT ON FUNCTION policyd.purge IS
    'The daemon: delete old rows of one of its tables in some blocks';

---- What is announced

-- Rows of greylist are deleted, or have other keys now.  The owner's trigger:
-- whoever may delete need not be allowed to write this table.
CREATE FUNCTION policyd.forget()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	at_most integer := 1000;
	-- Planned each time: how many rows there are makes all the difference.
	gone text := CASE tg_op
	    WHEN 'DELETE' THEN 'FROM old_rows AS o'
	    WHEN 'UPDATE' THEN 'FROM old_rows AS o WHERE NOT EXISTS ('
		'SELECT FROM new_rows AS n WHERE n.client = o.client'
		' AND n.sender = o.sender AND n.recipient = o.recipient)'
	END;
	n bigint := at_most + 1;
BEGIN
	IF tg_op <> 'TRUNCATE' THEN
		EXECUTE format('SELECT count(*) FROM (SELECT %s LIMIT %s) AS g',
		    gone, n) INTO n;
	END IF;
	IF n > at_most THEN
		gone := 'FROM (VALUES ('''', '''', '''')) '
		    'AS g (client, sender, recipient)';
	END IF;
	IF n > 0 THEN
		EXECUTE 'INSERT INTO policyd.greylist_forgotten AS f'
		    ' SELECT client, sender, recipient, clock_timestamp() '
		    || gone ||
		    ' ON CONFLICT (client, sender, recipient) DO UPDATE'
		    ' SET forgotten_at ='
		    '  greatest(f.forgotten_at, excluded.forgotten_at)';
	END IF;
	RETURN NULL;
END
$$;
REVOKE EXECUTE ON FUNCTION policyd.forget FROM PUBLIC;
COMMENT ON FUNCTION policyd.forget IS
    'Trigger: what somebody deletes from greylist stays deleted';

-- As policyd.announce_changes does, but for what the daemon writes.  A row of
-- greylist that somebody adds is in nobody's memory, so nobody is told.
DO $$
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
		EXECUTE format('CREATE TRIGGER %I AFTER %s ON policyd.client %s'
		    ' FOR EACH STATEMENT'
		    ' WHEN (current_setting(''policyd.is_daemon'', true)'
		    '  IS DISTINCT FROM ''yes'')'
		    ' EXECUTE FUNCTION policyd.announce(''client'', ''client'')',
		    'announce_' || event, event, rows);
		CONTINUE WHEN event = 'insert';
		EXECUTE format('CREATE TRIGGER %I AFTER %s ON policyd.greylist %s'
		    ' FOR EACH STATEMENT'
		    ' WHEN (current_setting(''policyd.is_daemon'', true)'
		    '  IS DISTINCT FROM ''yes'')'
		    ' EXECUTE FUNCTION policyd.announce(''greylist'', ''client'','
		    ' ''sender'', ''recipient'')',
		    'announce_' || event, event, rows);
		EXECUTE format('CREATE TRIGGER %I AFTER %s ON policyd.greylist %s'
		    ' FOR EACH STATEMENT'
		    ' WHEN (current_setting(''policyd.is_daemon'', true)'
		    '  IS DISTINCT FROM ''yes'')'
		    ' EXECUTE FUNCTION policyd.forget()',
		    'forget_' || event, event, rows);
	END LOOP;
END
$$;

INSERT INTO policyd.schema_version (version) VALUES (5);
