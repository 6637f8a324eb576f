"""The sheet: every figure of a run, by question and contender; what the JSON file, the tables and the pictures hold."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


class Spread(NamedTuple):
    """What several rounds say of one figure."""

    median: float
    least: float
    most: float


@dataclass(slots=True)
class Line:
    """One contender in one case; each figure holds a value a round."""

    question: str
    contender: str
    case: float | str
    figures: dict[str, list[float]] = field(default_factory=dict)

    def spread(self, figure: str) -> Spread | None:
        """Median, least and most of a figure; `None` where it was not taken."""
        values = self.figures.get(figure)
        return Spread(statistics.median(values), min(values), max(values)) if values else None

    def median(self, figure: str) -> float:
        """The median of a figure.

        Raises:
            KeyError: it was not taken.
        """
        return statistics.median(self.figures[figure])


@dataclass(slots=True)
class Sheet:
    """All lines of a run, in the order in which they were first measured, and what they were measured on."""

    about: dict[str, Any] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)

    def note(self, question: str, contender: str, case: float | str = "", /, **figures: float) -> None:
        """Add the figures of one round, to five digits."""
        line = self.find(question, contender, case)
        if line is None:
            line = Line(question, contender, case)
            self.lines.append(line)
        for name, value in figures.items():
            line.figures.setdefault(name, []).append(_short(value))

    def find(self, question: str, contender: str, case: float | str = "") -> Line | None:
        """The line of a contender in a case, where it was measured."""
        for line in self.of(question):
            if line.contender == contender and line.case == case:
                return line
        return None

    def of(self, question: str) -> Iterator[Line]:
        """The lines of a question."""
        return (line for line in self.lines if line.question == question)

    def without(self, questions: Sequence[str], about: Mapping[str, Any]) -> "Sheet":
        """The same without the answers to these, which are asked again; `about` says when and by what."""
        again = {name: {key: about[key] for key in ("at", "commit", "command")} for name in questions}
        kept = [line for line in self.lines if line.question not in questions]
        return Sheet(self.about | {"again": self.about.get("again", {}) | again}, kept)

    def write(self, path: Path) -> None:
        """Write the file that `read` takes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            {
                "question": line.question,
                "contender": line.contender,
                "case": line.case,
                "figures": line.figures,
            }
            for line in self.lines
        ]
        path.write_text(json.dumps({"about": self.about, "lines": lines}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Sheet":
        """A sheet from its file."""
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(content["about"], [Line(**line) for line in content["lines"]])


def _short(value: float) -> float:
    """Five digits are more than any of these figures is good for."""
    return float(f"{value:.5g}")
