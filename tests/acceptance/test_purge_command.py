"""`dead-letters purge` from outside: what goes, what stays, and who may."""

import pytest
from desk import Desk

OLD = "UPDATE ai_usage_dead_letters SET first_seen = now() - interval '100 d', last_seen = now() - interval '100 d'"
SETTLED = """
INSERT INTO ai_usage_dead_letters (fingerprint, reason, body, edited_body, status, first_seen, last_seen)
SELECT sha256(n::text::bytea), 'invalid', repeat('x', 100)::bytea, CASE WHEN n = 1 THEN 'edited'::bytea END,
    CASE n % 3 WHEN 0 THEN 'open' WHEN 1 THEN 'discarded' ELSE 'recovered' END,
    now() - interval '100 d', now() - interval '100 d'
FROM generate_series(1, $1::int) n
"""


async def left(desk: Desk) -> int:
    """How many letters there are."""
    return int(await desk.database.fetchval("SELECT count(*) FROM ai_usage_dead_letters"))


async def test_what_was_settled_long_ago_goes(desk: Desk) -> None:
    """Open letters stay, others go in lots; the dry run tells the same and changes nothing; the history keeps it."""
    await desk.database.execute(SETTLED, 3000)
    before = await desk.contents()
    assert desk.json("purge", "--settled-before", "90d", "--dry-run") == [{"would_purge": 2000, "body_bytes": 200_006}]
    done = desk.run("purge", "--settled-before", "90d", "--dry-run")
    assert done.stdout == "would purge 2,000 letters: 200.0 kB of bodies\n"
    assert await desk.contents() == before
    done = desk.run("purge", "--settled-before", "90d", "--yes", "--who", "ada")
    assert (done.returncode, done.stdout, done.stderr) == (0, "purged 2,000 letters: 200.0 kB of bodies\n", "")
    statuses = await desk.database.fetch("SELECT status, count(*) FROM ai_usage_dead_letters GROUP BY 1")
    assert [tuple(row) for row in statuses] == [("open", 1000)]
    assert (
        sum(run["letters"] for run in desk.json("history") if (run["who"], run["action"]) == ("ada", "purge")) == 2000
    )


async def test_what_was_done_lately_counts(desk: Desk) -> None:
    """A letter that was settled, or noted on, since then stays, however old it is; its history stays."""
    await desk.refuse(b"old", b"lately")
    await desk.database.execute(OLD)
    assert desk.run("discard", "--why", "garbage", "--yes").returncode == 0
    assert desk.run("purge", "--settled-before", "90d", "--yes").stdout == "purged 0 letters\n"
    await desk.database.execute(
        "UPDATE ai_usage_dead_letter_actions a SET at = now() - interval '91 d' FROM ai_usage_dead_letters l"
        " WHERE l.id = a.letter_id AND l.body = 'old'"
    )
    letter_id = await desk.database.fetchval("SELECT id FROM ai_usage_dead_letters WHERE body = 'old'")
    assert desk.run("purge", "--settled-before", "90d", "--yes").stdout == "purged 1 letter: 3 bytes of bodies\n"
    assert await desk.database.fetchval("SELECT body FROM ai_usage_dead_letters") == b"lately"
    assert [one["action"] for one in desk.json("history", str(letter_id))] == ["discard", "purge"]


async def test_a_role_without_delete(desk: Desk) -> None:
    """The worker's rights do not suffice: which grant is missing, and who should run it; nothing is changed."""
    await desk.database.execute(SETTLED, 3)
    async with desk.role("SELECT", "INSERT", "UPDATE") as dsn:
        done = desk.run("purge", "--settled-before", "90d", "--yes", USAGE_POSTGRES_DSN=dsn)
    assert (done.returncode, done.stdout) == (1, "")
    assert "(SQLSTATE 42501), and nothing was changed: run it as the tables' owner" in done.stderr
    assert "let the owner say: GRANT DELETE ON ai_usage_dead_letters TO role_" in done.stderr
    assert await left(desk) == 3


async def test_letters_in_other_hands(desk: Desk) -> None:
    """What another session has locked stays, without waiting: exit 3, and the next run removes it."""
    await desk.database.execute(SETTLED, 3)
    async with desk.other() as other, other.transaction():
        await other.fetch("SELECT FROM ai_usage_dead_letters WHERE status = 'discarded' FOR UPDATE")
        done = desk.run("purge", "--settled-before", "90d", "--yes", "--json")
    assert done.returncode == 3
    assert done.stdout == '{"purged": 1, "chosen": 2, "busy": 1, "stopped": false, "body_bytes": 100}\n'
    assert desk.run("purge", "--settled-before", "90d", "--yes").returncode == 0
    assert await left(desk) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing option '--settled-before'"),
        (("--settled-before", "soon", "--yes"), "'soon' is neither an age"),
        (("--settled-before", "90d"), "this would purge 2 letters (206 bytes of bodies), and there is no terminal"),
    ],
)
async def test_wrong_usage(desk: Desk, arguments: tuple[str, ...], message: str) -> None:
    """Exit 2, what is wrong, and nothing goes."""
    await desk.database.execute(SETTLED, 3)
    done = desk.run("purge", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert await left(desk) == 3
