"""MessagePack: smaller than JSON and binary; the same tags."""

from __future__ import annotations

from typing import Any

import msgspec

from cloudq.errors import DecodeError
from cloudq.serializers import tagged


class MsgpackSerializer:
    """Safe, compact."""

    name = "msgpack"
    content_type = "application/x-msgpack"
    safe = True

    def dumps(self, value: Any) -> bytes:
        return msgspec.msgpack.encode(tagged.to_plain(value))

    def loads(self, data: bytes) -> Any:
        try:
            plain = msgspec.msgpack.decode(data, ext_hook=_no_extension)
        except (msgspec.DecodeError, UnicodeError, RecursionError, TypeError, ValueError) as error:
            raise DecodeError(f"not MessagePack: {error}") from error
        return tagged.from_plain(plain)


def _no_extension(code: int, data: memoryview) -> Any:
    raise ValueError(f"extension type {code} has no meaning here")
