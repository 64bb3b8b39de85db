"""``--autoscale max,min``: more places while messages wait, fewer after a quiet while.

A worker grows when all of its places are in use *and* messages wait for it: in its hands, or in its queues
(``Demand.left``). It shrinks to what it used of late when nothing waits. The queues are asked only when their
answer could change something, and at most once a period: an idle worker, and one at its largest, asks nothing.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from cloudq.errors import ImproperlyConfigured
from cloudq.worker.worker import Worker

logger = logging.getLogger("cloudq.worker")

#: Seconds between two looks.
EVERY: Final = 1.0
#: Seconds for which places are kept that are not used any more (Celery's AUTOSCALE_KEEPALIVE).
KEEP: Final = 30.0


def parse(text: str) -> tuple[int, int]:
    """``"10,3"``: at most 10, at least 3, in Celery's order; ``"10"`` means ``"10,1"``.

    Raises ImproperlyConfigured.
    """
    found = re.fullmatch(r"\s*(\d+)\s*(?:,\s*(\d+)\s*)?", text)
    if found is None:
        raise ImproperlyConfigured(f"autoscale {text!r} cannot be read: write MAX,MIN, such as 10,3")
    most, least = int(found[1]), int(found[2] or 1)
    if least < 1:
        raise ImproperlyConfigured(f"autoscale {text!r}: at least 1 task must be able to run")
    if most < least:
        raise ImproperlyConfigured(f"autoscale is written MAX,MIN: did you mean {least},{most}?")
    return most, least


class Autoscaler:
    """Resizes one worker's pool. Begins with the worker, at the smallest size."""

    def __init__(
        self,
        worker: Worker,
        most: int,
        least: int,
        *,
        keep: float = KEEP,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises ImproperlyConfigured for a pool that has one size only."""
        if getattr(worker.pool, "resize", None) is None:
            raise ImproperlyConfigured(
                f"the {worker.pool_name} pool cannot be resized: --autoscale works with prefork, threads and asyncio"
            )
        self._worker = worker
        self._most = most
        self._least = least
        self._keep = keep
        self._monotonic = monotonic
        #: (when, messages in hand) of the looks within ``keep`` seconds, peaks only.
        self._peaks: deque[tuple[float, int]] = deque([(monotonic(), worker.concurrency)])
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        worker.app.hooks.on("worker_ready", self._ready)

    def set(self, most: int, least: int) -> None:
        """Other bounds, from the next look on."""
        self._most, self._least = most, least

    def _ready(self, **_: object) -> None:
        self._worker.adjust.autoscaler = self
        self._thread = threading.Thread(target=self._run, name="cloudq-autoscale", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Resize no more."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(2.0)

    def look(self) -> int:
        """Resize once, if there is reason to; the size now."""
        worker = self._worker
        size, in_hand = worker.concurrency, len(worker.running)
        peak = self._peak(in_hand)
        if in_hand > size:
            wanted = in_hand
        elif in_hand == size and any(source.lane.hungry for source in worker.sources):
            wanted = size + self._more(size)
        else:
            wanted = min(size, peak)
        target = max(self._least, min(self._most, wanted))
        if target < size <= self._most and worker.demand.left():
            return size  # what waits will be here soon
        if target == size or worker.stopping:
            return size
        logger.info("autoscale: %d -> %d places (%d messages in hand)", size, target, in_hand)
        return worker.adjust.resize(target - size)

    def _more(self, size: int) -> int:
        """Places to add while all are in use: as many as messages wait in the queues, by half at the most."""
        step = max(1, size // 2)
        if size >= self._most:
            return 0
        left = self._worker.demand.left()
        # queues that cannot be asked: a poll that wants a place is all that shows
        return step if left is None else min(step, math.ceil(left))

    def _peak(self, in_hand: int) -> int:
        """The most that was in hand within the last ``keep`` seconds."""
        now = self._monotonic()
        while self._peaks and self._peaks[-1][1] <= in_hand:
            self._peaks.pop()
        self._peaks.append((now, in_hand))
        while self._peaks[0][0] < now - self._keep:
            self._peaks.popleft()
        return self._peaks[0][1]

    def _run(self) -> None:
        while not self._closed.wait(EVERY):
            try:
                self.look()
            except Exception:
                logger.exception("autoscaling failed; going on")
