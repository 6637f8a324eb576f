"""Every setting of the worker, read from the environment (prefix `USAGE_`), checked once at the start."""

import os
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from worker.errors import ConfigurationError

PREFIX = "USAGE_"
SECRETS = ("amqp_url", "postgres_dsn")
PREFETCH_MAX = 65_535  # basic.qos carries it in 16 bits
_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::(\d{0,5}))?")  # with its port
_PORT_MAX = 65_535
_NAME = r"^[A-Za-z0-9_.:@#,/+ -]*$"  # what the AMQP library takes for the name of an exchange or a queue
_EXCHANGE_CHARACTERS_MAX = 127 - len(".dead")  # the library's limit, less what the dead exchange's name adds


class LogFormat(StrEnum):
    """How log lines look: `auto` is `console` on a terminal and `json` otherwise."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class LogLevel(StrEnum):
    """The least severe line that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class DeliveryPath(StrEnum):
    """`fast`: the frame reader takes deliveries off the connection; `library`: the AMQP library delivers them."""

    FAST = "fast"
    LIBRARY = "library"


class Topology(StrEnum):
    """`declare`: the worker declares exchange and queues; `passive`: someone else has, it only checks."""

    DECLARE = "declare"
    PASSIVE = "passive"


def _url(*schemes: str) -> AfterValidator:
    def check(value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if text.partition("://")[0].lower() not in schemes:
            wanted = " or ".join(f"{scheme}://" for scheme in schemes)
            raise ValueError(f"must begin with {wanted}")
        authority = re.split("[/?#]", text.partition("://")[2], maxsplit=1)[0]
        hosts = [_HOST.fullmatch(host) for host in authority.rpartition("@")[2].split(",")]
        if not all(host and int(host[2] or 0) <= _PORT_MAX for host in hosts):
            raise ValueError("host and port cannot be read; in user and password write %2F for /, %3F for ?, %23 for #")
        return value

    return AfterValidator(check)


class Settings(BaseSettings):
    """The worker's settings. Times are in seconds, sizes in bytes, as their descriptions say."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True, case_sensitive=False
    )

    amqp_url: Annotated[SecretStr, _url("amqp", "amqps")] = Field(
        default=SecretStr("amqp://guest:guest@127.0.0.1:5672/"), description="RabbitMQ, `amqp://` or `amqps://`"
    )
    postgres_dsn: Annotated[SecretStr, _url("postgres", "postgresql")] = Field(
        default=SecretStr("postgresql://postgres@127.0.0.1:5432/postgres"),
        description="Postgres, `postgresql://`; several hosts are tried in order, the one that takes writes is used",
    )
    batch_max_events: int = Field(default=5000, ge=1, le=100_000, description="events that fill a batch")
    batch_max_age: float = Field(
        default=0.25, gt=0, le=60, description="seconds from a batch's first event until it is written"
    )
    writers: int = Field(default=2, ge=1, le=32, description="connections that write at once")
    prefetch: int = Field(
        default=PREFETCH_MAX, ge=1, le=PREFETCH_MAX, description="most messages held; found automatically below it"
    )
    held_bytes_max: int = Field(
        default=64 * 1024 * 1024, ge=2 * 1024 * 1024, description="bytes of message bodies held at once"
    )
    delivery_path: DeliveryPath = Field(
        default=DeliveryPath.FAST,
        description="`fast`, or `library`: the AMQP library's own, slower; a message with a property that it cannot"
        " read, such as a content type that is not UTF-8, breaks its connection until the broker has moved it to the"
        " dead queue",
    )
    exchange: str = Field(
        default="usage",
        pattern=_NAME,
        min_length=1,
        max_length=_EXCHANGE_CHARACTERS_MAX,
        description="exchange that is published to",
    )
    queue: str = Field(
        default="usage.events",
        pattern=_NAME,
        min_length=1,
        max_length=200,
        description="queue that is consumed",
    )
    binding_key: str = Field(
        default="usage.recorded.#", min_length=1, max_length=255, description="binds the queue to the exchange"
    )
    topology: Topology = Field(
        default=Topology.DECLARE, description="`declare`, or `passive` where someone else declares exchange and queues"
    )
    postgres_schema: str = Field(
        default="public", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$", description="schema that holds the tables"
    )
    http_host: str = Field(default="127.0.0.1", description="address of /livez, /readyz and /metrics")
    http_port: int = Field(default=9464, ge=0, le=65_535, description="port of the same; 0 picks a free one")
    log_level: LogLevel = Field(default=LogLevel.INFO, description="`debug`, `info`, `warning` or `error`")
    log_format: LogFormat = Field(default=LogFormat.AUTO, description="`auto`, `json` or `console`")
    shutdown_timeout: float = Field(
        default=8.0, gt=0, le=600, description="seconds from SIGTERM until what is held goes back to the broker"
    )
    max_ahead: int = Field(default=300, ge=0, description="seconds that `created_at` may lie in the future")
    max_age: int = Field(default=3_024_000, ge=1, description="seconds that `created_at` may lie in the past")
    self_heal: bool = Field(
        default=True, description="replay letters by itself once the user and the organization that they lacked exist"
    )
    dead_letter_bytes_max: int | None = Field(
        default=None,
        ge=0,
        description="bytes of the table of dead letters, indexes included, from which on EVENTS ARE GIVEN UP: new "
        "letters are kept without their body (reason, errors, ids and counts stay) and can never be replayed",
    )
    traces: bool = Field(
        default=False,
        description="a span for each batch, with links to its producers', sent by OTLP as `OTEL_EXPORTER_OTLP_…` say;"
        " needs the extra `otel`",
    )
    redact: bool = Field(default=False, description="hide `request_metadata` where `dead-letters` shows events")

    @property
    def dead_exchange(self) -> str:
        """The exchange that the queue dead-letters to."""
        return f"{self.exchange}.dead"

    @property
    def dead_queue(self) -> str:
        """The broker's safety net for messages that keep crashing consumers."""
        return f"{self.queue}.dead"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is the library's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is the library's
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then the environment, then the files that `USAGE_…_FILE` names."""
        return init_settings, env_settings, _SecretFiles(settings_cls)


class _SecretFiles(PydanticBaseSettingsSource):
    """`USAGE_AMQP_URL_FILE=/run/secrets/amqp-url` holds the value of `USAGE_AMQP_URL`."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        return {name: text for name in SECRETS if (text := read_secret_file(os.environ, name)) is not None}


def read_secret_file(environment: Mapping[str, str], name: str) -> str | None:
    """The content of the file that the variable's `_FILE` twin names, without the blanks around it.

    Raises:
        ConfigurationError: both are given, or the file cannot be read.
    """
    variable = f"{PREFIX}{name.upper()}"
    path = environment.get(f"{variable}_FILE")
    if path is None:
        return None
    if variable in environment:
        raise ConfigurationError(f"{variable} and {variable}_FILE are both set: unset one of them")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{variable}_FILE={path!r} cannot be read: {error}") from error


def load_settings(**overrides: Any) -> Settings:
    """The settings from the environment, with `overrides` on top.

    Raises:
        ConfigurationError: names each wrong setting with its value (secrets without) and its limit.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise ConfigurationError("\n".join(_explain(error))) from error


def _explain(error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False):
        name = str(problem["loc"][0])
        variable = f"{PREFIX}{name.upper()}"
        shown = "" if name in SECRETS else f"={os.environ.get(variable, '')!r}"
        message = problem["msg"].removeprefix("Value error, ")
        lines.append(
            f"{variable}{shown}: {message[:1].lower()}{message[1:]}; {Settings.model_fields[name].description}"
        )
    return lines
