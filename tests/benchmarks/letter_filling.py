"""A table of dead letters as a bad month leaves it, and a table of usage beside it; both made by the server itself."""

import asyncpg

from benchmarks.workload import People

PRODUCERS = 20
FILL_SECONDS_MAX = 3600.0

# Of twenty letters: three of users who exist by now, two of users who do not, arrays from the dead queue, and the rest
# by one reason each. A tenth is settled. Bodies are what `workload.make_events` makes, a little wrong.
_LETTERS = """
INSERT INTO ai_usage_dead_letters
    (fingerprint, event_id, reason, errors, body, content_type, headers, app_id, exchange, routing_key, queue, user_id,
     organization_id, model, first_seen, last_seen, worker, status)
SELECT sha256(convert_to('application/json' || chr(10) || body, 'UTF8')),
       CASE WHEN reason NOT IN ('bad_json', 'delivery_limit') THEN event_id END, reason,
       jsonb_build_array(jsonb_build_object('field', field, 'message', 'is refused for ' || reason, 'input', n::text)),
       convert_to(body, 'UTF8'), 'application/json', '{}', 'service-' || n / 20 % $4::int, 'usage', 'usage.recorded',
       'usage.events', CASE WHEN field <> '' THEN user_id END, CASE WHEN field <> '' THEN organization_id END,
       CASE WHEN field <> '' THEN 'gpt-4o' END, seen, seen, 'bench:1',
       CASE WHEN n % 10 = 7 THEN CASE WHEN n % 3 = 0 THEN 'discarded' ELSE 'recovered' END ELSE 'open' END
FROM (
    SELECT *, CASE WHEN reason = 'delivery_limit' THEN '[' || event || ',' || replace(event, '"id":"', '"id":"0') || ']'
                   WHEN reason = 'bad_json' THEN left(event, -1) ELSE event END AS body
    FROM (
        SELECT *, format(
            '{"id":"%s","user_id":"%s","organization_id":"%s","%s":%s,"output_tokens":%s,"endpoint":'
            '"/v1/chat/completions","model":"gpt-4o","request_type":"chat","request_metadata":{"trace":"%s","region":'
            '"eu","cached":0},"created_at":"%s"}',
            event_id, user_id, organization_id,
            CASE WHEN reason = 'invalid' THEN 'input_token' ELSE 'input_tokens' END, 10 + n % 4000, 1 + n % 1000,
            md5(n::text), to_char(seen AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')) AS event
        FROM (
            SELECT n, gen_random_uuid() AS event_id, now() - interval '20 days' * (1 - n::float8 / $1::int) AS seen,
                   CASE WHEN n % 20 IN (3, 4) THEN gen_random_uuid()
                        ELSE ($2::uuid[])[1 + n / 20 % cardinality($2::uuid[])] END AS user_id,
                   ($3::uuid[])[1 + n / 20 % cardinality($3::uuid[])] AS organization_id,
                   (ARRAY['unknown_user', 'unknown_user', 'unknown_user', 'unknown_user', 'unknown_user', 'invalid',
                          'invalid', 'invalid', 'invalid', 'token_mismatch', 'token_mismatch', 'too_old', 'in_future',
                          'unknown_organization', 'unknown_organization', 'id_conflict', 'rejected_by_database',
                          'bad_json', 'bad_json', 'delivery_limit'])[1 + n % 20] AS reason,
                   (ARRAY['user_id', 'user_id', 'user_id', 'user_id', 'user_id', 'input_token', 'input_token',
                          'input_token', 'input_token', 'tokens_used', 'tokens_used', 'created_at', 'created_at',
                          'organization_id', 'organization_id', 'id', 'model', '', '', ''])[1 + n % 20] AS field
            FROM generate_series(1, $1::int) n
        ) numbered
    ) written
) bodied
"""
_ROWS = """
INSERT INTO ai_usage_logs (id, user_id, organization_id, tokens_used, input_tokens, output_tokens, endpoint, model,
                           request_type, estimated_cost_usd, created_at)
SELECT gen_random_uuid(), ($2::uuid[])[1 + n % cardinality($2::uuid[])], ($3::uuid[])[1 + n % cardinality($3::uuid[])],
       300, 200, 100, '/v1/embeddings', 'gpt-4o', 'chat', 0.0005, now() - interval '20 days' * (1 - n::float8 / $1::int)
FROM generate_series(1, $1::int) n
"""


async def fill_letters(connection: asyncpg.Connection, people: People, letters: int) -> None:
    """So many letters, and statistics of them."""
    await connection.execute(_LETTERS, letters, *people, PRODUCERS, timeout=FILL_SECONDS_MAX)
    await connection.execute("VACUUM (ANALYZE) ai_usage_dead_letters", timeout=FILL_SECONDS_MAX)


async def fill_rows(connection: asyncpg.Connection, people: People, rows: int) -> None:
    """So many stored events."""
    await connection.execute(_ROWS, rows, *people, timeout=FILL_SECONDS_MAX)
    await connection.execute("VACUUM (ANALYZE) ai_usage_logs", timeout=FILL_SECONDS_MAX)
