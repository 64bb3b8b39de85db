"""Identifiers: random ones for new tasks, derived ones for whatever may be sent twice."""

from __future__ import annotations

import os
import uuid

#: Namespace of every derived id. Part of the wire contract: never change it.
NAMESPACE = uuid.UUID("6d0f1c0e-6a53-5b4e-9d5e-3c10cd1d5f57")


def new_id() -> str:
    """A random task id (UUID version 4, 36 characters)."""
    raw = bytearray(os.urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def derived_id(*parts: str | int) -> str:
    """The same parts always give the same id (UUID version 5).

    What is sent once more after a crash gets the id it had the first time, so the second
    message is recognised (DESIGN decision 7).
    """
    return str(uuid.uuid5(NAMESPACE, "\x1f".join(str(part) for part in parts)))
