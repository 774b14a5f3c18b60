-- A script that greylists: whoever writes from a new client, with a new sender,
-- to a new recipient is asked to come back, once.  Servers do; much of what
-- sends spam does not.
--
--   psql -1 -v ON_ERROR_STOP=1 -d policyd -f greylist-once.sql
--
-- Then ask it with a rule, or for every recipient with "script" in policyd.ini:
--
--   INSERT INTO policyd.rule (priority, conditions, action) VALUES
--     (100, ARRAY['sasl_username is empty'], 'set script greylist_once');

-- Who has tried.  Letter case makes no two of one.
CREATE TABLE policyd_script.greylist_once_triplet (
	client text NOT NULL,
	sender text NOT NULL,
	recipient text NOT NULL,
	first_seen timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (client, sender, recipient)
);
COMMENT ON TABLE policyd_script.greylist_once_triplet IS
    'What greylist_once has seen: client, sender and recipient';

-- Scripts run as this role.
GRANT SELECT, INSERT ON policyd_script.greylist_once_triplet TO policyd;

CREATE FUNCTION policyd_script.greylist_once(request jsonb)
RETURNS text LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	-- Of two that ask at the same moment one is the first.
	INSERT INTO policyd_script.greylist_once_triplet
	    (client, sender, recipient)
	VALUES (request->>'client_address', lower(request->>'sender'),
	    lower(request->>'recipient'))
	ON CONFLICT DO NOTHING;
	IF FOUND THEN
		RETURN '422 4.2.2 Greylisted, please try again in a few moments.';
	END IF;
	RETURN NULL;	-- no opinion: the recipient passes
END
$$;
COMMENT ON FUNCTION policyd_script.greylist_once IS
    'Script: refuse a client, sender and recipient the first time';

-- The table grows for ever; once a day or so:
--
--   DELETE FROM policyd_script.greylist_once_triplet
--     WHERE first_seen < now() - interval '35 days';
