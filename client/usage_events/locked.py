"""A buffer for several threads: those that record, and the one that sends."""

from threading import Lock

from usage_events.buffer import Buffer, Entry, Lease


class LockedBuffer:
    """One thread at a time; none of them keeps it longer than it takes to copy what is leased."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._lock = Lock()
        self._is_shut = False

    @property
    def poll_seconds(self) -> float | None:
        """See `Buffer`, as for all that follows."""
        return self._buffer.poll_seconds

    @property
    def events(self) -> int:
        """Events that wait; read without the lock, as it may be another number a moment later anyway."""
        return self._buffer.events

    @property
    def bytes(self) -> int:
        """The length of what waits."""
        return self._buffer.bytes

    @property
    def youngest_key(self) -> int:
        """The key of the event that was put in last."""
        with self._lock:
            return self._buffer.youngest_key

    def is_pending(self, key: int) -> bool:
        """Whether an event up to this key waits."""
        with self._lock:
            return self._buffer.is_pending(key)

    def put(self, entry: Entry) -> None:
        """Keeps a new event.

        Raises:
            BufferFullError: there is no room.
            RuntimeError: the buffer is shut.
        """
        with self._lock:
            if self._is_shut:
                raise RuntimeError("the publisher is closed; make another")
            self._buffer.put(entry)

    def shut(self) -> None:
        """Nothing is put in any more: what is there now is all."""
        with self._lock:
            self._is_shut = True

    def lease(self, events_max: int, bytes_max: int) -> Lease | None:
        """The oldest that wait."""
        with self._lock:
            return self._buffer.lease(events_max, bytes_max)

    def settle(self, lease: Lease) -> None:
        """Forgets these."""
        with self._lock:
            self._buffer.settle(lease)

    def give_back(self, lease: Lease) -> None:
        """These wait again."""
        with self._lock:
            self._buffer.give_back(lease)

    def close(self) -> None:
        """The end."""
        with self._lock:
            self._buffer.close()
