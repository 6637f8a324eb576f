-- Four roles, each with the least that it needs. `usage-worker migrate --roles` runs this after the migrations; or, in
-- the schema that holds the tables:
--
--   PGOPTIONS='-c search_path=public' psql -1 -v ON_ERROR_STOP=1 -f schema/roles.sql
--
-- It can be run again, before and after the tables are there: what is missing is added, nothing is taken away. None of
-- the roles gets a password or may log in: that is the administrator's to say, such as `ALTER ROLE usage_worker LOGIN`
-- and `\password usage_worker`. Roles are of the whole server: schemas and databases on it share them.

DO $roles$
DECLARE
    v_role TEXT;
BEGIN
    FOREACH v_role IN ARRAY ARRAY['usage_owner', 'usage_worker', 'usage_reader', 'usage_operator'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = v_role) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', v_role);
        END IF;
    END LOOP;
END
$roles$;

-- What the one who runs this owns of the usage tables becomes usage_owner's. What somebody else owns (a host
-- application's ai_usage_logs) stays his, and so do users and organizations.
DO $roles$
DECLARE
    v_object RECORD;
BEGIN
    IF current_user = 'usage_owner' THEN
        RETURN;
    END IF;
    FOR v_object IN
        SELECT CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END AS kind, oid::regclass::text AS name
        FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relowner = current_user::regrole
          AND relkind IN ('r', 'p', 'v')
          AND (relname IN ('ai_usage_logs', 'ai_usage_daily', 'ai_usage_dead_letters', 'ai_usage_dead_letter_actions',
                           'ai_usage_migrations')
               OR oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass('ai_usage_logs')))
        UNION ALL
        SELECT 'FUNCTION', oid::regprocedure::text
        FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace AND proowner = current_user::regrole
          AND proname = 'log_ai_usage'
    LOOP
        IF NOT pg_has_role('usage_owner', 'USAGE') THEN
            GRANT usage_owner TO CURRENT_USER;  -- or he would lose them
        END IF;
        EXECUTE format('GRANT CREATE, USAGE ON SCHEMA %I TO usage_owner', current_schema());
        EXECUTE format('ALTER %s %s OWNER TO usage_owner', v_object.kind, v_object.name);
    END LOOP;
END
$roles$;

-- Who may do what. Without columns it is a right on the whole table; what does not exist yet is passed over.
DO $roles$
DECLARE
    v_wanted RECORD;
    v_table REGCLASS;
    v_has TEXT;
    v_is_there BOOLEAN;
    v_grant TEXT;
    v_refused TEXT[] := '{}';
    v_marks CONSTANT TEXT := 'status, reason, errors, occurrences, last_seen, worker, body, event_id, user_id, '
        'organization_id, model';
    v_seen CONSTANT TEXT := 'id, event_id, reason, status, occurrences, first_seen, last_seen, app_id, queue, user_id, '
        'organization_id, model';
