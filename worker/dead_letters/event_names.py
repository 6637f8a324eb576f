"""The names of the events in a body, which an edit must keep: people bill, and search, by them. Pure.

An event is named by its id; a CloudEvent by id and source. Each of these that can be read stays as it is; one that is
missing, or is no id, may be given. No event is added or removed.
"""

import re
from typing import Any, NamedTuple

from usage_events.contract import UUID_PATTERN
from usage_events.json_text import NotJsonError, outline
from usage_events.judge import parse

from worker.decode import Media, media_of

ABSENT = "absent"
_UUID = re.compile(UUID_PATTERN)
# In a body that is cut off, or is JSON inside a JSON string.
_ID_IN_TEXT = re.compile(rb'\\*"id\\*"\s*:\s*\\*"(' + UUID_PATTERN.strip("^$").encode() + rb')\\*"')


class _Names(NamedTuple):
    """What is readable of them; a UUID in lower case, since either case is the same one."""

    id: str | None = None
    source: str | None = None


def names_problem(before: bytes, after: bytes, content_type: str | None) -> str:
    """Why an edit from one body to the other would change which events there are; empty where it does not."""
    was, is_now = _names(before, content_type), _names(after, content_type)
    if was is None:
        return _text_problem(before, after)
    if is_now is None:
        return "no event could be read any more" if any(map(any, was)) else ""
    if len(was) != len(is_now):
        counts = f"there {'is 1 event' if len(was) == 1 else f'are {len(was)} events'}, and would be {len(is_now)}"
        return f"{counts}: an edit adds and removes none; `discard` is for a letter whose events are not wanted"
    for number, (old, new) in enumerate(zip(was, is_now, strict=True)):
        for what, given, changed in zip(_Names._fields, old, new, strict=True):
            if given is not None and given != changed:
                where = f"of element {number} " if len(was) > 1 else ""
                return f"the event's {what} {where}cannot be changed: {given!r} would become {changed or ABSENT!r}"
    return ""


def _text_problem(before: bytes, after: bytes) -> str:
    """No parser reads the old body; so the ids that a reader sees in it must still be there."""
    left = {match.lower() for match in _ID_IN_TEXT.findall(after)}
    lost = [match.decode() for match in _ID_IN_TEXT.findall(before) if match.lower() not in left]
    return f"the event's id cannot be changed: {lost[0]!r} stands in the body, and would not any more" if lost else ""


def _names(body: bytes, content_type: str | None) -> list[_Names] | None:
    """Those of each event in the order of the body; `None` where it is neither an object nor an array."""
    try:
        outline(body)
    except NotJsonError:
        return None
    value, _ = parse(body)
    is_envelope = media_of(content_type, None) in (Media.CLOUDEVENT, Media.CLOUDEVENTS_BATCH)
    if isinstance(value, dict):
        return [_named(value, is_envelope=is_envelope)]
    return [_named(one, is_envelope=is_envelope) for one in value] if isinstance(value, list) else None


def _named(event: Any, *, is_envelope: bool) -> _Names:
    if not isinstance(event, dict):
        return _Names()
    name = _text(event.get("id"))
    is_uuid = name is not None and _UUID.fullmatch(name) is not None
    if name is not None and is_uuid:
        name = name.lower()
    if not is_envelope:
        return _Names(name if is_uuid else None)
    return _Names(name, _text(event.get("source")))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
