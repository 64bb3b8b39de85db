"""A message's id, task and headers, without reading its arguments or verifying anything.

For choosing among messages (revocations, what a worker lists): what runs is decided by the codec.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Peek(msgspec.Struct, frozen=True):
    """What can be told of a message at a glance. Empty fields where it does not say (or cannot be read)."""

    task: str = ""
    id: str = ""
    headers: dict[str, Any] = {}
    retries: int = 0
    eta: Any = None


class _Signed(msgspec.Struct):
    signed: str | None = None


_peek = msgspec.json.Decoder(Peek).decode
_signed = msgspec.json.Decoder(_Signed).decode


def peek(body: str, message_id: str) -> Peek:
    """Never raises: a message that cannot be read is nobody's until the codec says why."""
    try:
        found = _peek((_signed(body).signed or body) if '"signed"' in body else body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        found = Peek()
    return found if found.id else msgspec.structs.replace(found, id=message_id)
