"""Identifiers: random ones for new tasks, derived ones for whatever may be sent twice."""

from __future__ import annotations

import os

#: Namespace of every derived id (a UUID's bytes). Part of the wire contract: never change it.
NAMESPACE = bytes.fromhex("6d0f1c0e6a535b4e9d5e3c10cd1d5f57")


#: A UUID's 17th digit, with the variant's two bits in place of its first two.
_VARIANT = {f"{n:x}": f"{n & 3 | 8:x}" for n in range(16)}


def new_id() -> str:
    """A random task id (UUID version 4, 36 characters)."""
    text = os.urandom(16).hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:]}"


def derived_id(*parts: str | int) -> str:
    """The same parts always give the same id (UUID version 5).

    What is sent once more after a crash gets the id it had the first time, so the second
    message is recognised (decision 7).
    """
    import hashlib  # late: OpenSSL costs 3 ms

    name = "\x1f".join(str(part) for part in parts).encode("utf-8", "surrogatepass")
    return _uuid(bytearray(hashlib.sha1(NAMESPACE + name, usedforsecurity=False).digest()[:16]), 5)


def _uuid(raw: bytearray, version: int) -> str:
    raw[6] = raw[6] & 0x0F | version << 4
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
