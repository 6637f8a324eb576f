"""`usage-worker` with a mistake made by hand, which CHAOS_BROKEN names: the suite has to notice each of them."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

from usage_events.contract import Reason

from chaos.patching import put, run_worker
from worker import app
from worker.batch import Batch
from worker.decode import Decoded
from worker.delivery import Delivery
from worker.held import Held
from worker.pipeline import Pipeline
from worker.postgres.commit import CommitWatch
from worker.settle import Ack, Ledger


def acknowledges_before_the_commit() -> None:
    """The acknowledgement leaves when the transaction begins."""

    async def write(pipeline: Pipeline, store: Any, batch: Batch, generation: int) -> Any:
        await settle(pipeline._held, batch, generation)
        return await write_before(pipeline, store, batch, generation)

    async def settled(*_: object) -> bool:
        return True

    settle = put(Held, "settle", settled)
    write_before = put(Pipeline, "_write", write)


def knows_no_generations() -> None:
    """Tags of a lost channel are taken for tags of the one that has followed."""

    async def settle(held: Held, batch: Batch, _: int) -> bool:
        settled: bool = await before(held, batch, held.generation)
        return settled

    def committed(ledger: Ledger, tags: Iterable[int], _: float) -> list[Ack]:  # the product's own refuses such tags
        acks = [Ack(tag, multiple=False) for tag in tags]
        for ack in acks:
            with suppress(ValueError):
                ledger._tags.remove(ack.tag)
        return acks

    before = put(Held, "settle", settle)
    put(Ledger, "committed", committed)


def knows_no_ids() -> None:
    """Each delivery is a new event: what comes again is stored again."""

    def decode(*arguments: Any) -> Decoded:
        decoded: Decoded = before(*arguments)
        events = [event._replace(id=uuid4().bytes) for event in decoded.events]
        return Decoded(events, decoded.places, decoded.rejects)

    before = put(app, "decode_delivery", decode)


def misreads() -> None:
    """Input and output tokens stand in each other's column, and whatever is refused is called invalid."""

    def decode(*arguments: Any) -> Decoded:
        decoded: Decoded = before(*arguments)
        events = [
            event._replace(input_tokens=event.output_tokens, output_tokens=event.input_tokens)
            for event in decoded.events
        ]
        rejects = [
            reject._replace(refusal=reject.refusal._replace(reason=Reason.INVALID)) for reject in decoded.rejects
        ]
        return Decoded(events, decoded.places, rejects)

    before = put(app, "decode_delivery", decode)


def goes_deaf() -> None:
    """The first worker takes nothing more once it has lost a channel; it stays ready, and ends by no error."""

    def receive(pipeline: Pipeline, deliveries: Sequence[Delivery]) -> None:
        if deliveries[0].generation == 1 or os.environ["CHAOS_WORKER"] != "1":
            before(pipeline, deliveries)

    before = put(Pipeline, "receive", receive)


def knows_no_standby() -> None:
    """What is committed on the primary is taken for stored, whatever the server says of its standby."""
    put(CommitWatch, "_hear", lambda *_: None)


MISTAKES: dict[str, Callable[[], None]] = {
    made.__name__: made
    for made in (
        acknowledges_before_the_commit,
        knows_no_generations,
        knows_no_ids,
        misreads,
        goes_deaf,
        knows_no_standby,
    )
}

if __name__ == "__main__":
    MISTAKES[os.environ["CHAOS_BROKEN"]]()
    run_worker()
