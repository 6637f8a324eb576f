"""Calls to the broker through the library: whatever comes out of one whose connection is lost is one error.

When a connection ends, the library ends the calls that wait on it with whatever it ended by: one of its own errors, a
bare `Exception` after a polite goodbye, and where heartbeats are missing `CancelledError`, which nobody has sent to
this task. Taken for a stop, that one would end the task that watches the broker, and nobody would ever connect again.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import aio_pika
import aiormq

from worker.cancellation import is_own_cancellation
from worker.rabbitmq.unavailable import unavailable
from worker.settings import Settings

# StopAsyncIteration is what aiormq raises where the peer hangs up while it connects.
_LOST = (
    aiormq.exceptions.AMQPError,
    aio_pika.exceptions.AMQPError,
    OSError,
    TimeoutError,
    RuntimeError,
    StopAsyncIteration,
)


@contextmanager
def calls(settings: Settings) -> Iterator[None]:
    """Around calls to the broker.

    Raises:
        SystemUnavailableError: the connection is lost, or the broker does not answer in time.
    """
    try:
        yield
    except _LOST as error:
        raise unavailable(settings, error) from error
    except asyncio.CancelledError as error:
        if is_own_cancellation():
            raise
        raise unavailable(settings, ConnectionError("the connection was ended, for no heartbeats came")) from error
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise unavailable(settings, ConnectionError("the connection was ended")) from error
