"""The README and the code say the same."""

import re
from pathlib import Path

import pytest
import settings_page
from usage_events import contract, envelope

from worker.cli import COMMANDS
from worker.metrics import Metrics
from worker.settings import PREFIX, SECRETS, Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_lists_every_command() -> None:
    """Its table of commands has each of them, and no other."""
    table = README[README.index("| command |") : README.index("Wrong usage or configuration")]
    assert {row.split()[0] for row in re.findall(r"^\| `(.+?)`", table, re.MULTILINE)} == set(COMMANDS)


def test_every_setting_that_the_readme_names_exists() -> None:
    """No variable is documented that nothing reads."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    known |= {f"{PREFIX}{name.upper()}_FILE" for name in SECRETS}
    assert set(re.findall(r"\bUSAGE_[A-Z_]+\b", README)) <= known


def test_every_metric_that_the_readme_names_exists() -> None:
    """No metric is documented that the worker does not export."""
    exported = {family.name for family in Metrics().registry.collect()}
    for name in re.findall(r"\busage_worker_\w+", README):
        assert name.removesuffix("_total") in exported


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (envelope.MESSAGE_EVENTS_MAX, "1,000 events"),
        (envelope.MESSAGE_BYTES_MAX // 2**20, "1 MiB"),
        (contract.METADATA_BYTES_MAX // 1024, "16 KiB"),
        (contract.METADATA_DEPTH_MAX, "8 levels"),
        (contract.ENDPOINT_CHARACTERS_MAX, "255,"),
        (contract.MODEL_CHARACTERS_MAX, "100,"),
        (contract.REQUEST_TYPE_CHARACTERS_MAX, "50 characters"),
        (contract.COST_MICRO_USD_LIMIT // 10**6, "below 10,000"),
        (contract.MAX_AGE_SECONDS // 86_400, "35 days back"),
        (contract.MAX_AHEAD_SECONDS // 60, "5 minutes ahead"),
    ],
)
def test_the_limits_in_the_readme_are_those_of_the_contract(limit: int, said: str) -> None:
    """Each number of the contract stands in the README as it is in the code."""
    assert f"{limit:,}" in said
    assert said in README


def test_every_file_in_the_architecture_exists() -> None:
    """The listing in the README is the folder's."""
    listing = README[
        README.index("client/usage_events/   the event") : README.index("schema/                migrations")
    ]
    for line in listing[listing.index("worker/\n") :].splitlines()[1:]:
        for name in re.findall(r"[\w/]+(?:\.py|/)", line.split("  ")[1] if line.startswith("  ") else line):
            assert (ROOT / "worker" / name).exists(), name


def test_defaults_of_the_settings_are_those_of_the_contract() -> None:
    """A worker without settings accepts what the contract promises to producers."""
    fields = Settings.model_fields
    assert fields["max_age"].default == contract.MAX_AGE_SECONDS
    assert fields["max_ahead"].default == contract.MAX_AHEAD_SECONDS


def test_the_page_of_settings_is_current() -> None:
    """Nobody changes a setting, its default, its limit or its text without the page: `make settings-page`."""
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.page()