BEGIN
    FOR v_wanted IN
        SELECT wanted.*, btrim(one_column.name) AS a_column
        FROM (VALUES
            ('usage_owner', 'DATABASE', 'CONNECT', NULL),
            ('usage_owner', 'DATABASE', 'TEMPORARY', NULL),
            ('usage_owner', 'SCHEMA', 'USAGE', NULL),
            ('usage_owner', 'SCHEMA', 'CREATE', NULL),
            ('usage_owner', 'users', 'SELECT', 'id'),
            ('usage_owner', 'users', 'REFERENCES', 'id'),
            ('usage_owner', 'organizations', 'SELECT', 'id'),
            ('usage_owner', 'organizations', 'REFERENCES', 'id'),
            ('usage_owner', 'ai_usage_logs', 'SELECT', NULL),

            ('usage_worker', 'DATABASE', 'CONNECT', NULL),
            ('usage_worker', 'DATABASE', 'TEMPORARY', NULL),
            ('usage_worker', 'SCHEMA', 'USAGE', NULL),
            ('usage_worker', 'users', 'SELECT', 'id'),
            ('usage_worker', 'organizations', 'SELECT', 'id'),
            ('usage_worker', 'ai_usage_logs', 'SELECT', NULL),
            ('usage_worker', 'ai_usage_logs', 'INSERT', NULL),
            ('usage_worker', 'ai_usage_dead_letters', 'SELECT', NULL),
            ('usage_worker', 'ai_usage_dead_letters', 'INSERT', NULL),
            ('usage_worker', 'ai_usage_dead_letters', 'UPDATE', v_marks),
            ('usage_worker', 'ai_usage_dead_letter_actions', 'INSERT', NULL),
            ('usage_worker', 'ai_usage_migrations', 'SELECT', NULL),

            ('usage_reader', 'DATABASE', 'CONNECT', NULL),
            ('usage_reader', 'SCHEMA', 'USAGE', NULL),
            ('usage_reader', 'ai_usage_logs', 'SELECT', NULL),
            ('usage_reader', 'ai_usage_daily', 'SELECT', NULL),
            ('usage_reader', 'ai_usage_dead_letters', 'SELECT', v_seen),

            ('usage_operator', 'DATABASE', 'CONNECT', NULL),
            ('usage_operator', 'DATABASE', 'TEMPORARY', NULL),
            ('usage_operator', 'SCHEMA', 'USAGE', NULL),
            ('usage_operator', 'users', 'SELECT', 'id'),
            ('usage_operator', 'organizations', 'SELECT', 'id'),
            ('usage_operator', 'ai_usage_logs', 'SELECT', NULL),
            ('usage_operator', 'ai_usage_logs', 'INSERT', NULL),
            ('usage_operator', 'ai_usage_daily', 'SELECT', NULL),
            ('usage_operator', 'ai_usage_dead_letters', 'SELECT', NULL),
            ('usage_operator', 'ai_usage_dead_letters', 'INSERT', NULL),
            ('usage_operator', 'ai_usage_dead_letters', 'UPDATE', v_marks || ', edited_body'),
            ('usage_operator', 'ai_usage_dead_letter_actions', 'SELECT', NULL),
            ('usage_operator', 'ai_usage_dead_letter_actions', 'INSERT', NULL),
            ('usage_operator', 'ai_usage_migrations', 'SELECT', NULL)
        ) AS wanted (role, object, privilege, columns)
        LEFT JOIN LATERAL string_to_table(wanted.columns, ',') AS one_column (name) ON TRUE
    LOOP
        IF v_wanted.object = 'DATABASE' THEN
            v_has := format('has_database_privilege(%L, %L, %L)', v_wanted.role, current_database(), v_wanted.privilege);
            v_grant := format('%s ON DATABASE %I', v_wanted.privilege, current_database());
        ELSIF v_wanted.object = 'SCHEMA' THEN
            v_has := format('has_schema_privilege(%L, %L, %L)', v_wanted.role, current_schema(), v_wanted.privilege);
            v_grant := format('%s ON SCHEMA %I', v_wanted.privilege, current_schema());
        ELSE
            v_table := to_regclass(format('%I.%I', current_schema(), v_wanted.object));
            CONTINUE WHEN v_table IS NULL;
            v_has := format('has_table_privilege(%L, %s::oid, %L)', v_wanted.role, v_table::oid, v_wanted.privilege);
            v_grant := v_wanted.privilege;
            IF v_wanted.a_column IS NOT NULL THEN
                v_has := format('has_column_privilege(%L, %s::oid, %L, %L)', v_wanted.role, v_table::oid,
                                v_wanted.a_column, v_wanted.privilege);
                v_grant := format('%s (%I)', v_grant, v_wanted.a_column);
            END IF;
            v_grant := format('%s ON %I.%I', v_grant, current_schema(), v_wanted.object);
        END IF;
        v_grant := format('GRANT %s TO %I', v_grant, v_wanted.role);
        EXECUTE 'SELECT ' || v_has INTO v_is_there;
        CONTINUE WHEN v_is_there;
        BEGIN
            EXECUTE v_grant;
        EXCEPTION WHEN insufficient_privilege THEN
            NULL;  -- one who has a right, but not to give, gets no error but a warning: what counts is what came of it
        END;
        EXECUTE 'SELECT ' || v_has INTO v_is_there;
        IF NOT v_is_there THEN
            v_refused := v_refused || v_grant;
        END IF;
    END LOOP;
    IF v_refused <> '{}' THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('%s may not give all the rights, so nothing was changed', current_user),
            HINT = format('let their owner, or a superuser, say: %s', array_to_string(v_refused, '; '));
    END IF;
END
$roles$;
