"""`usage-worker run`: the worker."""

import gc
import os
import signal

import click

GARBAGE_OBJECTS_MIN = 200_000  # made and not freed, between two looks for cycles
EXAMPLE = """
\b
Example:
$ export USAGE_AMQP_URL=amqp://usage:secret@127.0.0.1/
$ export USAGE_POSTGRES_DSN=postgresql://usage@127.0.0.1/usage
$ usage-worker run
"""


class _WithSettings(click.Command):
    """Its help lists all settings, fitted to the terminal."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from worker.settings import PREFIX, SECRETS, Settings

        rows = []
        for name, field in Settings.model_fields.items():
            default = "" if name in SECRETS else f"  [default: {getattr(field.default, 'value', field.default)}]"
            rows.append((f"{PREFIX}{name.upper()}", f"{field.description}{default}"))
            if name in SECRETS:
                rows.append((f"{PREFIX}{name.upper()}_FILE", "instead: the file that holds it"))
        with formatter.section("Settings, from the environment"):
            formatter.write_dl(rows)
        super().format_epilog(ctx, formatter)


@click.command("run", cls=_WithSettings, epilog=EXAMPLE)
def command() -> int:
    """Consume events and store them until SIGTERM or SIGINT.

    Waits for RabbitMQ, Postgres and the schema. At a signal it stores and acknowledges what it holds and exits 0; past
    USAGE_SHUTDOWN_TIMEOUT, or at a second signal, the rest goes back to the broker and the exit status is 1.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)  # until the worker is there to take it

    import uvloop

    from worker.app import run
    from worker.logs import configure_logs
    from worker.settings import load_settings

    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format)
    _collect_garbage_rarely()
    return uvloop.run(run(settings))


def _collect_garbage_rarely() -> None:
    """Tens of thousands of held events, none of them in a cycle, were walked again and again: a quarter of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS_MIN, 10, 10)


def _leave(_: int, __: object) -> None:
    """A signal while everything is still imported: nothing is held, so this is a clean stop.

    An exception would come out of whatever runs just now, and pydantic makes an error of its own of any that it meets.
    """
    os._exit(0)
