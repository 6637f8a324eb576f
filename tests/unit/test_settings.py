"""Settings: each wrong one is named with its value and its limit, secrets are never shown."""

from pathlib import Path

import pytest
from pamqp import commands
from pydantic import SecretStr

from worker.errors import ConfigurationError
from worker.settings import PREFETCH_MAX, SECRETS, Settings, Topology, load_settings

SECRET = "hunter2"
LIMITS = [
    ("USAGE_BATCH_MAX_EVENTS", "0", "greater than or equal to 1"),
    ("USAGE_BATCH_MAX_EVENTS", "100001", "less than or equal to 100000"),
    ("USAGE_BATCH_MAX_EVENTS", "1.5", "a valid integer"),
    ("USAGE_BATCH_MAX_AGE", "0", "greater than 0"),
    ("USAGE_BATCH_MAX_AGE", "60.1", "less than or equal to 60"),
    ("USAGE_BATCH_MAX_AGE", "inf", "less than or equal to 60"),
    ("USAGE_BATCH_MAX_AGE", "nan", "less than or equal to 60"),
    ("USAGE_BATCH_MAX_AGE", "soon", "a valid number"),
    ("USAGE_WRITERS", "0", "greater than or equal to 1"),
    ("USAGE_WRITERS", "33", "less than or equal to 32"),
    ("USAGE_PREFETCH", "0", "greater than or equal to 1"),
    ("USAGE_PREFETCH", "65536", "less than or equal to 65535"),
    ("USAGE_HELD_BYTES_MAX", "2097151", "greater than or equal to 2097152"),
    ("USAGE_DELIVERY_PATH", "slow", "'fast' or 'library'"),
    ("USAGE_EXCHANGE", "", "at least 1 character"),
    ("USAGE_EXCHANGE", "x" * 123, "at most 122 characters"),
    ("USAGE_EXCHANGE", "é", "match pattern"),
    ("USAGE_QUEUE", "", "at least 1 character"),
    ("USAGE_QUEUE", "x" * 201, "at most 200 characters"),
    ("USAGE_QUEUE", "usage events?", "match pattern"),
    ("USAGE_BINDING_KEY", "", "at least 1 character"),
    ("USAGE_BINDING_KEY", "x" * 256, "at most 255 characters"),
    ("USAGE_TOPOLOGY", "guess", "'declare' or 'passive'"),
    ("USAGE_POSTGRES_SCHEMA", 'x"; DROP', "match pattern"),
    ("USAGE_POSTGRES_SCHEMA", "x" * 64, "match pattern"),
    ("USAGE_HTTP_PORT", "-1", "greater than or equal to 0"),
    ("USAGE_HTTP_PORT", "65536", "less than or equal to 65535"),
    ("USAGE_LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
    ("USAGE_LOG_FORMAT", "xml", "'auto', 'json' or 'console'"),
    ("USAGE_SHUTDOWN_TIMEOUT", "0", "greater than 0"),
    ("USAGE_SHUTDOWN_TIMEOUT", "601", "less than or equal to 600"),
    ("USAGE_MAX_AHEAD", "-1", "greater than or equal to 0"),
    ("USAGE_MAX_AGE", "0", "greater than or equal to 1"),
    ("USAGE_DEAD_LETTER_BYTES_MAX", "-1", "greater than or equal to 0"),
    ("USAGE_DEAD_LETTER_BYTES_MAX", "10GB", "a valid integer"),
]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of whoever runs the tests has no say."""
    for name in Settings.model_fields:
        for suffix in ("", "_FILE"):
            monkeypatch.delenv(f"USAGE_{name.upper()}{suffix}", raising=False)


def message_of_load() -> str:
    """What is said about wrong settings."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert caught.value.exit_status == 2
    return str(caught.value)


@pytest.mark.parametrize(("variable", "value", "limit"), LIMITS)
def test_a_limit_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, limit: str) -> None:
    """The message is one line: variable, value, limit and what the setting is."""
    monkeypatch.setenv(variable, value)
    message = message_of_load()
    assert message.startswith(f"{variable}={value!r}: ")
    assert limit in message
    description = Settings.model_fields[variable.removeprefix("USAGE_").lower()].description
    assert message.endswith(f"; {description}")
    assert "\n" not in message


def test_every_limited_setting_is_tried() -> None:
    """Nobody adds a setting with a limit without a case above."""
    limited = {f"USAGE_{name.upper()}" for name, field in Settings.model_fields.items() if field.metadata}
    assert limited - {f"USAGE_{name.upper()}" for name in SECRETS} <= {variable for variable, _, _ in LIMITS}


