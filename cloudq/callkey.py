"""A text that tells calls of a task apart by some of their arguments: a tenant, an order number.

The caller and the worker must find the same text, although what the worker gets went through a
serializer: tuples and lists count as the same, and only values with one spelling may be part of it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

#: A parameter's name, several of them, or a function of the call's arguments.
KeySpec: TypeAlias = str | Sequence[str] | Callable[..., Any]


def check_spec(option: str, spec: Any, signature: inspect.Signature, task: str) -> None:
    """Raise ValueError unless ``spec`` can be used with a function of this signature."""
    if callable(spec):
        return
    names = [spec] if isinstance(spec, str) else spec
    if not isinstance(names, list | tuple) or not names or not all(isinstance(each, str) for each in names):
        raise ValueError(
            f"task {task}: {option} is a parameter's name, a list of names, or a function of the arguments,"
            f" got {spec!r}"
        )
    if any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values()):
        return
    for name in names:
        if name not in signature.parameters:
            known = ", ".join(signature.parameters) or "none"
            raise ValueError(f"task {task}: {option} names {name!r}; the function's parameters are: {known}")


def call_key(
    option: str, spec: KeySpec, signature: inspect.Signature, args: Iterable[Any], kwargs: Mapping[str, Any]
) -> str:
    """The key of one call. Raises TypeError when the arguments do not fit or a value has no one spelling."""
    if callable(spec):
        value = spec(*args, **kwargs)
        return value if isinstance(value, str) else spelled(option, value)
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    given: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            given.update(value)
        else:
            given[name] = value
    names = [spec] if isinstance(spec, str) else list(spec)
    values = [given.get(name) for name in names]
    return values[0] if len(values) == 1 and isinstance(values[0], str) else spelled(option, [names, values])


def whole_call_key(
    option: str, signature: inspect.Signature, args: Iterable[Any], kwargs: Mapping[str, Any]
) -> str:
    """The key of a call by all of its arguments, defaults and spelling (positional or named) evened out."""
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return spelled(option, [[name, value] for name, value in bound.arguments.items()])


def spelled(option: str, value: Any) -> str:
    """JSON text that is the same for equal values."""
    return json.dumps(_plain(option, value), sort_keys=True, separators=(",", ":"))


def short(text: str) -> str:
    """A key's segment for any text."""
    import hashlib  # late: OpenSSL is some milliseconds that declaring tasks need not pay

    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _plain(option: str, value: Any) -> Any:
    import datetime
    import decimal
    import enum
    import pathlib
    import uuid

    if isinstance(value, enum.Enum):
        return _plain(option, value.value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {
            "map": sorted(
                ([spelled(option, key), _plain(option, each)] for key, each in value.items()),
                key=lambda pair: pair[0],
            )
        }
    if isinstance(value, list | tuple):
        return [_plain(option, each) for each in value]
    if isinstance(value, set | frozenset):
        return {"set": sorted(spelled(option, each) for each in value)}
    if isinstance(value, bytes | bytearray):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, datetime.timedelta):
        return {"timedelta": value.total_seconds()}
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return {type(value).__name__: value.isoformat()}
    if isinstance(value, decimal.Decimal | uuid.UUID | pathlib.PurePath):
        return {"text": str(value)}
    raise TypeError(
        f"{option}: a {type(value).__name__} cannot be part of a key; name other parameters,"
        f" or give a function that returns text"
    )
