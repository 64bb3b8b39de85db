"""Durable steps inside one task: each is done once, and its value replayed when the task runs again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec

from cloudq.backends.base import ABSENT
from cloudq.clock import Clock
from cloudq.context import Request
from cloudq.coordination.join import DEFAULT_TTL
from cloudq.errors import Conflict, CorruptRecord, ImproperlyConfigured
from cloudq.results.store import ResultStore
from cloudq.serializers.codec import Codec


def step(
    store: ResultStore | None,
    codec: Codec,
    clock: Clock,
    request: Request,
    name: str,
    make: Callable[[], Any],
) -> Any:
    """The recorded value of this step of this task, or that of ``make()``, which is then recorded.

    The first value that is recorded stands: of two runs at once, both go on with the same. Kept for
    15 days, longer than any message. Raises ValueError for a name used twice in one run, and
    SerializationError or ValueTooLarge for a value that cannot be recorded.
    """
    if store is None:
        raise ImproperlyConfigured("steps are recorded in the results store, and this app has none")
    if not isinstance(name, str) or not name:
        raise ValueError(f"a step has a name, got {name!r}")
    if name in request.steps:
        raise ValueError(
            f"the step {name!r} of {request.task} comes twice in one run: give each its own name"
        )
    request.steps.add(name)
    key = f"step/{quote(request.id or '', safe='')}/{quote(name, safe='')}"
    entry = store.backend.read(key)
    if entry is None:
        value = make()
        data = msgspec.json.encode([codec.pack(value)])
        try:
            store.backend.write(key, data, ABSENT, clock.time() + DEFAULT_TTL)
        except Conflict as conflict:  # another run of this task was faster
            entry = conflict.present or store.backend.read(key)
        else:
            return value
    if entry is None:
        raise CorruptRecord(f"the step {key} in {store.backend.url} comes and goes")
    try:
        return codec.unpack(msgspec.json.decode(entry.value)[0])
    except (msgspec.MsgspecError, TypeError, IndexError) as error:
        raise CorruptRecord(f"the step {key} in {store.backend.url} cannot be read: {error}") from error
