-- Events that could not be accepted, and what operators did about them.

-- No foreign keys to users and organizations: a letter often names one that does not exist, and must outlive both.
--
-- fillfactor: a body that comes again raises occurrences and last_seen, which no index holds, so with room on the
-- page the row is updated in place. That is also why last_seen is not indexed.
CREATE TABLE ai_usage_dead_letters (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    fingerprint BYTEA NOT NULL
        CONSTRAINT ai_usage_dead_letters_fingerprint_key UNIQUE
        CONSTRAINT ai_usage_dead_letters_fingerprint_check CHECK (octet_length(fingerprint) = 32),
    event_id UUID,
    reason TEXT NOT NULL
        CONSTRAINT ai_usage_dead_letters_reason_check CHECK (
            reason IN (
                'unsupported_content_type',
                'too_large',
                'bad_json',
                'invalid',
                'token_mismatch',
                'in_future',
                'too_old',
                'unknown_user',
                'unknown_organization',
                'id_conflict',
                'rejected_by_database',
                'delivery_limit'
            )
        ),
    errors JSONB NOT NULL DEFAULT '[]',
    body BYTEA NOT NULL,
    content_type TEXT,
    headers JSONB,
    app_id TEXT,
    amqp_user TEXT,
    exchange TEXT,
    routing_key TEXT,
    queue TEXT,
    user_id UUID,
    organization_id UUID,
    model TEXT,
    occurrences BIGINT NOT NULL DEFAULT 1,
    first_seen TIMESTAMPTZ NOT NULL,
    last_seen TIMESTAMPTZ NOT NULL,
    worker TEXT,
    edited_body BYTEA,
    status TEXT NOT NULL DEFAULT 'open'
        CONSTRAINT ai_usage_dead_letters_status_check CHECK (status IN ('open', 'recovered', 'discarded'))
) WITH (fillfactor = 90);

COMMENT ON TABLE ai_usage_dead_letters IS 'Events that could not be accepted, one row for each body';
COMMENT ON COLUMN ai_usage_dead_letters.fingerprint IS 'SHA-256 of content type, line feed, body';
COMMENT ON COLUMN ai_usage_dead_letters.event_id IS 'The event''s id, where it can be read';
COMMENT ON COLUMN ai_usage_dead_letters.errors IS 'What is wrong: a list of field, message, input';
COMMENT ON COLUMN ai_usage_dead_letters.body IS 'The event''s bytes as they came';
COMMENT ON COLUMN ai_usage_dead_letters.app_id IS 'The producer, as it says itself';
COMMENT ON COLUMN ai_usage_dead_letters.amqp_user IS 'The producer''s user, validated by the broker';
COMMENT ON COLUMN ai_usage_dead_letters.occurrences IS 'Deliveries of this body: an upper bound of its events';
COMMENT ON COLUMN ai_usage_dead_letters.worker IS 'The worker that refused it last';
COMMENT ON COLUMN ai_usage_dead_letters.edited_body IS 'What an operator made of the body; replayed in its place';

-- Indexes: what operators filter by, with a million letters, against a flood of bad events that pays for each.
-- Most keys below repeat or only grow, so they go to few pages and are stored once for many rows.

-- Counts by status and reason, and the letters of a rare reason. A time in it would make each key its own:
-- ten times the size, and slower counts.
CREATE INDEX ai_usage_dead_letters_status_reason ON ai_usage_dead_letters (status, reason);
-- The oldest open letter, and all open ones in order of time: nothing is left in it once they are settled.
CREATE INDEX ai_usage_dead_letters_open ON ai_usage_dead_letters (first_seen) WHERE status = 'open';
-- Letters that wait for a user or an organization: those that can be replayed are found without reading bodies.
CREATE INDEX ai_usage_dead_letters_waiting ON ai_usage_dead_letters (first_seen)
    INCLUDE (id, user_id, organization_id)
    WHERE status = 'open' AND reason IN ('unknown_user', 'unknown_organization');
-- One event's letter, and the check of a list of ids: unreadable ones have no entry.
CREATE INDEX ai_usage_dead_letters_event ON ai_usage_dead_letters (event_id) WHERE event_id IS NOT NULL;
-- One producer's, one organization's, one user's letters.
CREATE INDEX ai_usage_dead_letters_app ON ai_usage_dead_letters (app_id) WHERE app_id IS NOT NULL;
CREATE INDEX ai_usage_dead_letters_organization ON ai_usage_dead_letters (organization_id)
    WHERE organization_id IS NOT NULL;
CREATE INDEX ai_usage_dead_letters_user ON ai_usage_dead_letters (user_id) WHERE user_id IS NOT NULL;

-- letter_id has no foreign key: the audit must outlive a letter that retention removes, and the check would lock
-- the letter for each action.
--
-- Append-only by rights, not by a trigger: roles get INSERT and SELECT alone, while the owner can still blank a note
-- that holds personal data.
CREATE TABLE ai_usage_dead_letter_actions (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    who TEXT NOT NULL,
    letter_id UUID NOT NULL,
    action TEXT NOT NULL,
    from_reason TEXT,
    to_reason TEXT,
    from_status TEXT,
    to_status TEXT,
    note TEXT,
    filter JSONB
);

COMMENT ON TABLE ai_usage_dead_letter_actions IS 'What was done to dead letters, by whom; rows are only added';
COMMENT ON COLUMN ai_usage_dead_letter_actions.filter IS 'How the letter was chosen, where it was one of many';

-- One letter's history, and what was done lately.
CREATE INDEX ai_usage_dead_letter_actions_letter ON ai_usage_dead_letter_actions (letter_id, at);
CREATE INDEX ai_usage_dead_letter_actions_at ON ai_usage_dead_letter_actions (at);
