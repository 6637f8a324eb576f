"""Chooses and starts the servers of the demonstration and the tests.

Those that the environment gives (USAGE_POSTGRES_DSN, USAGE_AMQP_URL), else containers where a Docker engine has or can
pull the images, else local processes. USAGE_TEST_SERVERS chooses explicitly.

Run as a program it tells the set-up whether there is a broker: exit status 0 yes, 1 none, 2 a wrong configuration.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec

from worker.demo import postgres_server, rabbitmq_server
from worker.demo.postgres_server import PostgresServer
from worker.demo.rabbitmq_server import RabbitServer
from worker.errors import ConfigurationError
from worker.settings import read_secret_file

CHOICE = "USAGE_TEST_SERVERS"

Say = Callable[[str], object]


class Kind(StrEnum):
    """Where a server comes from."""

    GIVEN = "given"
    DOCKER = "docker"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Servers:
    """A database server and a broker, both running."""

    postgres: PostgresServer
    rabbitmq: RabbitServer

    @property
    def postgres_dsn(self) -> str:
        """Where the database is."""
        return self.postgres.dsn

    @property
    def amqp_url(self) -> str:
        """Where the broker is."""
        return self.rabbitmq.amqp_url


def to_standard_error(text: str) -> None:
    """Say it beside the output."""
    sys.stderr.write(f"{text}\n")


@contextmanager
def servers(say: Say = to_standard_error) -> Iterator[Servers]:
    """Both servers, for as long as the block runs; `say` is told what is started.

    Raises:
        ConfigurationError: one cannot be had here, and how to get it.
    """
    with ExitStack() as stack:
        postgres = stack.enter_context(start_postgres(say=say))
        yield Servers(postgres, stack.enter_context(start_rabbitmq(say=say)))


def start_postgres(
    kind: Kind | None = None,
    *,
    say: Say = to_standard_error,
    settings: Mapping[str, str] = postgres_server.NO_SETTINGS,
) -> PostgresServer:
    """A running Postgres of this kind, or of the first that can be had; close it at the end.

    `settings` are added to its own; one that is given keeps those that it has.
    """
    kind = kind or _choose("postgres_dsn", postgres_server.IMAGE, say)
    if kind is Kind.GIVEN:
        return postgres_server.given_postgres(_given("postgres_dsn"))
    say(f"starting Postgres as a {_noun(kind)}")
    start = postgres_server.docker_postgres if kind is Kind.DOCKER else postgres_server.local_postgres
    return start(settings)


def start_rabbitmq(
    kind: Kind | None = None, *, plugins: Sequence[str] = (), say: Say = to_standard_error
) -> RabbitServer:
    """A running RabbitMQ of this kind, or of the first that can be had; close it at the end.

    A given one has the plugins that it has; any other has `plugins` beside management.
    """
    kind = kind or _choose("amqp_url", rabbitmq_server.IMAGE, say)
    if kind is Kind.GIVEN:
        return rabbitmq_server.given_rabbitmq(_given("amqp_url"))
    say(f"starting RabbitMQ as a {_noun(kind)}")
    start = rabbitmq_server.docker_rabbitmq if kind is Kind.DOCKER else rabbitmq_server.local_rabbitmq
    return start(plugins)


def chosen_kind() -> Kind | None:
    """The kind that USAGE_TEST_SERVERS asks for.

    Raises:
        ConfigurationError: it names none.
    """
    wanted = os.environ.get(CHOICE)
    if not wanted:
        return None
    try:
        return Kind(wanted)
    except ValueError:
        raise ConfigurationError(
            f"{CHOICE}={wanted!r}: must be one of {', '.join(Kind)}; unset it to take the first that can be had"
        ) from None


def why_no_container(image: str) -> str | None:
    """Why a container of this image cannot be had here, or None where it can."""
    if find_spec("testcontainers") is None:
        return "the package testcontainers is not installed"
    from worker.demo.containers import why_not

    return why_not(image)


def own_kind(image: str, say: Say = to_standard_error) -> Kind:
    """The kind of a server that may be stopped and killed: never a given one.

    Raises:
        ConfigurationError: containers are asked for and cannot be had.
    """
    chosen = chosen_kind()
    if chosen is Kind.LOCAL:
        return Kind.LOCAL
    reason = why_no_container(image)
    if reason is None:
        return Kind.DOCKER
    if chosen is Kind.DOCKER:
        raise ConfigurationError(f"{CHOICE}={chosen}, but {reason}: start an engine, or unset it")
    say(f"{reason}: taking a local process instead of {image}")
    return Kind.LOCAL


def _choose(setting: str, image: str, say: Say) -> Kind:
    chosen = chosen_kind()
    if chosen is Kind.GIVEN or (chosen is None and _find(setting) is not None):
        return Kind.GIVEN
    return own_kind(image, say)


def _given(setting: str) -> str:
    found = _find(setting)
    if found is None:
        raise ConfigurationError(f"USAGE_{setting.upper()} is not set, and {CHOICE}=given asks for it: set it")
    return found


def _find(setting: str) -> str | None:
    return os.environ.get(f"USAGE_{setting.upper()}") or read_secret_file(os.environ, setting)


def _noun(kind: Kind) -> str:
    return "container" if kind is Kind.DOCKER else "local process"


def _main() -> int:
    try:
        kind = _choose("amqp_url", rabbitmq_server.IMAGE, to_standard_error)
    except ConfigurationError as error:
        to_standard_error(str(error))
        return error.exit_status
    return 1 if kind is Kind.LOCAL and rabbitmq_server.find_script() is None else 0


if __name__ == "__main__":
    sys.exit(_main())
