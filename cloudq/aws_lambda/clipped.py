"""A task's limits, cut to what the invocation has left."""

from __future__ import annotations

import time

from cloudq import states
from cloudq.aws_lambda.budget import Budget
from cloudq.brokers.base import Delivery
from cloudq.errors import SoftTimeLimitExceeded
from cloudq.execution.outcome import Outcome
from cloudq.pools.base import Died, TimedOut, Watch

#: A limit of 0 would mean none to some pools.
_AT_ONCE = 0.001


class Clipped:
    """A Watch around a pool's. Tells the invocation's end from the task's own limits: who ran out of
    somebody else's time is not at fault and comes again."""

    def __init__(self, watch: Watch, budget: Budget) -> None:
        self._watch = watch
        self._budget = budget
        self._soft_is_ours = self._hard_is_ours = False
        #: By receipt: a run may be that of several messages.
        self.outcomes: dict[str, Outcome] = {}

    def begin(self, soft: float | None, hard: float | None) -> None:
        """As Watch.begin."""
        now = time.monotonic()
        until_soft = max(_AT_ONCE, self._budget.soft_at - now)
        until_hard = max(_AT_ONCE, self._budget.hard_at - now)
        self._soft_is_ours = soft is None or soft > until_soft
        self._hard_is_ours = hard is None or hard > until_hard
        own_soft = until_soft if self._soft_is_ours else soft
        self._watch.begin(own_soft, until_hard if self._hard_is_ours else hard)

    def end(self) -> None:
        """As Watch.end."""
        self._watch.end()

    def cut_short(self, outcome: Outcome, delivery: Delivery) -> Died | None:
        """Asked by the lifecycle before it settles: was it the invocation's end that ended the task?"""
        self.outcomes[delivery.receipt] = outcome
        struck = outcome.state == states.FAILURE and isinstance(outcome.error, SoftTimeLimitExceeded)
        return self._out_of_time() if struck and self._soft_is_ours else None

    def meant(self, end: TimedOut) -> Died | TimedOut:
        """What a pool's TimedOut means."""
        return self._out_of_time() if self._hard_is_ours else end

    def _out_of_time(self) -> Died:
        return Died(
            f"the invocation's time ran out (it had {self._budget.seconds:.0f} s; raise the function's timeout, "
            "or make the batch smaller)"
        )
