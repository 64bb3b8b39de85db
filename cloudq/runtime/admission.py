"""What a task needs before it may run besides its message: a claim on its key, a place, a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from cloudq.brokers.base import Delivery
from cloudq.clock import Clock
from cloudq.conf import Conf
from cloudq.errors import ImproperlyConfigured
from cloudq.message import Envelope
from cloudq.outgoing import IDEMPOTENCY_KEY
from cloudq.registry import Registry
from cloudq.results.record import Record
from cloudq.results.store import ResultStore
from cloudq.runtime.idempotency import Claim, Idempotency
from cloudq.runtime.keeper import Keeper
from cloudq.runtime.limits import Limits, Place, Wait
from cloudq.task import Task


@dataclass(frozen=True, slots=True)
class Admitted:
    """What a run holds until it is settled."""

    place: Place | None = None
    claim: Claim | None = None


#: Most tasks ask for nothing.
NOTHING: Final = Admitted()


class Admission:
    """One per process that runs tasks."""

    def __init__(self, store: ResultStore | None, clock: Clock, conf: Conf) -> None:
        if conf.task_lease_time <= 0:
            raise ImproperlyConfigured(
                f"task_lease_time is a positive number of seconds, got {conf.task_lease_time:g}"
            )
        keeper = Keeper(clock)
        self.limits = Limits(None if store is None else store.backend, clock, conf, keeper)
        self.idempotency = Idempotency(store, clock, conf, keeper)

    def check(self, registry: Registry) -> None:
        """Raise ImproperlyConfigured for tasks that ask for what this app cannot give."""
        self.limits.check(registry)
        self.idempotency.check(registry)

    def admit(self, task: Task[..., Any], envelope: Envelope, delivery: Delivery) -> Admitted | Wait | Record:
        """It may run; when to come back; or the record of who did the same work before.

        Raises OperationalError, and InvalidArguments when a key function fails.
        """
        if not self.asks(task, envelope):
            return NOTHING
        claim = self.idempotency.ask(task, envelope, delivery)
        if isinstance(claim, Wait | Record):
            return claim
        try:
            place = self.limits.ask(task, envelope)
        except BaseException:
            self.idempotency.leave(claim)
            raise
        if isinstance(place, Wait):
            self.idempotency.leave(claim)
            return place
        return NOTHING if claim is None and place is None else Admitted(place, claim)

    def asks(self, task: Task[..., Any], envelope: Envelope) -> bool:
        """Does this run need anything at all?"""
        return (
            task.max_concurrency is not None
            or self.limits.rate(task) is not None
            or task.idempotent
            or task.idempotency_key is not None
            or IDEMPOTENCY_KEY in envelope.headers
        )

    def leave(self, admitted: Admitted, ran: bool = True) -> None:
        """The run is over, however it ended: others may have what it held. Never raises."""
        if admitted is not NOTHING:
            self.limits.leave(admitted.place, ran)
            self.idempotency.leave(admitted.claim)

    def vacate(self, task: Task[..., Any], envelope: Envelope, delivery: Delivery) -> None:
        """The process that ran this delivery has died: give back what it held. Never raises."""
        self.limits.vacate(task, envelope)
        self.idempotency.vacate(task, envelope, delivery)
