"""The books of one publisher: what became of the events that were handed to it."""

from dataclasses import asdict, dataclass

_HELP = {
    "recorded": "Events handed to the publisher.",
    "confirmed": "Events that RabbitMQ holds for good.",
    "confirmed_messages": "Messages that carried the confirmed events.",
    "returned": "Events that came back because no queue is bound for them, each counted once.",
    "refused": "Events that RabbitMQ refused for another reason, each counted once.",
    "given_up": "Events handed back to the caller with an error.",
    "dropped": "Events given up because the buffer was full.",
    "damaged": "Events in the spool that are not what they were: set aside, never sent.",
    "spooled": "Events written to the spool.",
}
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclass(slots=True)
class Books:
    """Counts of events. All but `buffered`, which is what waits or is on its way now, only grow.

    An event that was recorded is confirmed, given up, dropped or damaged in the end, or it is still `open`. One that
    came back or was refused is among these, too: it is tried again, or was given up. Events of a spool count where they
    are sent or found damaged, whoever has recorded them; what is found in the bytes of a file that had to be replaced
    may have been sent before, so there `damaged` is an upper bound.
    """

    recorded: int = 0
    confirmed: int = 0
    returned: int = 0
    confirmed_messages: int = 0
    refused: int = 0
    given_up: int = 0
    dropped: int = 0
    damaged: int = 0
    spooled: int = 0
    buffered: int = 0

    @property
    def open(self) -> int:
        """Events that are neither confirmed, nor given up, dropped or damaged."""
        return self.recorded - self.confirmed - self.given_up - self.dropped - self.damaged

    def note_spooled(self) -> None:
        """One more is written to the spool."""
        self.spooled += 1

    def note_damaged(self, count: int) -> None:
        """So many more of the spool's cannot be sent."""
        self.damaged += count

    def as_dict(self) -> dict[str, int]:
        """Each count by its name, and `open`."""
        return asdict(self) | {"open": self.open}

    def openmetrics(self, app_id: str | None = None) -> str:
        """The counts as OpenMetrics text, as Prometheus reads it."""
        label = "" if app_id is None else f'{{app_id="{app_id.translate(_ESCAPES)}"}}'
        lines = []
        for name, help_text in _HELP.items():
            metric = f"usage_events_{name}"
            lines += [f"# TYPE {metric} counter", f"# HELP {metric} {help_text}"]
            lines.append(f"{metric}_total{label} {getattr(self, name)}")
        lines += [
            "# TYPE usage_events_buffered gauge",
            "# HELP usage_events_buffered Events that wait or are on their way.",
            f"usage_events_buffered{label} {self.buffered}",
            "# EOF",
        ]
        return "\n".join(lines) + "\n"

    def __str__(self) -> str:
        named = self.as_dict()
        always = ("recorded", "confirmed")
        return ", ".join(f"{named[name]:,} {name}" for name in named if name in always or named[name])
