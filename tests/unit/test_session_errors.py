"""What the driver raises becomes the project's own error; what the project's own code raises stays what it is."""

import pytest

from worker.errors import SystemUnavailableError
from worker.postgres.session import translated

_RAISES = "def read(status):\n    return status.decode()\n"


def read_by(file: str) -> None:
    """Fail as code of this file does where an answer's status is missing."""
    namespace: dict[str, object] = {}
    exec(compile(_RAISES, file, "exec"), namespace)
    read = namespace["read"]
    assert callable(read)
    read(None)


def test_an_answer_that_was_damaged_on_its_way_is_about_the_system() -> None:
    """The driver does not check what it reads, so any error may come out of it; the batch is tried again."""
    with pytest.raises(SystemUnavailableError, match="cannot be read: AttributeError"), translated():
        read_by("asyncpg/protocol/protocol.pyx")


def test_a_mistake_of_ones_own_is_no_outage() -> None:
    """It would be tried again for ever."""
    with pytest.raises(AttributeError), translated():
        read_by("worker/postgres/merge.py")
