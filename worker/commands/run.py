"""`usage-worker run`: the worker."""

import click

EXAMPLE = """
\b
Example:
$ export USAGE_AMQP_URL=amqp://usage:secret@127.0.0.1/ USAGE_POSTGRES_DSN=postgresql://usage@127.0.0.1/usage
$ usage-worker run
"""


def _settings_help() -> str:
    from pydantic_core import PydanticUndefined

    from worker.settings import PREFIX, SECRETS, Settings

    lines = ["\b", "Settings:"]
    for name, field in Settings.model_fields.items():
        default = "" if name in SECRETS or field.default is PydanticUndefined else f" ({_plain(field.default)})"
        lines.append(f"{PREFIX}{name.upper()}{default}: {field.description}")
    lines.append("USAGE_AMQP_URL_FILE, USAGE_POSTGRES_DSN_FILE: files that hold these two")
    return "\n".join(lines)


def _plain(value: object) -> str:
    return str(getattr(value, "value", value))


@click.command("run", epilog=f"{_settings_help()}\n{EXAMPLE}")
def command() -> int:
    """Consume events and store them until SIGTERM or SIGINT.

    Waits for RabbitMQ, Postgres and the schema. At a signal it stores and acknowledges what it holds and exits 0; past
    USAGE_SHUTDOWN_TIMEOUT, or at a second signal, the rest goes back to the broker and the exit status is 1.
    """
    import uvloop

    from worker.app import run
    from worker.logs import configure_logs
    from worker.settings import load_settings

    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format)
    return uvloop.run(run(settings))
