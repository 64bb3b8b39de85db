"""One message of a batch on its way through an invocation."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from cloudq.aws_lambda.budget import Budget
from cloudq.aws_lambda.clipped import Clipped
from cloudq.brokers.base import Delivery
from cloudq.execution.outcome import Outcome
from cloudq.runtime.verdict import Release, Verdict
from cloudq.serializers.peek import Peek


@dataclass(eq=False, slots=True)
class Job:
    """Filled in as it goes; ``verdict`` is None until it is concluded."""

    delivery: Delivery
    peeked: Peek
    budget: Budget
    #: Run by the pool of coroutines.
    on_loop: bool
    #: Calls that one run of its task takes (``batch=``).
    takes: int = 1
    #: All jobs of its run, itself the first, if its task is one that takes several.
    crew: tuple[Job, ...] = ()
    #: Others of the batch may end with the process: what is settled is deleted at once.
    ack_now: bool = False
    #: How often earlier deliveries were begun and never concluded.
    begun_before: int = 0
    #: It starts with the invocation, nothing ran before it.
    first: bool = False
    clipped: Clipped | None = None
    #: Monotonic seconds, when the lifecycle began and was through.
    began: float | None = None
    ended: float | None = None
    #: What the lifecycle said.
    verdict: Verdict | None = None
    #: What is to be done about it now: a burial that worked is settled, one that did not is given back.
    todo: Verdict | None = None
    #: Never started, and why.
    unstarted: str | None = None
    detail: str = field(default="")

    def start(self) -> None:
        """The lifecycle begins."""
        self.began = time.monotonic()

    def go_back(self, why: str) -> None:
        """It is not run and goes back to the queue at once."""
        self.verdict = self.todo = Release(0.0)
        self.unstarted = why
        self.ended = time.monotonic()

    @property
    def members(self) -> tuple[Job, ...]:
        """Whom its run concerns."""
        return self.crew or (self,)

    @property
    def outcome(self) -> Outcome | None:
        """What came of the task's function; None when it did not run, or not to its end."""
        return self.clipped.outcomes.get(self.delivery.receipt) if self.clipped is not None else None

    @property
    def seconds(self) -> float | None:
        """How long the task's function ran; None when it did not."""
        outcome = self.outcome
        return outcome.runtime if outcome is not None else None
