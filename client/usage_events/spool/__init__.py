"""Recorded events in a file (SQLite): they outlive the process, and an outage that is longer than memory is large."""

from usage_events.spool.database import Sync
from usage_events.spool.spool import DEFAULT_BYTES_MAX, Spool

__all__ = ["DEFAULT_BYTES_MAX", "Spool", "Sync"]
