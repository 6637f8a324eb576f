"""A worker whose AMQP library is not as the frame reader needs it works all the same, and says so."""

from pathlib import Path

import pytest
from harness import System, event, message, raw
from supervision import use_worker

from worker.rabbitmq.delivery_path import library_version


async def test_a_library_without_the_extension_point(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning names versions and what differs; events are stored, and what is refused is a letter."""
    use_worker(Path(__file__).with_name("other_library_worker.py"), tmp_path, monkeypatch)
    worker = await system.start_worker()
    await system.publish(*(message(event()) for _ in range(500)), raw(b"no json"))
    await system.until_stored(500)
    await system.settle()
    books = await system.books()
    books.check()
    assert (len(books.stored), books.letters) == (500, {"bad_json": 1})
    (warning,) = [line for line in worker.log_lines() if line["event"].startswith("the frame reader does not work")]
    assert warning["level"] == "warning"
    assert warning["found"] == library_version()
    assert warning["why"] == "its connection takes no transport_factory"
    assert warning["way"] == "the library's own path, which cannot be paused"


async def test_a_library_that_works_is_not_talked_about(system: System) -> None:
    """No worker warns of the library that it was installed with."""
    worker = await system.start_worker()
    assert not worker.has_logged("the frame reader does not work")
