"""The worker's end of the control plane: now and then a look at the board, and what follows from it."""

from __future__ import annotations

import logging
import random
import threading
from typing import TYPE_CHECKING, Final

from cloudq.brokers.base import Delivery
from cloudq.control.revocations import Revocations
from cloudq.errors import CorruptRecord, OperationalError
from cloudq.serializers.peek import peek

if TYPE_CHECKING:
    from cloudq.worker.worker import Worker

logger = logging.getLogger("cloudq.control")

#: Seconds between two looks: at a store in the cloud, where each costs money, and at one on this machine.
FAR_INTERVAL: Final = 15.0
NEAR_INTERVAL: Final = 1.0


class Steering:
    """One per worker, with a thread of its own. Does nothing when the app stores no results."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        app = worker.app
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._failed = False
        self.revocations: Revocations | None = None
        if app.backend is None:
            return
        near = app.backend.capabilities.reach != "cloud"
        self.interval: float = app.conf.control_interval or (NEAR_INTERVAL if near else FAR_INTERVAL)
        self.revocations = Revocations(app.control.boards, app.clock)
        worker.lifecycle.revoked = self.revocations.why

    def start(self) -> None:
        """Begin to look."""
        if self.revocations is None:
            return
        self._thread = threading.Thread(target=self._run, name="cloudq-control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(2.0)

    def look(self) -> None:
        """Read the board once and act on it. Never raises for a store that is away: the next look may do."""
        if self.revocations is None:
            return
        try:
            changed = self.revocations.look()
        except (OperationalError, CorruptRecord) as error:
            if not self._failed:
                logger.warning("looking for revocations and commands: %s; trying again", error)
            self._failed = True
            return
        self._failed = False
        if changed and self.revocations:
            self._stop_revoked()

    def revoked(self, delivery: Delivery) -> bool:
        """Is this message's task not to run? From memory."""
        if not self.revocations:
            return False
        found = peek(delivery.body, delivery.message_id)
        return self.revocations.find(found.id, found.headers) is not None

    # --- parts --------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed.wait(self.interval * (0.9 + 0.2 * random.random())):
            try:
                self.look()
            except Exception:
                logger.exception("the control plane failed; going on")

    def _stop_revoked(self) -> None:
        """What the worker has in hand: waiting messages are taken back, running ones stopped where asked."""
        pool, revocations = self._worker.pool, self.revocations
        assert revocations is not None
        for delivery in list(self._worker.running.values()):
            found = peek(delivery.body, delivery.message_id)
            hit = revocations.find(found.id, found.headers)
            if hit is None:
                continue
            # prepare() looks as well: what waits inside a pool of this process never runs
            cancel = getattr(pool, "cancel", None)
            if cancel is not None and cancel(delivery, hit.terminate):
                logger.info("task %s[%s] is stopped: revoked by %s", found.task, found.id, hit.by)
            elif hit.terminate and cancel is None:
                logger.warning("task %s[%s] is revoked, but this pool stops nothing", found.task, found.id)
