"""Fixtures of the tests against real servers."""

import asyncio
import logging
from collections.abc import Callable, Iterator

import pytest
from producing import LogSignal


@pytest.fixture
def log_signal(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[str], asyncio.Event]]:
    """Makes signals that are taken away after the test."""
    caplog.set_level(logging.DEBUG, "usage_events")
    logger = logging.getLogger("usage_events")
    signals: list[LogSignal] = []

    def make(words: str) -> asyncio.Event:
        signals.append(LogSignal(words))
        logger.addHandler(signals[-1])
        return signals[-1].seen

    yield make
    for signal in signals:
        logger.removeHandler(signal)
