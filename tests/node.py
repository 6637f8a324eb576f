"""Node.js in tests: the packages of a lock file, downloaded once and kept."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

_CACHE = Path(__file__).parents[1] / ".local" / "node"
_INSTALL_SECONDS_MAX = 300


def install(folder: Path, target: Path) -> None:
    """Copy the files of `folder` to `target`, with the packages of its package-lock.json beside them.

    Skips the test where there is no Node.js, and where the registry cannot be reached, except in CI.
    """
    target.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        if file.is_file():
            shutil.copy(file, target)
    (target / "node_modules").symlink_to(_packages(folder))


def _packages(folder: Path) -> Path:
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not in the PATH: install nodejs and npm")
    lock = (folder / "package-lock.json").read_bytes()
    kept = _CACHE / f"{folder.name}-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not kept.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_CACHE) as made:  # other processes may do the same at the same time
            for name in ("package.json", "package-lock.json"):
                shutil.copy(folder / name, made)
            _npm_ci(Path(made))
            _keep(Path(made), kept)
    return kept / "node_modules"


def _npm_ci(folder: Path) -> None:
    done = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_INSTALL_SECONDS_MAX,
        check=False,
    )
    if done.returncode:
        said = f"npm ci in {folder} ended with {done.returncode}: {done.stderr.strip()}"
        assert "CI" not in os.environ, said
        pytest.skip(said)


def _keep(made: Path, kept: Path) -> None:
    """Move it to its place; where another process has been quicker, that one's stays."""
    moved = made / "whole"
    moved.mkdir()
    (made / "node_modules").rename(moved / "node_modules")
    try:
        moved.rename(kept)
    except OSError:
        if not kept.exists():
            raise