def test_the_last_good_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its limit a value is taken."""
    for name, value in {
        "BATCH_MAX_EVENTS": "100000",
        "BATCH_MAX_AGE": "60",
        "WRITERS": "32",
        "PREFETCH": "65535",
        "HELD_BYTES_MAX": "2097152",
        "EXCHANGE": "x" * 122,
        "QUEUE": "x" * 200,
        "BINDING_KEY": "x" * 255,
        "POSTGRES_SCHEMA": "x" * 63,
        "HTTP_PORT": "0",
        "SHUTDOWN_TIMEOUT": "600",
        "MAX_AHEAD": "0",
        "MAX_AGE": "1",
        "DEAD_LETTER_BYTES_MAX": "0",
        "TOPOLOGY": "passive",
    }.items():
        monkeypatch.setenv(f"USAGE_{name}", value)
    settings = load_settings()
    assert (settings.batch_max_events, settings.prefetch, settings.http_port) == (100_000, PREFETCH_MAX, 0)
    assert settings.topology is Topology.PASSIVE


def test_defaults() -> None:
    """Without any variable these hold: they are promised to users."""
    settings = load_settings()
    assert (settings.batch_max_events, settings.batch_max_age, settings.writers) == (5000, 0.25, 2)
    assert (settings.http_host, settings.http_port, settings.shutdown_timeout) == ("127.0.0.1", 9464, 8.0)
    assert (settings.max_ahead, settings.max_age, settings.postgres_schema) == (300, 3_024_000, "public")
    assert (settings.exchange, settings.queue, settings.binding_key) == ("usage", "usage.events", "usage.recorded.#")
    assert (settings.dead_exchange, settings.dead_queue) == ("usage.dead", "usage.events.dead")


def test_every_wrong_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two mistakes are two lines: nobody has to start twice to find both."""
    monkeypatch.setenv("USAGE_WRITERS", "0")
    monkeypatch.setenv("USAGE_PREFETCH", "0")
    lines = message_of_load().splitlines()
    assert [line.partition("=")[0] for line in lines] == ["USAGE_WRITERS", "USAGE_PREFETCH"]


@pytest.mark.parametrize(
    ("variable", "scheme"),
    [("USAGE_AMQP_URL", "amqp:// or amqps://"), ("USAGE_POSTGRES_DSN", "postgres:// or postgresql://")],
)
def test_a_wrong_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str) -> None:
    """The message says what is wrong with a secret, not what it is; nor does the error that caused it."""
    monkeypatch.setenv(variable, f"http://user:{SECRET}@host/")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert str(caught.value).startswith(f"{variable}: must begin with {scheme}; ")
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__}"


def test_secrets_do_not_show_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings can be logged."""
    monkeypatch.setenv("USAGE_AMQP_URL", f"amqp://user:{SECRET}@host/")
    settings = load_settings()
    assert SECRET not in f"{settings!r} {settings}"
    assert settings.amqp_url.get_secret_value() == f"amqp://user:{SECRET}@host/"


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """The `_FILE` twin names a file that holds the value; blanks and a line's end around it do not count."""
    value = {"amqp_url": "amqps://file/", "postgres_dsn": "postgresql://file/"}[name]
    secret = tmp_path / "secret"
    secret.write_text(f" {value}\n")
    monkeypatch.setenv(f"USAGE_{name.upper()}_FILE", str(secret))
    given = getattr(load_settings(), name)
    assert isinstance(given, SecretStr)
    assert given.get_secret_value() == value


@pytest.mark.parametrize("name", SECRETS)
def test_both_twins_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """Which of the two would count is not guessed."""
    variable = f"USAGE_{name.upper()}"
    monkeypatch.setenv(variable, f"amqp://{SECRET}/")
    monkeypatch.setenv(f"{variable}_FILE", str(tmp_path / "secret"))
    assert message_of_load() == f"{variable} and {variable}_FILE are both set: unset one of them"


def test_a_missing_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that is not there is named with its path and the system's reason."""
    path = str(tmp_path / "none")
    monkeypatch.setenv("USAGE_AMQP_URL_FILE", path)
    message = message_of_load()
    assert message.startswith(f"USAGE_AMQP_URL_FILE={path!r} cannot be read: ")
    assert "No such file or directory" in message


def test_a_folder_and_a_file_that_is_no_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So are a folder and bytes that are no text; their content is not shown."""
    monkeypatch.setenv("USAGE_AMQP_URL_FILE", str(tmp_path))
    assert "Is a directory" in message_of_load()
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe" + SECRET.encode())
    monkeypatch.setenv("USAGE_AMQP_URL_FILE", str(binary))
    message = message_of_load()
    assert message.startswith(f"USAGE_AMQP_URL_FILE={str(binary)!r} cannot be read: 'utf-8' codec")
    assert SECRET not in message


def test_a_wrong_secret_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The value out of a file is judged as any other, and is not shown either."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    monkeypatch.setenv("USAGE_POSTGRES_DSN_FILE", str(secret))
    message = message_of_load()
    assert message.startswith("USAGE_POSTGRES_DSN: must begin with postgres:// or postgresql://")
    assert SECRET not in message


@pytest.mark.parametrize("variable", ["USAGE_AMQP_URL", "USAGE_POSTGRES_DSN"])
def test_a_port_that_none_can_have(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """A port past the last one is wrong configuration, said at the start and without the password."""
    scheme = "amqp" if variable == "USAGE_AMQP_URL" else "postgresql"
    monkeypatch.setenv(variable, f"{scheme}://user:{SECRET}@host:65536/x")
    message = message_of_load()
    assert message.startswith(f"{variable}: host and port cannot be read")
    assert SECRET not in message
    monkeypatch.setenv(variable, f"{scheme}://user:{SECRET}@host:65535/x")
    load_settings()


@pytest.mark.parametrize("name", ["x" * 122, "usage.#, a/b+c:@_-d"])
def test_the_library_takes_every_name_that_is_allowed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """No name that passes here makes the library refuse a declaration later, that of the dead exchange included."""
    monkeypatch.setenv("USAGE_EXCHANGE", name)
    monkeypatch.setenv("USAGE_QUEUE", name)
    settings = load_settings()
    for exchange, queue in ((settings.exchange, settings.queue), (settings.dead_exchange, settings.dead_queue)):
        commands.Exchange.Declare(exchange=exchange).validate()
        commands.Queue.Declare(queue=queue).validate()
