"""What services install to publish usage events."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usage_events.blocking import BlockingUsagePublisher
    from usage_events.errors import (
        AccessRefusedError,
        BrokerUnavailableError,
        BufferFullError,
        EventTooLargeError,
        ExchangeMissingError,
        ProviderUsageError,
        RefusedError,
        SpoolError,
        SpoolUnwritableError,
        UnconfirmedError,
        UnroutableError,
        UsageEventsError,
        UsageMissingError,
    )
    from usage_events.event import UsageEvent
    from usage_events.ids import event_id_for, uuid7
    from usage_events.publisher import UsagePublisher

# Where each public name stands. It is loaded when first used: who only makes events never loads the broker's library.
_MODULES = {
    "AccessRefusedError": "errors",
    "BlockingUsagePublisher": "blocking",
    "BrokerUnavailableError": "errors",
    "BufferFullError": "errors",
    "EventTooLargeError": "errors",
    "ExchangeMissingError": "errors",
    "ProviderUsageError": "errors",
    "RefusedError": "errors",
    "SpoolError": "errors",
    "SpoolUnwritableError": "errors",
    "UnconfirmedError": "errors",
    "UnroutableError": "errors",
    "UsageEvent": "event",
    "UsageEventsError": "errors",
    "UsageMissingError": "errors",
    "UsagePublisher": "publisher",
    "event_id_for": "ids",
    "uuid7": "ids",
}

__all__ = [
    "AccessRefusedError",
    "BlockingUsagePublisher",
    "BrokerUnavailableError",
    "BufferFullError",
    "EventTooLargeError",
    "ExchangeMissingError",
    "ProviderUsageError",
    "RefusedError",
    "SpoolError",
    "SpoolUnwritableError",
    "UnconfirmedError",
    "UnroutableError",
    "UsageEvent",
    "UsageEventsError",
    "UsageMissingError",
    "UsagePublisher",
    "event_id_for",
    "uuid7",
]


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
