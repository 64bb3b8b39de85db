"""JSON, with tags for what JSON lacks (``tagged``). The default."""

from __future__ import annotations

from typing import Any

import msgspec

from cloudq.errors import DecodeError
from cloudq.serializers import tagged

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class JsonSerializer:
    """Readable from any language; safe."""

    name = "json"
    content_type = "application/json"
    safe = True

    def dumps(self, value: Any) -> bytes:
        return _encode(tagged.to_plain(value))

    def loads(self, data: bytes) -> Any:
        plain = decode(data)
        return tagged.from_plain(plain) if tagged.may_be_tagged(data) else plain


def decode(data: bytes | str) -> Any:
    """JSON to plain data. Raises DecodeError, also for what is nested too deeply."""
    try:
        return _decode(data)
    except RecursionError as error:
        raise DecodeError("not readable: nested too deeply") from error
    except (msgspec.DecodeError, ValueError) as error:  # ValueError: no UTF-8; a number of 5,000 digits
        raise DecodeError(f"not JSON: {error}") from error
