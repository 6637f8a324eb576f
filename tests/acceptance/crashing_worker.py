"""`usage-worker`, but that a marked message kills it, as a fault in a parser's machine code would.

The mark lives here: the product has no hook for tests.
"""

import os
import signal

from usage_events.rules import Window

from worker import app
from worker.__main__ import main
from worker.decode import Decoded
from worker.delivery import Delivery

MARK = b"kills its consumer"

_decode_delivery = app.decode_delivery


def decode_delivery(delivery: Delivery, window: Window) -> Decoded:
    """Decode it, or die."""
    if MARK in delivery.body:
        os.kill(os.getpid(), signal.SIGKILL)
    return _decode_delivery(delivery, window)


if __name__ == "__main__":
    app.decode_delivery = decode_delivery
    main()
