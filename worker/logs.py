"""Logs: lines for people on a terminal, JSON for machines; always to standard error, never the body of an event."""

import logging
import sys

import stamina.instrumentation
import structlog

from worker.settings import LogFormat, LogLevel


def configure_logs(level: LogLevel, log_format: LogFormat) -> None:
    """Set up structlog, and let the libraries' warnings come out the same way."""
    as_json = log_format is LogFormat.JSON or (log_format is LogFormat.AUTO and not sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info if as_json else structlog.processors.StackInfoRenderer(),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=shared,
        )
    )
    logging.basicConfig(level=level.value.upper(), handlers=[handler], force=True)
    # The worker says itself what these say, once an outage instead of once a try.
    for noisy in ("aiormq", "aio_pika", "aiohttp.access", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    stamina.instrumentation.set_on_retry_hooks([])
