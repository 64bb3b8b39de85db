"""Tasks that run where they are called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cloudq.app import CloudQ


@contextmanager
def inline(app: CloudQ, *, propagate: bool = True, **settings: Any) -> Iterator[CloudQ]:
    """For the block, ``delay()`` and ``apply_async()`` run the task at once, through the lifecycle
    of a worker; failures are raised in the caller unless ``propagate=False``."""
    with app.using(
        broker="memory://",
        backend="memory://",
        task_always_eager=True,
        task_eager_propagates=propagate,
        task_store_eager_result=True,
        **settings,
    ):
        yield app
