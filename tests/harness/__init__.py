"""What acceptance and chaos tests stand on: the command as a subprocess, a publisher that keeps a ledger, the books.

    async with System(migrated_dsn, amqp_url, exchange=names.exchange, queue=names.queue, folder=tmp_path) as system:
        worker = await system.start_worker(USAGE_BATCH_MAX_AGE="0.1")  # returns when /readyz says 200
        await system.publish(message(event(), event()), raw(b"{"))     # returns when each is confirmed
        await worker.kill()                                            # or .stop(), .send_signal(…), .wait()
        await system.start_worker()
        await system.settle()                                          # queues empty, workers stopped with status 0
        (await system.books()).check()                                 # confirmed = stored + dead

The fixture `system` of tests/acceptance/conftest.py gives one that is open, with `USER` and `ORGANIZATION` in the
database. Every wait has a time-out, and what it raises ends with the workers' logs.
"""

from harness.books import Books
from harness.events import ORGANIZATION, USER, Message, event, message, raw
from harness.gate import CommitGate
from harness.publisher import Ledger, Publisher
from harness.system import System
from harness.waiting import until
from harness.worker import WorkerProcess

__all__ = [
    "ORGANIZATION",
    "USER",
    "Books",
    "CommitGate",
    "Ledger",
    "Message",
    "Publisher",
    "System",
    "WorkerProcess",
    "event",
    "message",
    "raw",
    "until",
]
