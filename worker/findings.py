"""Findings of `usage-worker check`: what was looked at, and what came of it. Pure."""

from dataclasses import dataclass
from enum import StrEnum

CLOCKS_APART_SECONDS_MAX = 2.0


class Verdict(StrEnum):
    """What came of a look. What could not be looked at is no fault: it counts as `ok` and says so.

    `WARNING` is what works and should not stay: it does not change the exit status.
    """

    OK = "ok"
    NOT_CHECKED = "not checked"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(slots=True, frozen=True)
class Finding:
    """One thing that was looked at. `remedy` says what to do where it is wrong, or could be better."""

    topic: str
    verdict: Verdict
    text: str
    remedy: str = ""

    @property
    def line(self) -> str:
        """The finding for a reader, in one line."""
        mark = {Verdict.WRONG: "--", Verdict.WARNING: "!!"}.get(self.verdict, "ok")
        why = f"not checked: {self.text}" if self.verdict is Verdict.NOT_CHECKED else self.text
        text = f"{self.topic}: {why}" + (f": {self.remedy}" if self.remedy else "")
        return f"{mark}  {' '.join(text.split())}"


def ok(topic: str, text: str) -> Finding:
    """All is well."""
    return Finding(topic, Verdict.OK, text)


def wrong(topic: str, text: str, remedy: str = "") -> Finding:
    """Something is wrong; `text` may hold the remedy already."""
    return Finding(topic, Verdict.WRONG, text, remedy)


def warning(topic: str, text: str, remedy: str) -> Finding:
    """It works, and should not stay so."""
    return Finding(topic, Verdict.WARNING, text, remedy)


def not_checked(topic: str, why: str) -> Finding:
    """It could not be looked at."""
    return Finding(topic, Verdict.NOT_CHECKED, why)


def judge_clock(topic: str, whose: str, ahead_seconds_min: float, ahead_seconds_max: float) -> Finding:
    """Given between which limits another clock is ahead of ours: do they surely differ by more than they may?"""
    apart_seconds_min = max(ahead_seconds_min, -ahead_seconds_max, 0.0)
    apart_seconds_max = max(ahead_seconds_max, -ahead_seconds_min)
    if apart_seconds_min <= CLOCKS_APART_SECONDS_MAX:
        return ok(topic, f"{whose} clock and this machine's differ by {apart_seconds_max:.1f} s at most")
    direction = "ahead of" if ahead_seconds_min > 0 else "behind"
    return wrong(
        topic,
        f"{whose} clock is {apart_seconds_min:.1f} s or more {direction} this machine's, the limit is"
        f" {CLOCKS_APART_SECONDS_MAX:g} s",
        "let NTP set both: events are judged by their age",
    )
