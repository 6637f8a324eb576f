"""A release has one version, which pyproject.toml gives; every other place that names it agrees."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RELEASE = ROOT / ".ci" / "release"
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
HEADING = re.compile(r"^## (\d+\.\d+\.\d+) \((unreleased|\d{4}-\d\d-\d\d)\)$", re.MULTILINE)
# What `.ci/release --set` may change, and looks at.
NAMED_IN = (
    "pyproject.toml", "client/pyproject.toml", "uv.lock", "docs/kubernetes.md", "docs/operations.md",
    "deploy/kubernetes", "CHANGELOG.md",
)  # fmt: skip


def project(path: str) -> dict[str, Any]:
    """A distribution's own description."""
    return dict(tomllib.loads((ROOT / path).read_text(encoding="utf-8"))["project"])


VERSION = str(project("pyproject.toml")["version"])


def test_worker_and_client_are_of_one_release() -> None:
    """Both wheels have the version, and the worker asks for the client of its own release: it uses its inside."""
    assert project("client/pyproject.toml")["version"] == VERSION
    assert f"usage-events=={VERSION}" in project("pyproject.toml")["dependencies"]


def test_the_changelog_begins_with_it() -> None:
    """Its newest section is this version's, and the versions go down from there."""
    versions = [tuple(map(int, version.split("."))) for version, _ in HEADING.findall(CHANGELOG)]
    assert re.findall(r"^## .*", CHANGELOG, re.MULTILINE) == [match[0] for match in HEADING.finditer(CHANGELOG)]
    assert versions[0] == tuple(map(int, VERSION.split(".")))
    assert versions == sorted(set(versions), reverse=True)
    assert "unreleased" not in [when for _, when in HEADING.findall(CHANGELOG)][1:]


def test_the_changelog_says_what_operators_must_do() -> None:
    """Each version has a line for those who upgrade to it, be it that there is nothing to do."""
    for section in re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)[1:]:
        assert len(re.findall(r"^\*\*Operators:\*\* \S", section, re.MULTILINE)) == 1, section.partition("\n")[0]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Of this checkout, what the script reads before it builds."""
    for name in (*NAMED_IN, "client", "worker", ".ci/release"):
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "--quiet", "-m", "all")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    """What git prints there."""
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def release(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit status of the script, and what it says."""
    done = subprocess.run([folder / ".ci" / "release", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_another_version_is_set_everywhere(copy: Path) -> None:
    """One command changes what names the version: none of the old one is left, and nothing else has changed."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    assert release(copy, "--set", "12.34.56") == (
        0,
        "release: the version is 12.34.56; CHANGELOG.md needs a section: ## 12.34.56 (unreleased)\n",
    )
    changed = git(copy, "diff", "--unified=0").splitlines()
    removed = [line[1:] for line in changed if re.match(r"-[^-]", line)]
    added = [line[1:] for line in changed if re.match(r"\+[^+]", line)]
    dashed = VERSION.replace(".", "-")
    assert [line.replace("12.34.56", VERSION).replace("12-34-56", dashed) for line in added] == removed
    left = re.compile(rf"\b{re.escape(VERSION)}\b|{dashed}")
    for name in git(copy, "ls-files", "docs", "deploy", "*.toml").split():
        assert not left.search((copy / name).read_text()), name
    assert 'name = "usage-worker"\nversion = "12.34.56"' in (copy / "uv.lock").read_text()


@pytest.mark.parametrize("version", ["", "1.2", "v1.2.3", "1.2.3-rc1"])
def test_what_is_no_version_is_refused(version: str) -> None:
    """The message says what one looks like."""
    assert release(ROOT, "--set", version) == (
        2,
        f"release: --set {version}: a version is three numbers, such as 0.2.0\n",
    )


def test_an_unknown_option_is_refused() -> None:
    """A misspelt rehearsal must not become a release."""
    assert release(ROOT, "--rehersal") == (2, "release: --rehersal is not known: read the head of .ci/release\n")


def test_what_is_not_ready_is_refused(copy: Path) -> None:
    """An unreleased section, a section of another version, and work that nobody has committed are no release."""
    changelog = copy / "CHANGELOG.md"

    def with_heading(text: str) -> tuple[int, str]:
        changelog.write_text(f"# Changelog\n\n## {text}\n")
        return release(copy)

    status, said = with_heading(f"{VERSION} (unreleased)")
    assert (status, said.partition(" (20")[0]) == (
        2,
        f"release: CHANGELOG.md: {VERSION} (unreleased): put the date there, as in {VERSION}",
    )
    begins = "release: CHANGELOG.md begins with '99.0.0 (2026-01-01)', and pyproject.toml says"
    assert with_heading("99.0.0 (2026-01-01)") == (2, f"{begins} {VERSION}: it needs a section for it\n")
    status, said = with_heading(f"{VERSION} (2026-01-01)")
    assert (status, said) == (
        2,
        "release: these files are not committed, so nobody could make this release again:\n M CHANGELOG.md\n",
    )
