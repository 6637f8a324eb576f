"""Events packed into messages: as many as one may hold, never more. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from usage_events.envelope import MESSAGE_BYTES_MAX, MESSAGE_EVENTS_MAX
from usage_events.errors import EventTooLargeError

_BRACKETS_BYTES = 2
_COMMA_BYTES = 1


@dataclass(frozen=True, slots=True)
class Message:
    """The body of one message, and the events in it."""

    body: bytes
    events: Sequence[bytes]

    @property
    def events_count(self) -> int:
        """How many events it holds."""
        return len(self.events)


def pack(
    events: Sequence[bytes], *, events_max: int = MESSAGE_EVENTS_MAX, bytes_max: int = MESSAGE_BYTES_MAX
) -> list[Message]:
    """The fewest messages that hold `events` in their order; each event's bytes stay as they are.

    Raises:
        EventTooLargeError: an event alone is larger than a message.
    """
    for index, event in enumerate(events):
        if len(event) > bytes_max:
            raise EventTooLargeError(
                f"event {index} is {len(event):,} bytes long; the limit is {bytes_max:,}: shorten its request_metadata"
            )
    return [message_of(group) for group in groups(events, events_max, bytes_max)]


def message_of(events: Sequence[bytes]) -> Message:
    """One message of these events. One that goes alone needs no brackets: so it may be as long as a message."""
    return Message(events[0] if len(events) == 1 else b"[" + b",".join(events) + b"]", events)


def events_bytes_max(message_bytes_max: int, events_max: int) -> int:
    """How long up to `events_max` events may be together, so that a message has room for what stands between them."""
    return max(1, message_bytes_max - _BRACKETS_BYTES - _COMMA_BYTES * (events_max - 1))


def groups(events: Sequence[bytes], events_max: int, bytes_max: int) -> Iterator[Sequence[bytes]]:
    """Runs of events, each for one message; an event that is too large for any is a run by itself."""
    start = 0
    size_bytes = _BRACKETS_BYTES
    for index, event in enumerate(events):
        if index > start and (index - start == events_max or size_bytes + len(event) > bytes_max):
            yield events[start:index]
            start, size_bytes = index, _BRACKETS_BYTES
        size_bytes += len(event) + _COMMA_BYTES
    if start < len(events):
        yield events[start:]
