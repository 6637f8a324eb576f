"""Recorded events in a file (SQLite): they outlive the process, and an outage that is longer than memory is large."""

from usage_events.spool.spool import Spool

__all__ = ["Spool"]
