"""Ceiling: the size of the table of dead letters from which on an operator would rather lose events than disk space."""

import structlog

log = structlog.get_logger(__name__)


class Ceiling:
    """Bytes that the table may have, its TOAST and indexes included; above them, bodies are given up.

    One for all stores of a worker, so that each crossing is told once.

    Args:
        bytes_max: `None` is no ceiling.
    """

    def __init__(self, bytes_max: int | None = None) -> None:
        self.bytes_max = bytes_max
        self._is_above = False

    def note(self, *, is_above: bool) -> None:
        """Where the table stood when letters were written."""
        if is_above and not self._is_above:
            log.warning(
                "the table of dead letters is above USAGE_DEAD_LETTER_BYTES_MAX: bodies of new letters are given up",
                bytes_max=self.bytes_max,
            )
        elif self._is_above and not is_above:
            log.info("the table of dead letters is below USAGE_DEAD_LETTER_BYTES_MAX again: bodies are kept")
        self._is_above = is_above
