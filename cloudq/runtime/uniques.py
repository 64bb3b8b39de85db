"""The locks of unique tasks, as those who run them see it: freed, or kept as long as they run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudq.clock import Clock
from cloudq.conf import Conf
from cloudq.coordination.unique import UniqueLocks
from cloudq.message import Envelope
from cloudq.outgoing import UNIQUE
from cloudq.results.store import ResultStore
from cloudq.runtime.naming import label
from cloudq.runtime.patience import Patience
from cloudq.task import Task


class Uniques:
    """One per settler. Does nothing for messages without a mark."""

    def __init__(self, store: ResultStore | None, conf: Conf, clock: Clock, patience: Patience) -> None:
        self._locks = None if store is None else UniqueLocks(store.backend, clock)
        self._conf = conf
        self._clock = clock
        self._patience = patience

    def free(self, envelope: Envelope) -> None:
        """The task will not run any more (or has started, for ``until_start``): another call may be sent."""
        mark = envelope.headers.get(UNIQUE)
        if (
            mark is not None
            and self._locks is not None
            and isinstance(mark, Mapping)
            and isinstance(mark.get("lock"), str)
        ):
            locks, name = self._locks, mark["lock"]
            self._patience.call(
                f"freeing the lock of {label(envelope)}", lambda: locks.release(name, envelope.id)
            )

    def started(self, envelope: Envelope, task: Task[..., Any]) -> None:
        """A unique task is about to run: its lock is free from now on, or no longer ends with its expiry."""
        mark = envelope.headers.get(UNIQUE)
        if mark is None or self._locks is None or not isinstance(mark, Mapping):
            return
        if mark.get("until") == "until_start":
            if envelope.retries == 0:
                self.free(envelope)
        elif envelope.expires is not None and isinstance(mark.get("lock"), str):
            locks, name, own = self._locks, mark["lock"], task.unique_expires
            until = self._clock.time() + (self._conf.task_unique_expires if own is None else own)
            self._patience.call(
                f"keeping the lock of {label(envelope)}", lambda: locks.extend(name, envelope.id, until)
            )
