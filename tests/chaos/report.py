"""The table of docs/chaos.md, made of the lines of JSON that runs have written."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median

from marks import Marks

from chaos.registry import Fault
from chaos.run import Outcome

PAGE = Path(__file__).parents[2] / "docs" / "chaos.md"
MARKS = Marks("<!-- chaos: written by `make chaos` -->", "<!-- chaos: end -->", "docs/chaos.md")
SEVERAL = "several at once"
HEAD = (
    "| fault | what happens | runs | events | lost | doubled | wrongly dead-lettered | seconds to recover |",
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
)


def read(path: Path) -> list[Outcome]:
    """The runs of a file."""
    return [Outcome(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def table(outcomes: Iterable[Outcome], faults: Mapping[str, Fault]) -> str:
    """A row a fault in the registry's order, those of several at once in one row, and their sum."""
    by_name: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_name[outcome.faults[0] if len(outcome.faults) == 1 else SEVERAL].append(outcome)
    rows = [_row(name, faults[name].what, by_name[name]) for name in faults if name in by_name]
    if SEVERAL in by_name:
        rows.append(_row(SEVERAL, "Two or three of the above, of different kinds.", by_name[SEVERAL]))
    every = [outcome for found in by_name.values() for outcome in found]
    rows.append(_row("**all**", "", every))
    return "\n".join([*HEAD, *rows]) + "\n"


def marked(made: str) -> str:
    """The table between its marks, as docs/chaos.md has it."""
    return f"{MARKS.begin}\n{made}{MARKS.end}"


def _row(name: str, what: str, outcomes: list[Outcome]) -> str:
    wrong = [sum(outcome.counts[kind] for outcome in outcomes) for kind in ("lost", "doubled", "wrongly_dead")]
    seconds = [outcome.recovery_seconds for outcome in outcomes if outcome.recovery_seconds is not None]
    late = len(outcomes) - len(seconds)
    shown = f"{median(seconds):.1f}" if seconds else ""
    if len(seconds) > 1:
        shown += f", at most {max(seconds):.1f}"
    cells = [
        name,
        what.rstrip("."),
        f"{len(outcomes):,}",
        f"{sum(outcome.events for outcome in outcomes):,}",
        *(f"{count:,}" for count in wrong),
        shown + (f"; {late} too late" if late else ""),
    ]
    return f"| {' | '.join(cells)} |"
