"""Plug-ins by name: URL schemes of brokers and backends, names of pools and serializers.

Built-in ones are listed here by import path and imported only when asked for; third parties add
theirs through the entry point groups ``cloudq.brokers``, ``cloudq.backends``, ``cloudq.pools`` and
``cloudq.serializers``. A broker or backend plug-in is a callable ``factory(url: Url, clock: Clock)``,
a pool is ``factory(size: int)``, a serializer ``factory()``.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

from cloudq.errors import UnknownScheme

BUILTIN: Final[dict[str, dict[str, str]]] = {
    "brokers": {
        "sqlite": "cloudq.brokers.sqlite:from_url",
        "memory": "cloudq.brokers.sqlite:from_url",
        "sqs": "cloudq.brokers.sqs:from_url",
    },
    "backends": {
        "sqlite": "cloudq.backends.sqlite:from_url",
        "memory": "cloudq.backends.sqlite:from_url",
        "dynamodb": "cloudq.backends.dynamodb:from_url",
        "file": "cloudq.backends.file:from_url",
        "s3": "cloudq.backends.s3:from_url",
        "gs": "cloudq.backends.gcs:from_url",
        "azureblob": "cloudq.backends.azure:from_url",
    },
    "pools": {
        "solo": "cloudq.pools.solo:SoloPool",
        "threads": "cloudq.pools.threads:ThreadsPool",
        "prefork": "cloudq.pools.prefork:PreforkPool",
        "asyncio": "cloudq.pools.asyncio:AsyncioPool",
    },
    "serializers": {
        "json": "cloudq.serializers.json:JsonSerializer",
        "msgpack": "cloudq.serializers.msgpack:MsgpackSerializer",
        "yaml": "cloudq.serializers.yaml:YamlSerializer",
        "pickle": "cloudq.serializers.pickle:PickleSerializer",
    },
}


_GREENLETS = (
    "greenlets would share one thread with what renews the leases of messages, and a task that computes would "
    "lose them all; use the pool threads, or asyncio for async def tasks"
)
#: What people know from elsewhere, and why it is not here (docs/decisions.md).
_NOT_HERE: dict[tuple[str, str], str] = {
    ("pools", "gevent"): _GREENLETS,
    ("pools", "eventlet"): _GREENLETS,
    ("pools", "processes"): "it is called prefork",
}


def names(kind: str) -> list[str]:
    """Every known plug-in of a kind, sorted."""
    return sorted({*BUILTIN[kind], *(point.name for point in _installed(kind))})


def load(kind: str, name: str) -> Any:
    """The plug-in's factory. Raises UnknownScheme, naming the nearest known name."""
    path = BUILTIN[kind].get(name)
    if path is not None:
        return load_object(path)
    for point in _installed(kind):
        if point.name == name:
            return point.load()
    import difflib

    known = names(kind)
    if (kind, name) in _NOT_HERE:
        raise UnknownScheme(f"no {kind[:-1]} is called {name!r}: {_NOT_HERE[kind, name]}")
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise UnknownScheme(f"no {kind[:-1]} is called {name!r}{hint} Known: {', '.join(known)}.")


def _installed(kind: str) -> Any:
    from importlib import metadata  # late: 45 ms, and built-in plug-ins do without

    return metadata.entry_points(group=f"cloudq.{kind}")


def load_object(path: str) -> Any:
    """Import ``"package.module:attribute"``."""
    module, _, attribute = path.partition(":")
    value: Any = importlib.import_module(module)
    for part in attribute.split("."):
        value = getattr(value, part)
    return value
