"""`usage-worker` whose sessions take the isolation level of CHAOS_ISOLATION, which the product pins."""

import os

from chaos.patching import run_worker
from worker.postgres.session import PINS

if __name__ == "__main__":
    assert "default_transaction_isolation" in PINS
    PINS["default_transaction_isolation"] = os.environ["CHAOS_ISOLATION"]
    run_worker()
