"""A beat inside a worker (``cloudq worker --beat``): every worker may have one, one of them leads."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Final

from cloudq.app import CloudQ
from cloudq.beat.beat import Beat

logger = logging.getLogger("cloudq.beat")

#: Seconds to wait for the thread: what is being sent is sent.
_JOIN: Final = 10.0


class Embedded:
    """``with Embedded(app):`` beats in a thread for the block. Raises ImproperlyConfigured at once, as Beat does.

    An error that a beat of its own process would end with is logged, and after one lease it goes on: the worker
    runs tasks meanwhile.
    """

    def __init__(self, app: CloudQ, *, hostname: str | None = None) -> None:
        self._beat = Beat(app, hostname=hostname)
        self._pause = app.conf.beat_lease
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cloudq-beat", daemon=True)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._beat.run()
            except Exception:
                logger.exception("the beat of this worker failed; it goes on in %g s", self._pause)
                self._ended.wait(self._pause)

    def __enter__(self) -> Embedded:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._beat.stop()
        self._thread.join(_JOIN)
