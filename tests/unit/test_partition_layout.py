"""The layout of partitions: what is read, what is missing, what would be made and dropped."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest

from worker.findings import Verdict
from worker.postgres.partitions.catalogue import Division, State
from worker.postgres.partitions.inspect import judge_division
from worker.retention.layout import (
    DEFAULT,
    FUTURE,
    PAST,
    Layout,
    Partition,
    Range,
    first_range,
    read_bound,
    read_excluded,
    table_name,
)
from worker.retention.months import Month

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
FIRST = Month(2026, 12)
WHOLE = first_range(NOW)


def months(first: Month, count: int) -> list[Range]:
    """So many months in turn."""
    return [Range(first.plus(n).first_id, first.plus(n + 1).first_id) for n in range(count)]


def layout(count: int) -> Layout:
    """The default, so many months from the first on, and the future; not in order."""
    made = [Partition(table_name(ids), ids) for ids in months(FIRST, count)]
    rest = Partition(FUTURE, Range(FIRST.plus(count).first_id, WHOLE.high))
    return Layout.of([rest, *reversed(made), Partition(DEFAULT, None)])


def test_texts_of_the_catalogue() -> None:
    """A bound and a CHECK, as Postgres writes them; another kind of bound is refused."""
    low, high = months(FIRST, 1)[0]
    assert read_bound("DEFAULT") is None
    assert read_bound(f"FOR VALUES FROM ('{low}') TO ('{high}')") == (low, high)
    check = f"CHECK (((id < '{low}'::uuid) OR (id >= '{high}'::uuid))) NO INHERIT NOT VALID"
    assert read_excluded(check) == (low, high)
    assert read_excluded("CHECK (tokens_used >= 0)") is None
    with pytest.raises(ValueError, match="is no range of ids"):
        read_bound("FOR VALUES WITH (modulus 2, remainder 0)")


def test_the_first_range_begins_after_today() -> None:
    """With the next month; at a month's very end with the one after it, as the clock is about to pass into the next."""
    assert str(WHOLE) == "2026-12 to 2046-11"
    assert str(first_range(datetime(2026, 11, 30, 12, tzinfo=UTC))) == "2027-01 to 2046-12"


def test_names_and_order() -> None:
    """The default comes first, then the ranges by their ids; a month is named by its digits, a longer one by both."""
    assert [one.name for one in layout(2).partitions] == [
        DEFAULT,
        "ai_usage_logs_2026_12",
        "ai_usage_logs_2027_01",
        FUTURE,
    ]
    assert table_name(Range(FIRST.first_id, FIRST.plus(3).first_id)) == "ai_usage_logs_2026_12_2027_02"


@pytest.mark.parametrize(("count", "ahead", "made"), [(0, 3, 3), (2, 3, 1), (3, 3, 0), (5, 3, 0), (1, 1, 0)])
def test_months_are_made_ahead(count: int, ahead: int, made: int) -> None:
    """From the last one on, as many as are missing; the ranges stay without a gap."""
    before = layout(count)
    split = before.split(NOW, ahead)
    if split is None:
        assert made == 0
        return
    assert split.late is None
    assert list(split.months) == months(FIRST.plus(count), made)
    assert split.months[-1].high == split.rest.low
    assert split.rest.high == WHOLE.high


def test_months_that_are_made_late() -> None:
    """What gathered since then becomes one partition up to this month's end; the months after it follow."""
    split = layout(2).split(datetime(2027, 4, 2, tzinfo=UTC), 1)
    assert split is not None
    assert split.late is not None
    assert str(split.late) == "2027-02 to 2027-04"
    assert [str(ids) for ids in split.months] == ["2027-05"]
    assert all(before.high == after.low for before, after in pairwise([split.late, *split.months, split.rest]))


def test_months_end_where_the_range_does() -> None:
    """In its last years no more is made than there is room for, and the future keeps a month."""
    split = layout(236).split(datetime(2046, 8, 1, tzinfo=UTC), 12)
    assert split is not None
    assert (str(split.late), [str(ids) for ids in split.months]) == ("2046-08", ["2046-09", "2046-10"])
    assert str(split.rest) == "2046-11"


def test_what_is_due() -> None:
    """Months that lie wholly before the first one that is kept, the oldest first."""
    assert [one.name for one in layout(3).due(FIRST.plus(2))] == ["ai_usage_logs_2026_12", "ai_usage_logs_2027_01"]
    assert layout(3).due(FIRST) == ()


def judged(partitions: Layout, *, now: datetime = NOW, excluded: Range | None = WHOLE) -> list[tuple[Verdict, str]]:
    """What check would say."""
    division = Division(State.DIVIDED, "owner", partitions, {}, excluded)
    return [(finding.verdict, finding.text) for finding in judge_division(division, now)]


def test_what_check_says() -> None:
    """All is well; months run out; they have run out."""
    assert judged(layout(3)) == [(Verdict.OK, "3 of months, without a gap, ready for 3 months after this one")]
    assert judged(layout(0)) == [(Verdict.WARNING, "the next month has none yet")]
    [(verdict, text)] = judged(layout(1), now=datetime(2027, 1, 1, tzinfo=UTC))
    assert (verdict, text[:19]) == (Verdict.WRONG, "this month has none")
    [finding] = judge_division(Division(State.BEGUN, "owner", Layout(()), {}, None), NOW)
    assert finding.verdict is Verdict.WRONG


def test_what_somebody_has_taken_away() -> None:
    """A gap, no default, no future, a CHECK that is gone or another: each is wrong, and says what follows."""
    whole = layout(3)

    def without(name: str) -> list[tuple[Verdict, str]]:
        return judged(Layout.of([one for one in whole.partitions if one.name != name]))

    [(_, text)] = without("ai_usage_logs_2027_01")
    assert text.startswith(f"no partition holds the ids from {FIRST.plus(1).first_id} to {FIRST.plus(2).first_id}")
    assert "refuses them, and their events become dead letters" in text
    assert without(DEFAULT)[0][1].startswith("there is no default partition")
    assert without(FUTURE)[0][1] == f"{FUTURE} is missing: no further month can be made"
    [(verdict, text)] = judged(whole, excluded=None)
    assert verdict is Verdict.WRONG
    assert text.startswith("the default partition's CHECK excludes nothing, and the ranges are 2026-12 to 2046-11")


def test_past_is_no_month() -> None:
    """What was kept of dropped months is not due, and closes the gap."""
    past = Partition(PAST, Range(WHOLE.low, FIRST.plus(1).first_id))
    kept = Layout.of([past, *(one for one in layout(3).partitions if one.name != "ai_usage_logs_2026_12")])
    assert [one.name for one in kept.due(FIRST.plus(9))] == ["ai_usage_logs_2027_01", "ai_usage_logs_2027_02"]
    assert judged(kept)[0][0] is Verdict.OK
