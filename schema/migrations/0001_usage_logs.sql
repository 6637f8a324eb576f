-- The table of usage, its view and its function.
--
-- What is there already (the host application's users and organizations, or all of these objects, with rows and
-- grants) is left exactly as it is; each step that is skipped says so. Nothing here names a schema: the runner sets
-- search_path, and the whole file is one transaction.

CREATE TABLE IF NOT EXISTS users (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid()
);

CREATE TABLE IF NOT EXISTS organizations (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid()
);

-- One block, because CREATE INDEX IF NOT EXISTS and COMMENT lock a table that is there already, and the former
-- waits for its writers.
DO $migration$
BEGIN
    IF to_regclass('ai_usage_logs') IS NOT NULL THEN
        RAISE NOTICE 'relation "ai_usage_logs" already exists, skipping';
        RETURN;
    END IF;

    CREATE TABLE ai_usage_logs (
        id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
        user_id UUID NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        organization_id UUID NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
        tokens_used INTEGER NOT NULL DEFAULT 0,
        input_tokens INTEGER NOT NULL DEFAULT 0,
        output_tokens INTEGER NOT NULL DEFAULT 0,
        endpoint VARCHAR(255),
        model VARCHAR(100),
        request_type VARCHAR(50),
        request_metadata JSONB,
        estimated_cost_usd NUMERIC(10, 6),
        created_at TIMESTAMPTZ NOT NULL DEFAULT NOW()
    );

    CREATE INDEX idx_ai_usage_user ON ai_usage_logs (user_id);
    CREATE INDEX idx_ai_usage_org ON ai_usage_logs (organization_id);
    CREATE INDEX idx_ai_usage_created ON ai_usage_logs (created_at);
    CREATE INDEX idx_ai_usage_endpoint ON ai_usage_logs (endpoint);
    CREATE INDEX idx_ai_usage_type ON ai_usage_logs (request_type);

    COMMENT ON TABLE ai_usage_logs IS 'One row for each call of a language model';
    COMMENT ON COLUMN ai_usage_logs.id IS 'The event''s identity, made once by its producer';
    COMMENT ON COLUMN ai_usage_logs.user_id IS 'The user who caused the call';
    COMMENT ON COLUMN ai_usage_logs.organization_id IS 'The organization that pays for the call';
    COMMENT ON COLUMN ai_usage_logs.tokens_used IS 'Tokens in all: input and output';
    COMMENT ON COLUMN ai_usage_logs.input_tokens IS 'Tokens that were sent; 0 where only the total is known';
    COMMENT ON COLUMN ai_usage_logs.output_tokens IS 'Tokens that came back; 0 where only the total is known';
    COMMENT ON COLUMN ai_usage_logs.endpoint IS 'The endpoint of the service that made the call';
    COMMENT ON COLUMN ai_usage_logs.model IS 'The language model that was called';
    COMMENT ON COLUMN ai_usage_logs.request_type IS 'What the call was for, such as chat or embedding';
    COMMENT ON COLUMN ai_usage_logs.request_metadata IS 'Whatever else the producer says about the call';
    COMMENT ON COLUMN ai_usage_logs.estimated_cost_usd IS 'Price in US dollars; NULL is unpriced, not free';
    COMMENT ON COLUMN ai_usage_logs.created_at IS 'When the call was made';
END
$migration$;

-- Any function of this name counts as there: a second one with defaults would make the host's calls ambiguous.
DO $migration$
BEGIN
    IF EXISTS (
        SELECT FROM pg_proc
        JOIN pg_namespace ON pg_namespace.oid = pg_proc.pronamespace
        WHERE pg_proc.proname = 'log_ai_usage' AND pg_namespace.nspname = current_schema()
    ) THEN
        RAISE NOTICE 'function "log_ai_usage" already exists, skipping';
        RETURN;
    END IF;

    -- search_path is pinned: the function finds its table for callers who do not have this schema on theirs.
    CREATE FUNCTION log_ai_usage(
        p_user_id UUID,
        p_org_id UUID,
        p_tokens INTEGER,
        p_input_tokens INTEGER DEFAULT 0,
        p_output_tokens INTEGER DEFAULT 0,
        p_endpoint VARCHAR DEFAULT NULL,
        p_model VARCHAR DEFAULT NULL,
        p_request_type VARCHAR DEFAULT NULL,
        p_metadata JSONB DEFAULT NULL
    ) RETURNS UUID
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    AS $function$
    DECLARE
        v_id UUID;
        v_cost NUMERIC(10, 6) := p_input_tokens * 0.000001 + p_output_tokens * 0.000003;
    BEGIN
        -- Only a total is given: what it cost is not known, and unpriced is not free.
        IF p_tokens > 0 AND p_input_tokens = 0 AND p_output_tokens = 0 THEN
            v_cost := NULL;
        END IF;

        INSERT INTO ai_usage_logs (
            user_id, organization_id, tokens_used, input_tokens, output_tokens,
            endpoint, model, request_type, request_metadata, estimated_cost_usd
        ) VALUES (
            p_user_id, p_org_id, p_tokens, p_input_tokens, p_output_tokens,
            p_endpoint, p_model, p_request_type, p_metadata, v_cost
        ) RETURNING id INTO v_id;

        RETURN v_id;
    END
    $function$;

    COMMENT ON FUNCTION log_ai_usage IS 'Writes one row of usage at once, without the queue, and returns its id';
END
$migration$;

DO $migration$
BEGIN
    IF to_regclass('ai_usage_daily') IS NOT NULL THEN
        RAISE NOTICE 'relation "ai_usage_daily" already exists, skipping';
        RETURN;
    END IF;

    -- Days are UTC days for every reader: the same sum must not depend on the session's TimeZone.
    CREATE VIEW ai_usage_daily AS
    SELECT
        (created_at AT TIME ZONE 'UTC')::DATE AS usage_date,
        user_id,
        organization_id,
        request_type,
        SUM(tokens_used) AS total_tokens,
        SUM(input_tokens) AS total_input,
        SUM(output_tokens) AS total_output,
        COUNT(*) AS request_count,
        SUM(estimated_cost_usd) AS total_cost
    FROM ai_usage_logs
    GROUP BY 1, user_id, organization_id, request_type;

    COMMENT ON VIEW ai_usage_daily IS 'Usage by UTC day, user, organization and type of request';
END
$migration$;
