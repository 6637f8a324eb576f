"""The chaos suite's producers, without servers: what they draw, and that their ledger says what has to become of it."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from chaos.billed import Billed, short_digest
from chaos.home import TESTS
from chaos.ledger import NO_REASON, Kind, Line
from chaos.load import ORGANIZATIONS, USERS
from chaos.producer import Message, Options, messages, single
from usage_events.contract import Event, Reason
from usage_events.rules import Window

from worker.decode import decode

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND_US = 10**6
OF_THE_DATABASE = {Reason.UNKNOWN_USER, Reason.UNKNOWN_ORGANIZATION}


def options(number: int = 0, *sizes: int) -> Options:
    """A producer's."""
    users, organizations = ([str(one) for one in ids] for ids in (USERS, ORGANIZATIONS))
    created_at = NOW.isoformat()
    return Options("", "", "", 7, 100, created_at, users, organizations, number=number, sizes=sizes or (1,))


def sent(producer: Options, count: int) -> Iterator[tuple[Line, bytes]]:
    """Its first messages, of an event each."""
    for message in islice(messages(producer), count):
        (line,) = message.lines
        yield line, message.body


def test_two_producers_of_one_seed_publish_the_same_events_in_other_messages() -> None:
    """What one sends alone the other sends in arrays, equal to the last character."""
    alone = [json.loads(message.body) for message in islice(messages(options(0, 1)), 200)]
    arrays = [event for message in islice(messages(options(1, 50)), 4) for event in json.loads(message.body)]
    assert alone == arrays


def test_a_seed_and_a_number_draw_the_same_messages_wherever_the_ledger_is() -> None:
    """Sizes and bodies that nobody can read are the same again, and another producer's are others."""

    def drawn(producer: Options) -> list[Message]:
        return list(islice(messages(replace(producer, unreadable_share=0.5)), 100))

    mine = options(0, 1, 10, 50)
    assert drawn(mine) == drawn(replace(mine, ledger="/elsewhere"))
    theirs = [message.body for message in drawn(replace(mine, number=1))]
    assert not {message.body for message in drawn(mine) if message.lines[0].kind is Kind.UNREADABLE} & {*theirs}


def test_a_producer_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """Also where that one was killed: a run that was given up leaves nobody who publishes."""
    command = replace(options(), ledger=str(tmp_path / "ledger"), amqp_url="amqp://127.0.0.1:1/").command()
    producer = subprocess.Popen(command, cwd=TESTS, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert producer.stdin is not None
    producer.stdin.close()
    assert producer.wait(90) == 1


def test_a_producer_sends_bad_events_and_says_so() -> None:
    """About one in fifty, and the ledger's line says which."""
    lines = [line for message in islice(messages(options(0, 50)), 100) for line in message.lines]
    assert 50 < sum(line.kind is Kind.BAD for line in lines) < 200
    assert len({line.key for line in lines}) == 5000


def test_a_producer_whose_clock_is_ahead_knows_that_it_will_be_refused() -> None:
    """Each of its events is bad for the ledger, and what it sends is else the same."""
    right, ahead = (list(sent(one, 500)) for one in (options(), replace(options(), is_in_future=True)))
    assert {line.kind for line, _ in ahead} == {Kind.BAD}
    assert [body for _, body in ahead] == [body for _, body in right]


def row_of(event: Event) -> dict[str, Any]:
    """The columns that an accepted event becomes."""
    cost = event.cost_micro_usd
    metadata = event.metadata_json
    return {
        "user_id": str(UUID(bytes=event.user_id)),
        "organization_id": str(UUID(bytes=event.organization_id)),
        "tokens_used": event.tokens_used,
        "input_tokens": event.input_tokens,
        "output_tokens": event.output_tokens,
        "model": event.model,
        "request_type": event.request_type,
        "metadata": None if metadata is None else metadata.decode(),
        "padding": None,
        "estimated_cost_usd": None if cost is None else f"{cost // 10**6}.{cost % 10**6:06}",
        "created_at": datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=event.created_at_us),
    }


def judged(producer: Options, behind_seconds: int) -> list[tuple[Line, bytes, Event | Reason]]:
    """Its events, and what the worker's decoder makes of each, so many seconds before they are made."""
    now_us = round(NOW.timestamp() - behind_seconds) * SECOND_US
    window = Window.around(now_us, max_age_seconds=35 * 86_400, max_ahead_seconds=300)
    found: list[tuple[Line, bytes, Event | Reason]] = []
    for line, body in sent(producer, 3000):
        decoded = decode(body, "application/json", None, window)
        found.append((line, body, decoded.events[0] if decoded.events else decoded.rejects[0].refusal.reason))
    return found


def test_the_ledger_knows_what_becomes_of_each_event() -> None:
    """By the worker's own decoder: the same row, or a letter of that reason with those bytes. All forms are drawn."""
    producer = replace(options(), bad_share=0.2)
    reasons = set()
    rows = []
    for line, body, verdict in judged(producer, 0):
        reasons.add(line.reason)
        if isinstance(verdict, Event):
            billed = Billed.of_row(row_of(verdict))
            assert line.kind is Kind.BAD or line.digest == billed.digest(), body
            assert line.reason in {NO_REASON, *OF_THE_DATABASE}, body
            rows.append(billed)
        else:
            assert line == Line(line.key, Kind.BAD, short_digest(body), verdict)
    assert reasons == {
        NO_REASON,
        "invalid",
        "token_mismatch",
        "too_old",
        "unknown_user",
        "unknown_organization",
    }
    assert {row.user_id for row in rows} >= {str(user) for user in USERS}
    assert {row.organization_id for row in rows} >= {str(organization) for organization in ORGANIZATIONS}
    assert {row.cost_usd is None for row in rows} == {row.model is None for row in rows} == {False, True}
    assert len({row.output_tokens for row in rows}) > len(rows) / 2


def test_of_several_reasons_the_ledger_names_the_first() -> None:
    """An event that is bad already and made in the future besides."""
    producer = replace(options(), bad_share=0.5, is_in_future=True)
    for line, body, verdict in judged(producer, 3600):
        assert line == Line(line.key, Kind.BAD, short_digest(body), verdict)  # type: ignore[arg-type] # or it differs


def test_the_observers_event_is_good() -> None:
    """It is published after a fault, and has to be stored."""
    message = single(str(USERS[0]), str(ORGANIZATIONS[0]))
    (line,) = message.lines
    assert line.kind is Kind.GOOD
    assert json.loads(message.body)["id"] == line.key
