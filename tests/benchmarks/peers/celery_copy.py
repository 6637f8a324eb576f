"""Celery with celery-batches and psycopg's COPY: the popular worker with the fastest write that it can be given.

Batches of 5,000 or 250 ms as the worker's, acknowledged late; a prefetch of three batches; no results, no events, no
gossip; one pool process beside the one that consumes, as `--concurrency 1` means. COPY goes to a temporary table, then
INSERT … ON CONFLICT DO NOTHING, since late acknowledgements deliver twice. Celery knows no uvloop.
"""

import sys
from typing import Any

import psycopg
from celery import Celery
from celery_batches import Batches
from kombu import Queue

from benchmarks.peers.celery_protocol import TASK
from benchmarks.peers.usage import Usage
from benchmarks.workload import COLUMNS

BATCH_EVENTS = 5000
BATCH_SECONDS = 0.25
PREFETCH_BATCHES = 3
_NAMES = ", ".join(COLUMNS)


def make_app(amqp_url: str, queue: str, dsn: str) -> Celery:
    """The application."""
    app = Celery("usage", broker=amqp_url)
    app.conf.update(
        task_queues=[Queue(queue, no_declare=True, queue_arguments={"x-queue-type": "quorum"})],
        task_ignore_result=True,
        task_acks_late=True,
        worker_prefetch_multiplier=PREFETCH_BATCHES * BATCH_EVENTS,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
    )
    connections: list[psycopg.Connection[Any]] = []

    @app.task(base=Batches, name=TASK, flush_every=BATCH_EVENTS, flush_interval=BATCH_SECONDS)
    def record(requests: list[Any]) -> None:
        if not connections:
            connections.append(psycopg.connect(dsn))
            connections[0].execute(
                "CREATE TEMPORARY TABLE stage (LIKE ai_usage_logs INCLUDING DEFAULTS) ON COMMIT DELETE ROWS"
            )
            connections[0].commit()
        rows = [Usage.model_validate(request.args[0]).row() for request in requests]
        with connections[0].transaction(), connections[0].cursor() as cursor:
            with cursor.copy(f"COPY stage ({_NAMES}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
            cursor.execute(
                f"INSERT INTO ai_usage_logs ({_NAMES}) SELECT {_NAMES} FROM stage ON CONFLICT (id) DO NOTHING"
            )

    return app


if __name__ == "__main__":
    make_app(*sys.argv[1:]).worker_main(
        ["worker", "--concurrency=1", "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=error"]
    )
