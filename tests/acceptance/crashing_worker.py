"""`usage-worker`, but that a marked body kills it, as a fault in a parser's machine code would.

The mark lives here: the product has no hook for tests.
"""

import os
import signal

from usage_events.rules import Window

from worker import app
from worker.__main__ import main
from worker.decode import Decoded, decode
from worker.delivery import Delivery
from worker.postgres.dead_letters import carry

MARK = b"kills its consumer"

_decode_delivery = app.decode_delivery


def decode_delivery(delivery: Delivery, window: Window) -> Decoded:
    """Decode it, or die."""
    _die_of(delivery.body)
    return _decode_delivery(delivery, window)


def decode_letter(body: bytes, content_type: str | None, content_encoding: str | None, window: Window) -> Decoded:
    """The same where a letter is carried."""
    _die_of(body)
    return decode(body, content_type, content_encoding, window)


def _die_of(body: bytes) -> None:
    if MARK in body:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    app.decode_delivery = decode_delivery
    carry.decode = decode_letter  # type: ignore[attr-defined]
    main()
