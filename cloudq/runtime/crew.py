"""Small blocking jobs on a few daemon threads, which are there only while there is work."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Final

logger = logging.getLogger("cloudq.runtime")

#: Seconds after which an idle thread ends.
LINGER: Final = 5.0


class Crew:
    """``do(job)`` returns at once; at most ``size`` jobs run side by side, the others wait.

    Unlike an executor's, its threads never hold up the end of the process.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._free = 0

    def do(self, job: Callable[[], None]) -> None:
        """Have it done soon."""
        self._jobs.put(job)
        with self._lock:
            if self._free >= self._jobs.qsize() or self._threads >= self._size:
                return
            self._threads += 1
        threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                self._free += 1
            try:
                job = self._jobs.get(timeout=LINGER)
            except queue.Empty:
                with self._lock:
                    self._free -= 1
                    if self._jobs.empty():
                        self._threads -= 1
                        return
                continue
            with self._lock:
                self._free -= 1
            try:
                job()
            except Exception:
                logger.exception("%s: a job failed", self._name)
