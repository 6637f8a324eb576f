"""What bulk commands say: numbers and sizes."""

import pytest

from worker.commands.dead_letters.bulk import plural, size_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (9_140_000, "9.1 MB"),
        (2_500_000_000, "2.5 GB"),
        (7_000_000_000_000, "7.0 TB"),
        (7_000_000_000_000_000, "7000.0 TB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    """In SI's units, with one digit."""
    assert size_text(count) == text


def test_numbers() -> None:
    """One is no plural; thousands are marked."""
    assert [plural(0), plural(1), plural(2000, "row")] == ["0 letters", "1 letter", "2,000 rows"]
