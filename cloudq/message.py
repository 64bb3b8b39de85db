"""The envelope: what a task message says, independent of how it is written (wire format v1).

The JSON spelling is the codec's work (``cloudq.serializers.codec``); the format is documented in
``docs/reference/protocol.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from msgspec import Struct, field
from msgspec.structs import replace

#: The newest wire format this release reads, and the one it writes.
WIRE_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class GroupRef:
    """Membership in a group: its id, this member's index, and the number of members (if known)."""

    id: str
    index: int
    size: int | None = None


@dataclass(frozen=True, slots=True)
class PayloadRef:
    """Where the complete text of a message lies: its place, its length in UTF-8 bytes, its SHA-256 in hex."""

    uri: str
    size: int
    sha256: str

    def plain(self) -> dict[str, Any]:
        """As it travels in ``ref``."""
        return {"uri": self.uri, "size": self.size, "sha256": self.sha256}

    @classmethod
    def read(cls, value: Any) -> PayloadRef:
        """From ``ref``. Raises ValueError saying what is wrong, of which field."""
        if not isinstance(value, Mapping):
            raise ValueError("$.ref is an object with uri, size and sha256")
        uri, size, digest = value.get("uri"), value.get("size"), value.get("sha256")
        if not isinstance(uri, str) or not uri:
            raise ValueError("$.ref.uri is text, like s3://bucket/messages/...")
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ValueError("$.ref.size is a number of bytes")
        if not (isinstance(digest, str) and len(digest) == 64 and not digest.strip("0123456789abcdef")):
            raise ValueError("$.ref.sha256 is 64 hexadecimal digits in lower case")
        return cls(uri, size, digest)


class Envelope(Struct, frozen=True):  # a frozen dataclass of so many fields takes ten times as long to make
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
