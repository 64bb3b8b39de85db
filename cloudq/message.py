"""The envelope: what a task message says, independent of how it is written (wire format v1).

The JSON spelling is the codec's work (``cloudq.serializers.codec``); the format is documented in
``docs/reference/protocol.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

#: The newest wire format this release reads, and the one it writes.
WIRE_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class GroupRef:
    """Membership in a group: its id, this member's index, and the number of members (if known)."""

    id: str
    index: int
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Envelope:
    """A task message. Times are seconds since the epoch; limits are seconds.

    ``link``, ``link_error``, ``chain`` and ``chord`` hold signatures as plain mappings
    (``{"task", "args", "kwargs", "options", ...}``), never code. ``chain`` lists the remaining
    steps in the order in which they run. ``extra`` keeps fields this release does not know.
    """

    task: str
    id: str = ""
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    eta: float | None = None
    expires: float | None = None
    retries: int = 0
    root_id: str | None = None
    parent_id: str | None = None
    group: GroupRef | None = None
    chord: Mapping[str, Any] | None = None
    chain: tuple[Mapping[str, Any], ...] = ()
    link: tuple[Mapping[str, Any], ...] = ()
    link_error: tuple[Mapping[str, Any], ...] = ()
    time_limit: float | None = None
    soft_time_limit: float | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    origin: str | None = None
    sent_at: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def with_(self, **changes: Any) -> Envelope:
        """A copy with these fields changed."""
        return replace(self, **changes)
