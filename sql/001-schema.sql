-- Step 1: the schema, the two roles, and the list of steps taken.
--
-- policyctl runs every step in one transaction; by hand that is
-- psql -1 -v ON_ERROR_STOP=1 -f.

DO $$
BEGIN
	IF current_setting('server_encoding') <> 'UTF8' THEN
		RAISE EXCEPTION 'this database is encoded in %, not in UTF8',
		    current_setting('server_encoding')
		    USING HINT = 'Make one with: createdb -E UTF8 -T template0 '
			|| 'policyd';
	END IF;
END
$$;

-- Roles belong to the whole cluster: another database may have brought them.
DO $$
DECLARE
	who text;
BEGIN
	FOREACH who IN ARRAY ARRAY['policyd', 'policyd_admin'] LOOP
		IF to_regrole(who) IS NULL THEN
			EXECUTE format('CREATE ROLE %I LOGIN', who);
		END IF;
	END LOOP;
END
$$;

CREATE SCHEMA policyd;
COMMENT ON SCHEMA policyd IS
    'policyd, a Postfix policy daemon: see policyd.schema(7)';
GRANT USAGE ON SCHEMA policyd TO policyd, policyd_admin;

CREATE TABLE policyd.schema_version (
	version integer PRIMARY KEY,
	applied_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE policyd.schema_version IS
    'The steps that built this schema; the highest is its version';
COMMENT ON COLUMN policyd.schema_version.version IS
    'Number of the step, that of its file in sql/';
COMMENT ON COLUMN policyd.schema_version.applied_at IS
    'When it was taken';
GRANT SELECT ON policyd.schema_version TO policyd, policyd_admin;

INSERT INTO policyd.schema_version (version) VALUES (1);
