"""HTTP for those who watch: /livez, /readyz, /metrics. It serves no secret and listens on loopback by default."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from worker.errors import ConfigurationError

LEAVE_SECONDS_MAX = 0.2  # for answers that are under way, waited for twice: a client that does not read is left


@asynccontextmanager
async def serve(
    host: str, port: int, *, registry: CollectorRegistry, why_not_ready: Callable[[], str | None]
) -> AsyncIterator[int]:
    """Serve while the context lasts; it gives the port that was taken.

    Args:
        host: the address to listen on.
        port: the port; 0 picks a free one.
        registry: what /metrics shows.
        why_not_ready: what is missing, or `None` while messages move and the database is up.

    Raises:
        ConfigurationError: the address is taken or not ours.
    """

    async def live(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_: web.Request) -> web.Response:
        why = why_not_ready()
        return web.Response(text=f"{why or 'ok'}\n", status=503 if why else 200)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/livez", live), web.get("/readyz", ready), web.get("/metrics", metrics)])
    # No lingering: a client that announces a body and sends none held up the worker's end for ten seconds.
    runner = web.AppRunner(app, access_log=None, lingering_time=0, shutdown_timeout=LEAVE_SECONDS_MAX)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigurationError(
                f"USAGE_HTTP_HOST={host!r} with USAGE_HTTP_PORT={port} cannot be listened on: "
                f"{error.strerror or error}; choose another port, or 0 for a free one"
            ) from error
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
