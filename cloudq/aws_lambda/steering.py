"""A function's end of the control plane: revoked tasks are not run."""

from __future__ import annotations

import logging
import math
import time
from typing import Final

from cloudq.app import CloudQ
from cloudq.aws_lambda.budget import Budget
from cloudq.control.revocations import Revocations
from cloudq.errors import CorruptRecord, OperationalError
from cloudq.runtime.lifecycle import Lifecycle

logger = logging.getLogger("cloudq.control")

#: Seconds between two looks at the board, unless ``control_interval`` says otherwise: each is a read.
INTERVAL: Final = 15.0


class Steering:
    """Looks at the board at the beginning of an invocation, if the last look is old."""

    def __init__(self, app: CloudQ, lifecycle: Lifecycle) -> None:
        self._next = -math.inf
        self._interval = app.conf.control_interval or INTERVAL
        self._revocations: Revocations | None = None
        if app.store is not None:
            self._revocations = Revocations(app.control.boards, app.clock)
            lifecycle.revoked = self._revocations.why

    def look(self, budget: Budget) -> None:
        """Never raises for a store that is away: tasks run, the next look may work."""
        now = time.monotonic()
        if self._revocations is None or now < self._next or budget.left() <= 0:
            return
        self._next = now + self._interval
        try:
            self._revocations.look()
        except (OperationalError, CorruptRecord) as error:
            logger.warning("looking for revocations: %s; trying again later", error)
        except Exception:
            logger.exception("looking for revocations failed; the tasks run")
