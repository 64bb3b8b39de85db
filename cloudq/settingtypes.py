"""What a setting's declared type takes, and what to say of names that are no settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, get_args, get_origin

#: Celery settings that mean nothing on a queue without a broker process; say why instead of guessing.
_NOT_HERE: dict[str, str] = {
    "broker_transport_options": "put options into the URL: sqs://?region=eu-west-1&visibility_timeout=60",
    "result_backend_transport_options": "put options into the URL",
    "task_queues": "queues exist in AWS (Terraform, `cloudq queues create`); route with task_routes",
    "task_create_missing_queues": "the runtime never creates queues; use `cloudq queues create` or Terraform",
    "broker_connection_retry_on_startup": "the worker always retries an unavailable broker",
    "imports": "use include",
    "task_protocol": "cloudq has its own wire format, see docs/reference/protocol.md",
}


def type_name(wanted: Any) -> str:
    """The type as people write it."""
    name = wanted.__name__ if isinstance(wanted, type) else str(wanted)
    return name.replace("typing.", "")


def as_type(value: Any, wanted: Any) -> Any:
    """``value`` if it is of that type (an int passes as float, a tuple as list); TypeError otherwise."""
    if wanted is Any:
        return value
    if isinstance(wanted, UnionType):
        kinds = get_args(wanted)
        if value is None and type(None) in kinds:
            return None
        return as_type(value, next(each for each in kinds if each is not type(None)))
    origin = get_origin(wanted)
    if origin is list and isinstance(value, list | tuple):
        return [as_type(each, str) for each in value]
    if origin is dict and isinstance(value, Mapping):
        values = get_args(wanted)[1]
        return {as_type(key, str): as_type(each, values) for key, each in value.items()}
    if wanted is float and type(value) is int:
        return float(value)
    if origin is None and type(value) is wanted:
        return value
    raise TypeError


def from_text(value: str, wanted: Any) -> Any:
    """What a text of the environment means. Raises ValueError."""
    if isinstance(wanted, UnionType):
        if value.strip().lower() in ("", "none", "null"):
            return None
        return from_text(value, next(each for each in get_args(wanted) if each is not type(None)))
    if get_origin(wanted) is list:
        return [part.strip() for part in value.split(",") if part.strip()]
    if get_origin(wanted) is dict or (wanted is Any and value[:1] in ("[", "{")):
        import json

        return json.loads(value)
    if wanted is bool:
        word = value.strip().lower()
        if word in ("1", "true", "yes", "on"):
            return True
        if word in ("0", "false", "no", "off"):
            return False
        raise ValueError
    return wanted(value) if wanted in (int, float) else value


def unknown_name(name: str, names: Iterable[str]) -> str:
    """What to say of a name that is not among ``names``, the settings there are."""
    if name in _NOT_HERE:
        return f"no setting {name!r} in cloudq: {_NOT_HERE[name]}"
    import difflib  # late: only errors need it

    near = difflib.get_close_matches(name.lower(), list(names), 1, 0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"no setting is called {name!r}{hint}"
