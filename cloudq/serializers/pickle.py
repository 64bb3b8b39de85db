"""Pickle: any Python object, and any code. Only for signed messages, only when asked for by name."""

from __future__ import annotations

import pickle
from typing import Any

from cloudq.errors import DecodeError, SerializationError


class PickleSerializer:
    """Not safe: loading runs code. The codec refuses it unless messages are signed."""

    name = "pickle"
    content_type = "application/x-python-serialize"
    safe = False

    def dumps(self, value: Any) -> bytes:
        try:
            return pickle.dumps(value, protocol=4)
        except Exception as error:
            raise SerializationError(f"cannot be pickled: {error}") from error

    def loads(self, data: bytes) -> Any:
        try:
            return pickle.loads(data)  # noqa: S301  the codec has checked name and signature
        except MemoryError:
            raise  # the machine's trouble, not the message's
        except Exception as error:
            raise DecodeError(f"cannot be unpickled: {error}") from error
