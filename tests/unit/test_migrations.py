"""Migrations without a server: how files are found, numbered and judged against what a database holds."""

import hashlib
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from worker.commands.migrate import command
from worker.errors import SchemaError
from worker.postgres import migrations
from worker.postgres.migrations import Migration, find_migrations, number_migrations, pending_migrations

FIRST = Migration(1, "0001_first.sql", "SELECT 1")
SECOND = Migration(2, "0002_second.sql", "SELECT 2")


def test_a_checkout_finds_its_own_files() -> None:
    """An editable install reads schema/migrations of the checkout, each file once, numbered from 1."""
    folder = Path(__file__).parents[2] / "schema" / "migrations"
    found = find_migrations()
    assert [migration.name for migration in found] == sorted(path.name for path in folder.iterdir())
    assert [migration.version for migration in found] == list(range(1, len(found) + 1))


def test_an_installed_package_reads_its_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that travel in the package come before a checkout; line ends do not change the checksum."""
    packaged = tmp_path / "_schema" / "migrations"
    packaged.mkdir(parents=True)
    (packaged / "0001_packaged.sql").write_bytes(b"SELECT\r\n1")
    (packaged / "__init__.py").touch()
    monkeypatch.setattr(migrations, "files", lambda _package: tmp_path)
    assert [(found.name, found.checksum) for found in find_migrations()] == [
        ("0001_packaged.sql", hashlib.sha256(b"SELECT\n1").hexdigest())
    ]


def test_no_files_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package without its data does not call an empty database up to date."""
    (tmp_path / "_schema" / "migrations").mkdir(parents=True)
    monkeypatch.setattr(migrations, "files", lambda _package: tmp_path)
    with pytest.raises(SchemaError, match=r"no migrations in .*/migrations: install usage-worker again"):
        find_migrations()


def test_order_is_that_of_the_names() -> None:
    """Whatever order a file system lists them in."""
    given = {SECOND.name: SECOND.sql, FIRST.name: FIRST.sql}
    assert number_migrations(given) == [FIRST, SECOND]


@pytest.mark.parametrize("name", ["1_short.sql", "first.sql", "0001-dash.sql", "0001_Upper.sql"])
def test_a_name_that_does_not_number_is_refused(name: str) -> None:
    """A file that would be applied in a place nobody meant is named."""
    with pytest.raises(SchemaError, match=re.escape(f"migration {name!r} is not named like 0001_what_it_does.sql")):
        number_migrations({name: ""})


def test_two_of_one_number_are_refused() -> None:
    """Two branches that both added a migration are noticed."""
    with pytest.raises(SchemaError, match=r"0001_a\.sql and 0001_b\.sql have one number: renumber the newer"):
        number_migrations({"0001_a.sql": "", "0001_b.sql": ""})


def test_pending_are_those_without_a_row() -> None:
    """An empty database lacks all, a current one none."""
    known = [FIRST, SECOND]
    assert pending_migrations(known, {}) == known
    assert pending_migrations(known, {1: FIRST.checksum}) == [SECOND]
    assert pending_migrations(known, {1: FIRST.checksum, 2: SECOND.checksum}) == []


def test_a_changed_file_is_refused() -> None:
    """Both checksums are named, and what to do."""
    expected = (
        f"0001_first.sql has changed since it was applied (SHA-256 abc then, {FIRST.checksum} now):"
        " restore the file, and put the change into a new migration"
    )
    with pytest.raises(SchemaError, match=f"^{re.escape(expected)}$"):
        pending_migrations([FIRST, SECOND], {1: "abc"})


def test_a_newer_database_is_refused() -> None:
    """An old version does not touch what a new one has made."""
    expected = "the database is at migration 0002, this version knows up to 0001: upgrade usage-worker"
    with pytest.raises(SchemaError, match=f"^{re.escape(expected)}$"):
        pending_migrations([FIRST], {1: FIRST.checksum, 2: SECOND.checksum})


@pytest.mark.parametrize("migration", find_migrations(), ids=lambda migration: migration.name)
def test_files_leave_the_transaction_and_the_schema_to_the_runner(migration: Migration) -> None:
    """No file ends the transaction that it runs in, and none names a schema: it is a setting."""
    statements = re.sub(r"--.*", "", migration.sql)
    assert not re.search(r"^\s*(BEGIN|START TRANSACTION|COMMIT|ROLLBACK)\s*;", statements, re.MULTILINE | re.IGNORECASE)
    assert not re.search(r"\bpublic\.|\bsearch_path\s*(=|TO)", statements, re.IGNORECASE)


def test_the_help_has_an_example() -> None:
    """`migrate --help` says what it needs, what it leaves alone, and shows a run."""
    result = CliRunner().invoke(command, ["--help"])
    assert result.exit_code == 0
    assert "--dry-run" in result.output
    assert "  $ usage-worker migrate\n  applied 0001_usage_logs.sql in 0.12 s\n" in result.output
