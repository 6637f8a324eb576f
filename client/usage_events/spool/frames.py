"""How one event stands in the file: framed, so that it can be found and trusted without SQLite's help. Pure.

    magic (4) | CRC-32 of all that follows (4) | length of the text (4) | recorded at, µs (8) | organization (16) | text

SQLite has no checksum of its own for what a table holds: a flipped digit would be billed. The magic begins with a byte
that UTF-8 never has, so no text contains it.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap
from uuid import UUID

from usage_events.buffer import Entry

MAGIC = b"\xf5UE1"
_CHECKSUM = struct.Struct("<I")
_FIELDS = struct.Struct("<IQ16s")
_FIELDS_START = len(MAGIC) + _CHECKSUM.size
OVERHEAD_BYTES = _FIELDS_START + _FIELDS.size
_MAGIC_PATTERN = re.compile(re.escape(MAGIC))


@dataclass(frozen=True, slots=True)
class Frame:
    """An event with the time at which it was recorded."""

    recorded_at_us: int
    entry: Entry


def encode(entry: Entry, recorded_at_us: int) -> bytes:
    """The frame of one event."""
    text = entry.text
    fields = _FIELDS.pack(len(text), recorded_at_us, entry.organization_id.bytes)
    checksum = _CHECKSUM.pack(zlib.crc32(text, zlib.crc32(fields)))
    return b"".join((MAGIC, checksum, fields, text))


def decode(frame: bytes) -> Frame | None:
    """The event in a frame; `None` where a byte of it is not what it was."""
    found = frame_at(frame, 0)
    return found if found is not None and len(frame) == OVERHEAD_BYTES + len(found.entry.text) else None


def has_own_length(frame: bytes) -> bool:
    """Whether a frame is as long as it says, whole or not."""
    return len(frame) >= OVERHEAD_BYTES and len(frame) - OVERHEAD_BYTES == _FIELDS.unpack_from(frame, _FIELDS_START)[0]


def starts(raw: bytes | mmap) -> Iterator[int]:
    """Where frames begin in `raw`, whole or not, whatever stands between them."""
    return (match.start() for match in _MAGIC_PATTERN.finditer(raw))


def head_at(raw: bytes | mmap, start: int) -> bytes:
    """What tells the frame that begins there from others, whole or not; its copies have the same."""
    return raw[start + _FIELDS_START : start + OVERHEAD_BYTES]


def frame_at(raw: bytes | mmap, start: int) -> Frame | None:
    """The frame that begins there; `None` where it is not whole."""
    text_start = start + OVERHEAD_BYTES
    if len(raw) < text_start or raw[start : start + len(MAGIC)] != MAGIC:
        return None
    fields_start = start + _FIELDS_START
    (checksum,) = _CHECKSUM.unpack_from(raw, start + len(MAGIC))
    size, recorded_at_us, organization = _FIELDS.unpack_from(raw, fields_start)
    if text_start + size > len(raw) or zlib.crc32(raw[fields_start : text_start + size]) != checksum:
        return None
    return Frame(recorded_at_us, Entry(raw[text_start : text_start + size], UUID(bytes=organization)))
