"""What operators read is written from the code and the figures, and every link in it leads somewhere."""

import re
from pathlib import Path

import pytest
import settings_page
import sizing
from benchmarks.report import LATEST
from benchmarks.sheet import Sheet

from worker.cli import COMMANDS
from worker.settings import PREFIX, SECRETS, Settings

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "client" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
KNOWN = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
KNOWN |= {f"{PREFIX}{name.upper()}_FILE" for name in SECRETS}


def test_the_page_of_settings_names_each() -> None:
    """Every variable that the worker reads has a row, with its limits."""
    rows = dict(re.findall(r"^\| `(USAGE_\w+)` \| (.*) \|$", settings_page.page(), re.MULTILINE))
    assert rows.keys() == KNOWN
    assert rows["USAGE_BATCH_MAX_AGE"].startswith("`0.25` | above 0, at most 60 | seconds")
    assert rows["USAGE_LOG_LEVEL"].startswith("`info` | `debug`, `info`, `warning`, `error` |")
    assert rows["USAGE_DEAD_LETTER_BYTES_MAX"].startswith("not set | at least 0 |")


def test_the_sizing_table_is_that_of_the_last_figures() -> None:
    """It is written with the other figures, by `make bench-publish`."""
    assert sizing.MARKS.put(OPERATIONS, sizing.part(Sheet.read(LATEST))) == OPERATIONS
    assert "make bench-publish" in sizing.MARKS.begin
    assert (
        "-m sizing"
        in (ROOT / "Makefile").read_text(encoding="utf-8").partition("bench-publish:")[2].partition("\n\n")[0]
    )


def test_operations_name_what_exists() -> None:
    """No variable and no command is described that is not there."""
    assert set(re.findall(r"\bUSAGE_[A-Z_]+\b", OPERATIONS)) - KNOWN == {"USAGE_SECRETS", "USAGE_WORKERS"}
    assert set(re.findall(r"usage-worker ([a-z-]+)\b(?! is)", "\n".join(commands()))) <= {*COMMANDS}


def commands() -> list[str]:
    """The blocks of commands and what stands in backquotes."""
    return re.findall(r"```.*?```", OPERATIONS, re.DOTALL) + re.findall(r"`(usage-worker [^`]+)`", OPERATIONS)


def anchors(page: Path) -> set[str]:
    """The headings of a page, as a link names them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    """Each link to a file, a folder or a heading of the project finds it."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"
