"""Exceptions as data, and back.

A class is looked up only in modules this process has already imported: reading a result never
imports code because a document says so. What cannot be rebuilt becomes a RemoteError.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

from cloudq.errors import RemoteError, SerializationError

Pack = Callable[[Any], Any]

logger = logging.getLogger("cloudq.results")


def to_plain(error: BaseException, pack: Pack) -> dict[str, Any]:
    """``{"type", "module", "message", "args"}``; args only where they can be written."""
    kind = type(error)
    if isinstance(error, RemoteError):
        module, _, name = error.type_name.rpartition(".")
        return {"type": name, "module": module, "message": error.message}
    plain: dict[str, Any] = {"type": kind.__qualname__, "module": kind.__module__, "message": _text(error)}
    try:
        # __reduce__ knows the constructor's arguments where they differ from .args
        reduced = error.__reduce__()
        arguments = reduced[1] if isinstance(reduced, tuple) and reduced[0] is kind else error.args
        plain["args"] = pack(list(arguments))
    except (SerializationError, TypeError, ValueError, RecursionError):
        pass  # the stand-in's type and message remain
    return plain


def from_plain(plain: Mapping[str, Any], unpack: Pack) -> BaseException:
    """The exception again, or a RemoteError that carries its type and message."""
    name, module = str(plain.get("type", "Exception")), str(plain.get("module", ""))
    message = str(plain.get("message", ""))
    kind: Any = sys.modules.get(module)
    for part in name.split("."):
        kind = getattr(kind, part, None)
    if isinstance(kind, type) and issubclass(kind, Exception | SystemExit) and "args" in plain:
        try:
            return kind(*unpack(plain["args"]))
        except Exception as error:  # noqa: BLE001  the class's own constructor may raise anything
            logger.debug("%s.%s cannot be rebuilt: %r", module, name, error)
    return RemoteError(f"{module}.{name}" if module else name, message)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  a broken __str__ must not hide the failure
        return "<no message: its __str__ failed>"
