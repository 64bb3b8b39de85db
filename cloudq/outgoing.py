"""A call on its way out, and what its message's headers say."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from cloudq.message import Envelope

#: Headers that carry what a task said about itself, for workers that must know before looking it up.
IGNORE_RESULT: Final = "cloudq-ignore-result"
#: The idempotency key that the caller gave.
IDEMPOTENCY_KEY: Final = "cloudq-idempotency-key"
#: The lock that a unique task frees: its name, and when ("until_start", "until_finish").
UNIQUE: Final = "cloudq-unique"


class Outgoing(Struct, frozen=True):
    """One call, ready to be written. ``delay`` is seconds."""

    envelope: Envelope
    queue: str
    delay: float = 0.0
    group_id: str | None = None
    dedup_id: str | None = None
    serializer: str | None = None
    compression: str | None = None
    retry: bool = True
    #: The same try once more (a hop, a deferral): publishing it is no news to the hooks.
    quiet: bool = False
    #: Epoch seconds at which EventBridge Scheduler is to send it, instead of us now.
    at: float | None = None
    #: The message's text, when it was written before it is sent: as the arguments were then.
    text: str | None = None

    def with_(self, **changes: Any) -> Outgoing:
        """A copy with these fields changed."""
        return replace(self, **changes)
