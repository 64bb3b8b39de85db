"""How a worker is: ready for messages, and able to get any."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cloudq.errors import ImproperlyConfigured
from cloudq.worker.worker import Worker


class Condition:
    """Answers for one worker. It is well while every queue that it could take messages from was asked
    with success within ``patience`` seconds; a worker whose places are all taken need not ask."""

    def __init__(
        self, worker: Worker, patience: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises ImproperlyConfigured when a poll on an idle queue would take longer than that."""
        if patience <= worker.conf.worker_wait_time:
            raise ImproperlyConfigured(
                f"worker_health_timeout is {patience:g} s, but a poll of an idle queue takes worker_wait_time, "
                f"{worker.conf.worker_wait_time:g} s: make it longer, or the polls shorter"
            )
        self._worker = worker
        self._patience = patience
        self._monotonic = monotonic
        self._started = False
        worker.app.hooks.on("worker_ready", self._ready)

    def _ready(self, **_: Any) -> None:
        self._started = True

    def silent(self) -> dict[str, float]:
        """Queues that should have answered, and for how many seconds they have not."""
        now = self._monotonic()
        ages = {source.queue: now - source.well_at for source in self._worker.sources}
        return {queue: age for queue, age in ages.items() if age > self._patience}

    def well(self) -> bool:
        """Is it of use to leave it running? A worker that stops is well: it has tasks to finish."""
        return self._worker.stopping or not self.silent()

    def ready(self) -> bool:
        """Does it take messages?"""
        return self._started and not self._worker.stopping and self.well()

    def report(self) -> dict[str, Any]:
        """The same in words, for people and programs."""
        worker, now = self._worker, self._monotonic()
        return {
            "status": "ok" if self.well() else "no poll has succeeded for too long",
            "ready": self.ready(),
            "stopping": worker.stopping,
            "hostname": worker.hostname,
            "running": len(worker.running),
            "queues": {
                source.queue: {
                    "seconds_since_last_success": round(now - source.well_at, 3),
                    "error": source.last_error,
                }
                for source in worker.sources
            },
        }
