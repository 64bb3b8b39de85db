"""Exceptions as data, and back.

A class is looked up only in modules this process has already imported, among those that are accepted,
and only where its definition stands: reading a result never imports code because a document says so, nor
asks a module for a name that it would import on demand. What is not rebuilt becomes a RemoteError.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from cloudq.errors import MessageError, RemoteError, SerializationError

Pack = Callable[[Any], Any]
#: Are exceptions of this module rebuilt?
Accept = Callable[[str], bool]

#: Causes that are kept of a chain of ``raise ... from ...``.
_CAUSES: Final = 8
_UNWRITABLE: Final = (SerializationError, TypeError, ValueError, RecursionError)


def to_plain(error: BaseException, pack: Pack, causes: int = _CAUSES) -> dict[str, Any]:
    """``{"type", "module", "message", "args", "state", "cause"}``; the last three where they can be
    written: the constructor's arguments, the attributes, and what it was raised from."""
    kind = type(error)
    if isinstance(error, RemoteError):
        module, _, name = error.type_name.rpartition(".")
        plain: dict[str, Any] = {"type": name, "module": module, "message": error.message}
    else:
        plain = {"type": kind.__qualname__, "module": kind.__module__, "message": _text(error)}
        _write_parts(plain, error, pack)
    if error.__cause__ is not None and causes > 0:
        plain["cause"] = to_plain(error.__cause__, pack, causes - 1)
    return plain


def _write_parts(plain: dict[str, Any], error: BaseException, pack: Pack) -> None:
    try:
        # __reduce__ knows the constructor's arguments where they differ from .args
        reduced = error.__reduce__()
        arguments = reduced[1] if isinstance(reduced, tuple) and reduced[0] is type(error) else error.args
        plain["args"] = pack(list(arguments))
    except Exception:  # noqa: BLE001  its own __reduce__ may raise anything; type and message remain
        return
    state = {name: value for name, value in vars(error).items() if name != "__notes__"}
    if state:
        try:
            plain["state"] = pack(state)
        except _UNWRITABLE:
            pass  # an open file or a response; the exception itself is worth having without it


def anywhere(module: str) -> bool:
    """Exceptions of every module that is imported here are rebuilt."""
    return True


def only_of(names: Callable[[], Iterable[str]]) -> Accept:
    """Exceptions of these modules and packages are rebuilt: names as they are imported, ``*`` for all."""

    def accept(module: str) -> bool:
        return any(each == "*" or module == each or module.startswith(f"{each}.") for each in names())

    return accept


def from_plain(plain: Mapping[str, Any], unpack: Pack, accept: Accept = anywhere) -> BaseException:
    """The exception again, or a RemoteError that carries its type and message."""
    name, module = str(plain.get("type", "Exception")), str(plain.get("module", ""))
    message = str(plain.get("message", ""))
    error = _rebuilt(_class(module, name) if accept(module) else None, plain, message, unpack)
    if error is None:
        error = RemoteError(f"{module}.{name}" if module else name, message)
    cause = plain.get("cause")
    if isinstance(cause, Mapping):
        error.__cause__ = from_plain(cause, unpack, accept)
    return error


def stand_in(error: BaseException, longest: int) -> RemoteError:
    """A RemoteError for it, its message cut to ``longest`` characters."""
    if isinstance(error, RemoteError):
        name, message = error.type_name, error.message
    else:
        name, message = f"{type(error).__module__}.{type(error).__qualname__}", _text(error)
    return RemoteError(name, message if len(message) <= longest else message[:longest] + " [...]")


def _class(module: str, name: str) -> type[BaseException] | None:
    # vars: getattr would run a module's __getattr__, which may import (concurrent.futures does, and cloudq)
    kind: Any = sys.modules.get(module)
    for part in name.split("."):
        kind = getattr(kind, "__dict__", {}).get(part)
    known = isinstance(kind, type) and issubclass(kind, Exception | SystemExit) and kind.__module__ == module
    return kind if known else None


def _rebuilt(
    kind: type[BaseException] | None, plain: Mapping[str, Any], message: str, unpack: Pack
) -> BaseException | None:
    if kind is None or "args" not in plain:
        return None
    try:
        arguments = unpack(plain["args"])
        state = unpack(plain["state"]) if "state" in plain else {}
    except MessageError:
        return None  # its arguments are of a kind that is not accepted here, or damaged
    error = _construct(kind, arguments, state)
    if error is not None and _text(error) == message:
        return error
    # what a constructor makes of .args may be something else: E(5) says "code 5", E("code 5") another thing
    return _restore(kind, arguments, state) or error


def _construct(kind: type[BaseException], arguments: Any, state: Mapping[str, Any]) -> BaseException | None:
    try:
        error = kind(*arguments)
        vars(error).update(state)
    except Exception:  # noqa: BLE001  the class's own constructor may raise anything
        return None
    return error


def _restore(kind: type[BaseException], arguments: Any, state: Mapping[str, Any]) -> BaseException | None:
    try:
        error = kind.__new__(kind, *arguments)
        error.args = tuple(arguments)
        vars(error).update(state)
    except Exception:  # noqa: BLE001  as above
        return None
    return error


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  a broken __str__ must not hide the failure
        return "<no message: its __str__ failed>"
