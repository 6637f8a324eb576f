"""`usage-worker demo`: the whole of it on this machine, in half a minute."""

import click

EXAMPLE = """
\b
Example:
$ usage-worker demo
$ usage-worker demo --events 200000 --seconds 30
"""


@click.command("demo", epilog=EXAMPLE)
@click.option("--events", type=click.IntRange(1000, 2_000_000), default=60_000, show_default=True, help="How many.")
@click.option("--seconds", type=click.FloatRange(1, 600), default=12, show_default=True, help="Over how long.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same traffic.")
def command(*, events: int, seconds: float, seed: int) -> None:
    """Show it all: servers, two workers, traffic with errors, a killed worker, the books.

    Starts throw-away servers by itself: containers where a Docker engine answers, else local processes. With
    USAGE_AMQP_URL and USAGE_POSTGRES_DSN set it plays on those, with an exchange and a database schema of its own.
    """
    import asyncio
    import tempfile
    from pathlib import Path
    from uuid import uuid4

    from rich.console import Console

    from worker.demo.play import Demo, Plan
    from worker.demo.servers import servers
    from worker.logs import configure_logs
    from worker.settings import LogFormat, LogLevel, load_settings

    configure_logs(LogLevel.ERROR, LogFormat.AUTO)
    console = Console()
    name = f"usage-demo-{uuid4().hex[:8]}"
    with servers(say=console.print) as given, tempfile.TemporaryDirectory(prefix=name) as folder:
        settings = load_settings(
            amqp_url=given.amqp_url,
            postgres_dsn=given.postgres_dsn,
            postgres_schema=name.replace("-", "_"),
            exchange=name,
            queue=f"{name}.events",
        )
        demo = Demo(settings, Plan(events, seconds, seed), Path(folder), console)
        asyncio.run(demo.play())
