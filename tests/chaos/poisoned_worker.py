"""`usage-worker`, but that a marked body kills it, as a fault in a parser's machine code would."""

import os
import signal
from typing import Any

from chaos.patching import put, run_worker
from worker import app
from worker.delivery import Delivery

MARK = b"kills its consumer"


def die_of_a_mark() -> None:
    """From now on."""

    def decode(delivery: Delivery, *arguments: Any) -> Any:
        if MARK in delivery.body:
            os.kill(os.getpid(), signal.SIGKILL)
        return before(delivery, *arguments)

    before = put(app, "decode_delivery", decode)


if __name__ == "__main__":
    die_of_a_mark()
    run_worker()
