"""`make release-rehearsal` makes what is published, and what it has made works."""

import hashlib
import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path
from uuid import uuid4

import pytest
from engine import BASE, ROOT, docker, inspect, why_no_engine

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
WHEEL_AND_SOURCE = ("-py3-none-any.whl", ".tar.gz")


def test_a_release_is_made_of_one_version(tmp_path: Path) -> None:
    """Both wheels, both sources, the list of the image's parts and the sums of all; the image says what it is."""
    if (reason := why_no_engine(BASE)) is not None:
        pytest.skip(reason)
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    subprocess.run(["git", "clone", "--quiet", ROOT, tmp_path / "clone"], check=True)
    (tmp_path / "clone" / ".venv").symlink_to(ROOT / ".venv")
    name = f"usage-worker-test-{uuid4().hex[:12]}"
    try:
        done = subprocess.run(
            [tmp_path / "clone" / ".ci" / "release", "--rehearsal"],
            env=os.environ | {"IMAGE": name, "BUILD_OPTIONS": "--network host", "SOURCE": "https://git.example.com/x"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        labels = inspect(f"{name}:{VERSION}")["Config"]["Labels"]
    finally:
        docker("image", "rm", "--force", f"{name}:{VERSION}")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = {key.rpartition(".")[2]: text for key, text in labels.items()}
    assert (found["version"], found["revision"], found["source"]) == (
        VERSION,
        head.strip(),
        "https://git.example.com/x",
    )
    assert f"image {name}:{VERSION}, revision {head[:7]}" in done.stdout

    made = {path.name: path for path in (tmp_path / "clone" / "dist").iterdir() if not path.name.startswith(".")}
    sums = dict(line.split("  ")[::-1] for line in made.pop("SHA256SUMS").read_text().splitlines())
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in made.items()} == sums
    assert {*made} == {
        f"usage-worker-{VERSION}.cdx.json",
        *(f"{package}-{VERSION}{end}" for package in ("usage_events", "usage_worker") for end in WHEEL_AND_SOURCE),
    }
    listed = json.loads(made[f"usage-worker-{VERSION}.cdx.json"].read_text())
    assert listed["metadata"]["component"]["version"] == VERSION
