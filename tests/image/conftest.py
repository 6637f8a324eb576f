"""Fixtures: the image, built once, and a database and a queue for what runs in it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from engine import BASE, REVISION, VERSION, Start, WorkerContainer, docker, why_no_engine
from harness import System


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Building and starting takes a minute, so these are among the slow ones."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """The image of this checkout; the network of the build is this machine's, which may know the way out."""
    if (reason := why_no_engine(BASE)) is not None:
        pytest.skip(reason)
    name = f"usage-worker-test:{uuid4().hex[:12]}"
    arguments = ["--build-arg", f"VERSION={VERSION}", "--build-arg", f"REVISION={REVISION}"]
    docker("build", "--network", "host", "--tag", name, *arguments, ".")
    yield name
    docker("image", "rm", "--force", name)


@pytest.fixture
async def system(migrated_dsn: str, amqp_url: str, names: Any, tmp_path: Path) -> AsyncIterator[System]:
    """A database and a queue of this test's own."""
    async with System(migrated_dsn, amqp_url, exchange=names.exchange, queue=names.queue, folder=tmp_path) as opened:
        yield opened


@pytest.fixture
def start(image: str) -> Iterator[Start]:
    """Starts a worker in a container; it is removed at the end."""
    started: list[WorkerContainer] = []

    def start_one(**environment: str) -> WorkerContainer:
        started.append(WorkerContainer(image, environment, name=f"usage-worker-test-{uuid4().hex[:12]}"))
        return started[-1]

    yield start_one
    for container in started:
        container.remove()
