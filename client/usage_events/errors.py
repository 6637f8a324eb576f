"""The client's errors; the adapter translates its library's errors into these, once.

A message says what is wrong, with which value, and what to do next.
"""


class UsageEventsError(Exception):
    """Anything that this package reports by itself."""


class EventTooLargeError(UsageEventsError, ValueError):
    """One event alone is larger than a message may be: it can never be delivered."""


class BufferFullError(UsageEventsError):
    """The buffer has no room: the event was not recorded, and is the caller's again."""


class SpoolUnwritableError(BufferFullError):
    """The spool's file cannot be written now, as its disk is full or it is locked: the event was not recorded."""


class SpoolError(UsageEventsError):
    """The spool cannot be used at all: its folder is missing or read-only, or the file is another program's."""


class UnconfirmedError(UsageEventsError, TimeoutError):
    """The deadline has passed before RabbitMQ has confirmed everything; `events` says how many are left."""

    def __init__(self, message: str, events: int) -> None:
        super().__init__(message)
        self.events = events


class BrokerUnavailableError(UsageEventsError):
    """RabbitMQ cannot take the message now: not reached, lost on the way, or too full. Trying again helps."""


class RefusedError(UsageEventsError):
    """RabbitMQ refuses the message or the connection; trying again does not help until somebody acts."""


class ExchangeMissingError(RefusedError):
    """The exchange does not exist."""


class AccessRefusedError(RefusedError):
    """The user may not connect, or may not write to the exchange."""


class MessageTooLargeError(RefusedError):
    """RabbitMQ is set to take smaller messages only, up to `bytes_max`; one with several events is split."""

    def __init__(self, message: str, bytes_max: int) -> None:
        super().__init__(message)
        self.bytes_max = bytes_max


class UnroutableError(RefusedError):
    """The exchange exists, but no queue is bound that takes the routing key: the message came back."""


class ProviderUsageError(UsageEventsError, ValueError):
    """A provider's answer cannot be made into an event: what is wrong with it, and what to do."""


class UsageMissingError(ProviderUsageError):
    """A provider's answer does not say what the call used: what to ask the provider for, or what to give."""
