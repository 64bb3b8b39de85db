"""The envelope: what a task message says, independent of how it is written (wire format v1).

The JSON spelling is the codec's work (``cloudq.serializers.codec``); the format is documented in
``docs/reference/protocol.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import msgspec

#: Celery's header: which periodic task a message comes from. Its text may be the same at each run.
NAME_HEADER: Final = "periodic_task_name"
#: The newest wire format this release reads, and the one it writes.
WIRE_VERSION: Final = 1

# These three say how the plain spelling of a message is read without another look (the codec's fast way, which
# leaves all else to the careful one). To everybody else moments and seconds are numbers.
if TYPE_CHECKING:
    Moment: TypeAlias = float
    Unread: TypeAlias = Mapping[str, Any]
else:
    Moment = str
    Unread = Annotated[
        dict, msgspec.Meta(min_length=1, max_length=0)
    ]  # no such object: it is never on the wire
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(gt=0, lt=1e10)]


class GroupRef(msgspec.Struct, frozen=True):
    """Membership in a group: its id, this member's index, and the number of members (if known)."""

    id: str
    index: Count
    size: Count | None = None


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


# a Struct: a frozen dataclass of so many fields takes ten times as long to make
class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="v", tag=WIRE_VERSION):
    """A task message. Times are seconds since the epoch; limits are seconds.

    ``link``, ``link_error``, ``chain`` and ``chord`` hold signatures as plain mappings
    (``{"task", "args", "kwargs", "options", ...}``), never code. ``chain`` lists the remaining
    steps in the order in which they run. ``extra`` keeps fields this release does not know.
    """

    task: Annotated[str, msgspec.Meta(min_length=1)]
    id: str = ""
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = msgspec.field(default_factory=dict)
    eta: Moment | None = None
    expires: Moment | None = None
    retries: Count = 0
    root_id: str | None = None
    parent_id: str | None = None
    group: GroupRef | None = None
    chord: Mapping[str, Any] | None = None
    chain: tuple[Mapping[str, Any], ...] = ()
    link: tuple[Mapping[str, Any], ...] = ()
    link_error: tuple[Mapping[str, Any], ...] = ()
    time_limit: Seconds | None = None
    soft_time_limit: Seconds | None = None
    headers: Mapping[str, Any] = msgspec.field(default_factory=dict)
    origin: str | None = None
    sent_at: Moment | None = None
    extra: Unread = msgspec.field(default_factory=dict)

    def with_(self, **changes: Any) -> Envelope:
        """A copy with these fields changed."""
        return msgspec.structs.replace(self, **changes)
