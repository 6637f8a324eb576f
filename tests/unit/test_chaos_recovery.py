"""When a run of the chaos suite counts as recovered: the parts that take no server."""

from pathlib import Path

import pytest
from chaos.recovery import Growth, _has_confirmed


@pytest.mark.parametrize(
    ("readings", "grows"),
    [
        ([(10, 0.0), (10, 2.0)], False),
        ([(12, 0.1), (12, 5.0)], False),  # what was under way, and nothing more
        ([(12, 0.1), (13, 0.2)], False),
        ([(12, 0.1), (13, 0.2), (13, 1.2)], True),
        ([(12, 0.1), (14, 9.0)], True),
    ],
)
def test_a_worker_writes_where_its_count_grows_twice(readings: list[tuple[float, float]], *, grows: bool) -> None:
    """A batch that was under way when something broke is no sign of life."""
    growth = Growth(10)
    assert [growth.look(count, now) for count, now in readings][-1] is grows


def test_a_producer_publishes_where_what_it_sent_since_is_confirmed(tmp_path: Path) -> None:
    """A confirmation of what had left it before says nothing."""
    ledger = tmp_path / "producer-0.ledger"
    ledger.write_text("sent a good 1\n", encoding="ascii")
    offset = ledger.stat().st_size
    for more, publishes in (("confirmed a\n", False), ("sent b good 1\n", False), ("confirmed b\n", True)):
        with ledger.open("a", encoding="ascii") as file:
            file.write(more)
        assert _has_confirmed(ledger, offset) is publishes
