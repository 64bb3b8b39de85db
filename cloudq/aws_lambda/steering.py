"""A function's end of the control plane: revoked tasks are not run, and running ones stopped where asked."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import Final

from cloudq.app import CloudQ
from cloudq.aws_lambda.aside import aside
from cloudq.aws_lambda.budget import Budget
from cloudq.aws_lambda.job import Job
from cloudq.control.revocations import Hit, Revocations
from cloudq.errors import CorruptRecord, OperationalError
from cloudq.runtime.lifecycle import Lifecycle

logger = logging.getLogger("cloudq.control")

#: Seconds between two looks at the board, unless ``control_interval`` says otherwise: each is a read.
INTERVAL: Final = 15.0
#: Longest that anything waits for a look, seconds, and share of the time that is left.
_LONGEST: Final = 2.0
_SHARE: Final = 0.25


class Steering:
    """Looks at the board when the last look is old: as an invocation begins, before a task starts and while
    tasks run. Any thread."""

    def __init__(self, app: CloudQ, lifecycle: Lifecycle) -> None:
        self._next = -math.inf
        self._interval = app.conf.control_interval or INTERVAL
        self._looking = threading.Lock()
        self._revocations: Revocations | None = None
        if app.store is not None:
            self._revocations = Revocations(app.control.boards, app.clock)
            lifecycle.revoked = self._revocations.why

    @property
    def pause(self) -> float:
        """Seconds until the next look is due."""
        return math.inf if self._revocations is None else max(0.0, self._next - time.monotonic())

    def look(self, budget: Budget) -> None:
        """Look if it is time. Never raises, and waits for no store that is away or hangs: tasks run, the
        next look may work."""
        left = min(_LONGEST, _SHARE * budget.left())
        if self.pause > 0 or left <= 0 or self._looking.locked():  # somebody does, or hangs there
            return
        self._next = time.monotonic() + self._interval
        aside("looking for revocations", self._look, left)

    def stops(self, job: Job) -> Hit | None:
        """Is this task, which runs, to be stopped?"""
        if self._revocations is None or not self._revocations:
            return None
        hit = self._revocations.find(job.peeked.id, job.peeked.headers)
        return hit if hit is not None and hit.terminate else None

    def _look(self) -> None:
        assert self._revocations is not None
        with self._looking:
            try:
                self._revocations.look()
            except (OperationalError, CorruptRecord) as error:
                logger.warning("looking for revocations: %s; trying again later", error)
