"""A session of the worker: connected to the server that takes writes, with everything pinned that promises rest on."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from usage_events.tls import POSTGRES, advice

from worker.errors import ConfigurationError, RowsRefusedError, SystemUnavailableError
from worker.postgres.framing import check_answers
from worker.postgres.hosts import each_host

CONNECT_SECONDS_MAX = 10.0  # to all hosts of a DSN together
STATEMENT_SECONDS_MAX = 30
LOCK_SECONDS_MAX = 10
COMMAND_SECONDS_MAX = 40.0  # the client's own bound: a frozen server answers nothing, not even its time-outs

PINS = {
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
    "TimeZone": "UTC",
    "client_min_messages": "notice",  # a commit whose wait for the standby was cut short says so by a warning
    "statement_timeout": f"{STATEMENT_SECONDS_MAX}s",
    "lock_timeout": f"{LOCK_SECONDS_MAX}s",
    "idle_in_transaction_session_timeout": "60s",
    # The temporary tables have no statistics: without these the planner has hashed the big table for a batch.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}

_UNREADABLE = (
    "USAGE_POSTGRES_DSN cannot be read: write postgresql://user:password@host:port/database, with everything "
    "in user and password that is no letter or digit percent-encoded; sslmode, where it is given, is one of disable, "
    "allow, prefer, require, verify-ca, verify-full"
)
# The connection is gone or unusable, whatever the library calls it.
_LOST = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)
# A class 22 or 23 error, or a host's trigger, may be about the rows; everything else is about the system.
_ROW_CLASSES = ("22", "23")
_ROW_STATES = ("P0001",)
_DRIVER = "asyncpg"


async def connect(dsn: str, schema: str, *, name: str) -> asyncpg.Connection:
    """A pinned session on the first host of `dsn` that takes writes.

    Raises:
        SystemUnavailableError: no host answers, or none lets this user in.
        ConfigurationError: the DSN is none.
    """
    failures: list[tuple[str, BaseException]] = []
    give_up_at = monotonic() + CONNECT_SECONDS_MAX
    try:
        hosts = each_host(dsn)
        for number, host in enumerate(hosts):
            # The driver's own bound is for all hosts together: a silent first one would use it up each time.
            seconds_max = max(0.1, give_up_at - monotonic()) / (len(hosts) - number)
            try:
                return await _connect(host, schema, name=name, seconds_max=seconds_max)
            except (ssl.SSLError, *_LOST, asyncpg.PostgresError) as error:
                # The driver's error for a parameter that it does not know is both; that of a certificate is, too.
                if isinstance(error, ValueError) and not isinstance(error, ssl.SSLError):
                    raise
                failures.append((host, error))
            except Exception as error:
                # What the driver says of a DSN is a ValueError, what it cannot read of an answer may be any error.
                is_of_dsn = isinstance(error, ValueError) and not isinstance(error, UnicodeDecodeError)
                if is_of_dsn or not _is_the_drivers(error):
                    raise
                failures.append((host, error))
    except ValueError:
        raise ConfigurationError(_UNREADABLE) from None  # its text may hold a piece of the password
    why = "; ".join(f"{address(host)}: {_reason(error, dsn)}" for host, error in failures)
    last = failures[-1][1]
    if len(failures) == 1:
        why = _reason(last, dsn)
    raise SystemUnavailableError(f"Postgres at {address(dsn)} does not answer: {why}") from last


async def _connect(dsn: str, schema: str, *, name: str, seconds_max: float) -> asyncpg.Connection:
    options: dict[str, Any] = {}
    if "target_session_attrs" not in dsn:
        options["target_session_attrs"] = "read-write"
    check_answers()
    connection: asyncpg.Connection = await asyncpg.connect(
        dsn,
        timeout=seconds_max,
        command_timeout=COMMAND_SECONDS_MAX,
        statement_cache_size=0,
        server_settings=PINS | {"application_name": name, "search_path": f'"{schema}"'},
        **options,
    )
    return connection


def _reason(error: BaseException, dsn: str) -> str:
    told = advice(error, POSTGRES) if "sslmode" in dsn else None
    return f"{describe(error)}: {told}" if told else describe(error)


def address(dsn: str) -> str:
    """Host, port and database of a DSN, without user and password."""
    parts = urlsplit(dsn)
    return f"{parts.netloc.rpartition('@')[2]}{parts.path}"


def describe(error: BaseException) -> str:
    """One line about an error, also where the library gives it no text."""
    return f"{type(error).__name__}: {error}".strip().rstrip(":").replace("\n", " ")


@contextmanager
def translated() -> Iterator[None]:
    """Turns the library's errors into the project's own.

    Raises:
        RowsRefusedError: the error may be about the rows.
        SystemUnavailableError: it is about the system.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        state = error.sqlstate or ""
        if state[:2] in _ROW_CLASSES or state in _ROW_STATES:
            raise RowsRefusedError(
                str(error), sqlstate=state, column=error.column_name, line=copy_line(error.context)
            ) from error
        raise SystemUnavailableError(f"Postgres cannot write now: {describe(error)} (SQLSTATE {state})") from error
    except asyncio.CancelledError:
        raise
    except _LOST as error:
        raise SystemUnavailableError(f"the connection to Postgres failed: {describe(error)}") from error
    except Exception as error:
        if not _is_the_drivers(error):
            raise
        raise SystemUnavailableError(f"what Postgres answered cannot be read: {describe(error)}") from error


def buffer(data: bytes) -> Any:
    """What is to be copied, as a source that the driver does not have to ask: it writes it, then hears of every loss.

    Before it asks a source it waits until the socket takes more, and where the connection ends meanwhile, for ever.
    """
    return memoryview(data)


def _is_the_drivers(error: BaseException) -> bool:
    """Whether the driver's own code has raised it: an answer that was damaged on its way is any error there."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and _DRIVER in Path(traceback.tb_frame.f_code.co_filename).parts


def copy_line(context: str | None) -> int | None:
    """The 1-based line of a COPY that an error's context names in its last line, such as `COPY stage, line 2`.

    `JSON data, line 1` may stand before it and means something else.
    """
    last = (context or "").rstrip().rpartition("\n")[2]
    if not last.startswith("COPY "):
        return None
    digits = last.partition(", line ")[2].partition(",")[0].strip()
    return int(digits) if digits.isdigit() else None
