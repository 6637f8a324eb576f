"""`usage-worker check`: looks at everything that the worker needs, and says what to do about what is wrong."""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from worker.findings import Finding
    from worker.settings import Settings

EXIT_WRONG = 1
EXAMPLE = """
\b
Example:
$ export USAGE_AMQP_URL=amqp://usage:secret@127.0.0.1/
$ export USAGE_POSTGRES_DSN=postgresql://usage@127.0.0.1/usage
$ usage-worker check
ok  setting: USAGE_AMQP_URL=***
...
ok  Postgres: connected to 127.0.0.1/usage as usage with TLS, version 18.0
--  Postgres: schema app lacks 0002_dead_letters.sql: run usage-worker migrate
...

\b
Exit status: 0 all is well; 1 a line begins with --; 2 wrong configuration.
"""


@click.command("check", epilog=EXAMPLE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def command(*, as_json: bool) -> int:
    """Check settings, connections, schema, topology, rights and clocks.

    One line for each finding: ok and what was found, -- with what is wrong and what to do, or !! with what works and
    should not stay so. It goes on after a failure. It sends no event and declares no exchange or queue; a binding that
    a worker would make anew, it makes.
    """
    from worker.findings import Verdict
    from worker.settings import load_settings

    settings = load_settings()
    # The findings say what failed; the libraries would add tracebacks.
    for noisy in ("aiormq", "aio_pika", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    verdicts = set()

    def report(finding: "Finding") -> None:
        verdicts.add(finding.verdict)
        click.echo(json.dumps(asdict(finding)) if as_json else finding.line)

    asyncio.run(_check(settings, report))
    return EXIT_WRONG if Verdict.WRONG in verdicts else 0


async def _check(settings: "Settings", report: Callable[["Finding"], None]) -> None:
    from worker.postgres.inspect import inspect_postgres
    from worker.rabbitmq.delivery_path import inspect_delivery_path
    from worker.rabbitmq.inspect import inspect_rabbitmq

    for finding in inspect_settings(settings):
        report(finding)
    await inspect_postgres(settings, report)
    report(await inspect_delivery_path(settings))
    await inspect_rabbitmq(settings, report)


def inspect_settings(settings: "Settings") -> list["Finding"]:
    """Each setting in effect, without secrets, and those that do not fit each other."""
    from worker.findings import ok, wrong
    from worker.settings import PREFIX, SECRETS

    findings = []
    for name, value in settings:
        shown = "***" if name in SECRETS else str(getattr(value, "value", value))
        origin = "" if name in settings.model_fields_set else " (default)"
        findings.append(ok("setting", f"{PREFIX}{name.upper()}={shown}{origin}"))
    if settings.prefetch < settings.batch_max_events:
        findings.append(
            wrong(
                "setting",
                f"USAGE_PREFETCH={settings.prefetch} is below one batch of single events"
                f" (USAGE_BATCH_MAX_EVENTS={settings.batch_max_events}): the rate falls to a fifth",
                "unset it, or lower the other",
            )
        )
    return findings
