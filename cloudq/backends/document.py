"""How a value lies in a file or an object: a header of 40 bytes, then the value.

``CQD``, the format's version (1 byte), a nonce (16), the expiry (8: IEEE double, seconds since the
epoch, NaN for none), the value's length (8) and CRC-32 (4), all big-endian. The nonce makes every
document unlike any other: S3's ETag is made from the content, so writing A, B, A again would bring
the first version back; and whoever finds its own nonce knows that a write with a lost reply was done.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from cloudq.errors import CorruptRecord

MAGIC: Final = b"CQD"
FORMAT: Final = 1
_HEADER: Final = struct.Struct(">3sB16sdQI")
HEADER_BYTES: Final = _HEADER.size


@dataclass(frozen=True, slots=True)
class Document:
    """A value with what the store must know of it. ``expires_at``: seconds since the epoch, or None."""

    nonce: bytes
    value: bytes
    expires_at: float | None = None

    def alive(self, now: float) -> bool:
        return self.expires_at is None or self.expires_at > now


@dataclass(frozen=True, slots=True)
class Header:
    """A document without its value."""

    nonce: bytes
    expires_at: float | None
    size: int
    crc: int

    def alive(self, now: float) -> bool:
        return self.expires_at is None or self.expires_at > now


def new_nonce() -> bytes:
    return os.urandom(16)


def dump(document: Document) -> bytes:
    """The bytes to store."""
    expiry = math.nan if document.expires_at is None else document.expires_at
    value = document.value
    return _HEADER.pack(MAGIC, FORMAT, document.nonce, expiry, len(value), zlib.crc32(value)) + value


def load_header(data: bytes, where: str) -> Header:
    """Read the first HEADER_BYTES. Raises CorruptRecord naming ``where``."""
    if data[:3] != MAGIC:
        raise CorruptRecord(
            f"{where} is not a document of cloudq's (it begins with {data[:8]!r}): "
            "does something else write there? Give cloudq a prefix of its own, or remove the object"
        )
    if len(data) < 4 or data[3] != FORMAT:
        # An older format does not exist; another number is a later release's, or damage.
        number = data[3] if len(data) > 3 else None
        raise CorruptRecord(
            f"{where} has document format {number}, this release reads format {FORMAT}: upgrade cloudq here"
        )
    if len(data) < HEADER_BYTES:
        raise CorruptRecord(f"{where} breaks off after {len(data)} bytes, inside its header")
    _, _, nonce, expiry, size, crc = _HEADER.unpack_from(data)
    return Header(nonce, None if math.isnan(expiry) else expiry, size, crc)


def load(data: bytes, where: str) -> Document:
    """Read a whole document. Raises CorruptRecord naming ``where``."""
    header = load_header(data, where)
    value = data[HEADER_BYTES:]
    if len(value) != header.size:
        raise CorruptRecord(f"{where} holds {len(value)} bytes of a value of {header.size}")
    if zlib.crc32(value) != header.crc:
        raise CorruptRecord(f"{where} is damaged: its checksum does not match")
    return Document(header.nonce, value, header.expires_at)
