"""The contract of a serializer."""

from __future__ import annotations

from typing import Any, Protocol


class Serializer(Protocol):
    """Turns values into bytes and back.

    ``dumps`` raises SerializationError naming the path of the offending value; ``loads`` raises
    DecodeError on anything it cannot read, never executes code unless ``safe`` is False.
    """

    @property
    def name(self) -> str:
        """The name used in settings: ``json``, ``msgpack``, ..."""
        ...

    @property
    def content_type(self) -> str:
        """MIME type carried in messages and records."""
        ...

    @property
    def safe(self) -> bool:
        """False when loading foreign bytes can run code (pickle)."""
        ...

    def dumps(self, value: Any) -> bytes: ...

    def loads(self, data: bytes) -> Any: ...
