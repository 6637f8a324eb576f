"""The database's outages, as the pipeline sees them: since when, told once, and how long what is held may wait."""

from time import monotonic

import structlog

from worker.errors import SystemUnavailableError
from worker.metrics import Metrics

log = structlog.get_logger(__name__)


class Outage:
    """Whether the database is away.

    Args:
        hold_seconds_max: how long deliveries may be held during an outage, well below the broker's consumer time-out.
        metrics: shows it.
    """

    def __init__(self, *, hold_seconds_max: float, metrics: Metrics) -> None:
        self.hold_seconds_max = hold_seconds_max
        self._metrics = metrics
        self._since: float | None = None
        self._heard_at = monotonic()

    def __bool__(self) -> bool:
        return self._since is not None

    def failed(self, error: SystemUnavailableError) -> None:
        """The database could not do what it was asked for."""
        self._heard_at = monotonic()
        self._metrics.database_up.set(0)
        if self._since is None:
            self._since = monotonic()
            self._metrics.reconnects.labels("postgres").inc()
            log.warning("the database is away: holding, nothing is refused", why=str(error))

    def answered(self) -> None:
        """The database did what it was asked for."""
        self._heard_at = monotonic()
        self._metrics.database_up.set(1)
        if self._since is not None:
            log.info("the database is back", outage_seconds=round(monotonic() - self._since, 1))
            self._since = None

    def silent_seconds(self) -> float:
        """For how long nobody has had an answer of the database, nor missed one."""
        return monotonic() - self._heard_at

    def hold_seconds_left(self) -> float:
        """How long what is held may still wait."""
        since = monotonic() if self._since is None else self._since
        return since + self.hold_seconds_max - monotonic()
