"""The ceiling of the table of dead letters: each crossing is told once."""

import structlog

from worker.dead_letters.ceiling import Ceiling


def test_each_crossing_is_told_once() -> None:
    """A warning on the way up, a line on the way down, nothing while it stays on one side."""
    ceiling = Ceiling(10)
    with structlog.testing.capture_logs() as logs:
        for is_above in (False, True, True, False, False, True):
            ceiling.note(is_above=is_above)
    assert [line["log_level"] for line in logs] == ["warning", "info", "warning"]
    assert logs[0]["bytes_max"] == 10
