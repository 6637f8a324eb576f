"""What a service gets that installs `usage-events` and nothing else of this project."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[2] / "client"
PROGRAM = """
import sys
from importlib.metadata import distributions
from importlib.util import find_spec
import usage_events
from usage_events import BlockingUsagePublisher, UsageEvent, UsagePublisher
from usage_events.link import Link
from usage_events.providers import anthropic, bedrock, google, ollama, openai, opentelemetry
from uuid import uuid4

event = UsageEvent(user_id=uuid4(), organization_id=uuid4(), input_tokens=3)
BlockingUsagePublisher("amqp://localhost/").close()
import aio_pika
print(usage_events.__file__)
print(*[name for name in ("worker", "asyncpg", "click", "structlog", "prometheus_client") if find_spec(name)])
print(*sorted(one.metadata["Name"].lower().replace("_", "-") for one in distributions()))
"""
# What its two dependencies bring with them today is named here, so that a third one is noticed.
DISTRIBUTIONS = {
    "aio-pika", "aiormq", "annotated-types", "idna", "multidict", "pamqp", "propcache", "pydantic", "pydantic-core",
    "typing-extensions", "typing-inspection", "usage-events", "yarl",
}  # fmt: skip


def uv(*arguments: str) -> str:
    """What uv prints; its errors are the test's."""
    command = shutil.which("uv")
    if command is None:
        pytest.skip("uv is not installed")
    done = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client's wheel, built from its source distribution as a package index would have it."""
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--quiet", "--out-dir", str(folder), str(CLIENT))
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_whole_package(wheel: Path) -> None:
    """Every module and the marker of its types are in the wheel, and nothing else beside its metadata."""
    modules = {
        str(path.relative_to(CLIENT))
        for path in (CLIENT / "usage_events").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert "usage_events/py.typed" in names
    assert names == modules


def test_the_wheel_installs_alone(wheel: Path, tmp_path: Path) -> None:
    """In a bare environment it brings pydantic and aio-pika, and neither the worker nor its libraries."""
    venv = tmp_path / "venv"
    uv("venv", "--quiet", "--python", sys.executable, str(venv))
    python = venv / "bin" / "python"
    uv("pip", "install", "--quiet", "--python", str(python), str(wheel))
    done = subprocess.run(
        [python, "-I", "-W", "error", "-c", PROGRAM], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    place, present, installed = done.stdout.splitlines()
    assert place.startswith(str(venv))
    assert present == ""
    assert set(installed.split()) == DISTRIBUTIONS


def test_the_readmes_first_program_passes_strict_types(tmp_path: Path) -> None:
    """What a service pastes is right for its type checker too."""
    readme = (CLIENT.parent / "README.md").read_text(encoding="utf-8")
    program = tmp_path / "program.py"
    program.write_text(readme.split("```python\n", 1)[1].split("```", 1)[0], encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(tmp_path), str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
