"""What the driver raises becomes the project's own error; what the project's own code raises stays what it is."""

from typing import Any

import asyncpg
import pytest

from worker.errors import ConfigurationError, SystemUnavailableError
from worker.postgres.session import connect, translated

_RAISES = "def read(status):\n    return status.decode()\n"
_DSN = "postgresql://u:secret@127.0.0.1:1/d"


def read_by(file: str, status: bytes | None = None) -> None:
    """Fail as code of this file does where an answer's status is missing, or not text."""
    namespace: dict[str, object] = {}
    exec(compile(_RAISES, file, "exec"), namespace)
    read = namespace["read"]
    assert callable(read)
    read(status)


def test_an_answer_that_was_damaged_on_its_way_is_about_the_system() -> None:
    """The driver does not check what it reads, so any error may come out of it; the batch is tried again."""
    with pytest.raises(SystemUnavailableError, match="cannot be read: AttributeError"), translated():
        read_by("asyncpg/protocol/protocol.pyx")


def test_a_mistake_of_ones_own_is_no_outage() -> None:
    """It would be tried again for ever."""
    with pytest.raises(AttributeError), translated():
        read_by("worker/postgres/merge.py")


@pytest.mark.parametrize("status", [None, b"\xff"])
async def test_a_greeting_that_was_damaged_on_its_way_is_about_the_system(
    monkeypatch: pytest.MonkeyPatch, status: bytes | None
) -> None:
    """It is tried again; it is no mistake of the settings, and ends no worker."""

    async def greet(*_: Any, **__: Any) -> None:
        read_by("asyncpg/protocol/coreproto.pyx", status)

    monkeypatch.setattr(asyncpg, "connect", greet)
    with pytest.raises(SystemUnavailableError, match="does not answer"):
        await connect(_DSN, "public", name="tests")


async def test_what_the_driver_says_of_a_dsn_is_a_mistake_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its text, which may hold a piece of the password."""

    async def greet(*_: Any, **__: Any) -> None:
        raise ValueError("secret")

    monkeypatch.setattr(asyncpg, "connect", greet)
    with pytest.raises(ConfigurationError) as caught:
        await connect(_DSN, "public", name="tests")
    assert "secret" not in str(caught.value)
