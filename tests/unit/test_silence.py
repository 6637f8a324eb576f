"""A broker that lives and no longer confirms is noticed; one that has blocked the connection may be silent."""

import asyncio

import pytest
from fake_broker import let_others_run
from usage_events import silence
from usage_events.silence import SilenceWatch


class Watched:
    """A watch whose checks follow each other at once, and what it has noticed."""

    def __init__(self) -> None:
        self.noticed = asyncio.Event()
        self.unblocked = asyncio.Event()
        self.unblocked.set()
        self.watch = SilenceWatch(self._ready, self.noticed.set)

    async def _ready(self) -> None:
        await self.unblocked.wait()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """One that waits for nothing between its checks."""
    monkeypatch.setattr(silence, "SILENCE_SECONDS_MAX", 0)
    return Watched()


async def test_no_answer_at_all_is_noticed(watched: Watched) -> None:
    """One message without an answer is enough."""
    watched.watch.expect()
    await watched.noticed.wait()


async def test_any_answer_is_a_sign_of_life(watched: Watched) -> None:
    """While some messages are answered, the one that is not is waited for; when the last answers stop it is noticed."""
    watched.watch.expect()
    for _ in range(100):
        watched.watch.expect()
        await asyncio.sleep(0)
        watched.watch.hear()
    assert not watched.noticed.is_set()
    await watched.noticed.wait()


async def test_nothing_is_noticed_where_nothing_is_awaited(watched: Watched) -> None:
    """An idle link stays; the first message after that is watched again."""
    watched.watch.expect()
    watched.watch.hear()
    await let_others_run()
    assert not watched.noticed.is_set()
    watched.watch.expect()
    await watched.noticed.wait()


async def test_a_blocked_connection_may_be_silent(watched: Watched) -> None:
    """While a broker has said that it takes nothing (a memory or disk alarm), the link stays; after that it counts."""
    watched.unblocked.clear()
    watched.watch.expect()
    await let_others_run()
    assert not watched.noticed.is_set()
    watched.unblocked.set()
    await watched.noticed.wait()


async def test_a_stopped_watch_leaves_no_task(watched: Watched) -> None:
    """After the end of the link nothing runs on, and nothing begins again."""
    before = asyncio.all_tasks()
    watched.watch.expect()
    watched.watch.stop()
    watched.watch.expect()
    await let_others_run()
    assert asyncio.all_tasks() == before
    assert not watched.noticed.is_set()
