"""Deliveries whose run ended without a verdict: its process died, or it was stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable

from cloudq import states
from cloudq.backends.base import Version
from cloudq.brokers.base import Broker, Delivery
from cloudq.conf import Conf
from cloudq.errors import CloudQError, MessageError, TimeLimitExceeded, WorkerLostError
from cloudq.execution.call import judge
from cloudq.execution.outcome import Outcome
from cloudq.message import Envelope
from cloudq.pools.base import Cancelled, Died, TimedOut
from cloudq.registry import Registry
from cloudq.results.record import Record
from cloudq.results.store import ResultStore
from cloudq.runtime.admission import Admission
from cloudq.runtime.naming import label
from cloudq.runtime.preparation import Preparation
from cloudq.runtime.ready import Ready
from cloudq.runtime.settle import Settler
from cloudq.runtime.verdict import Ack, Bury, Release, Verdict

task_logger = logging.getLogger("cloudq.task")


class Losses:
    """Judges them; one per lifecycle."""

    def __init__(
        self,
        preparation: Preparation,
        settler: Settler,
        registry: Registry,
        store: ResultStore | None,
        broker: Callable[[], Broker],
        conf: Conf,
        admission: Admission,
    ) -> None:
        self._preparation = preparation
        self._settler = settler
        self._registry = registry
        self._store = store
        self._broker = broker
        self._conf = conf
        self._admission = admission

    def judge(self, delivery: Delivery, end: Died | TimedOut | Cancelled) -> Verdict:
        """What becomes of it. Raises CloudQErrors other than a message's own."""
        preparation, settler = self._preparation, self._settler
        try:
            envelope = preparation.decode(delivery)
            if (known := self._registry.get(envelope.task)) is not None:
                self._admission.vacate(known, envelope, delivery)
            if isinstance(end, Cancelled):
                return preparation.revoke(delivery, envelope, "terminated" if end.started else "revoked")
            task = self._registry[envelope.task]
            records = preparation.records(task, envelope)
            found = self._known(envelope, records)
            if found is not None and found[0].final:
                dead_letter = settler.wants(task, "dead_letter")
                return settler.conclude(envelope, delivery.queue, found[0], dead_letter, again=True)
            version = found[1] if found else None
            return self._judge(preparation.ready(delivery, envelope, task, version, records), end)
        except MessageError as error:
            return preparation.bury(delivery, error)

    def _known(self, envelope: Envelope, records: bool) -> tuple[Record, Version] | None:
        if not records or self._store is None:
            return None
        return self._store.read_versioned(envelope.id)

    def _judge(self, ready: Ready, end: Died | TimedOut) -> Verdict:
        settler = self._settler
        if isinstance(end, TimedOut):
            error: CloudQError = TimeLimitExceeded(
                f"ran past its time limit of {end.limit:g} s and was stopped"
            )
            return settler.settle(ready, judge(ready.task, ready.request, error, end.limit))
        delivery = ready.delivery
        limit = self._broker().describe(delivery.queue).max_receive_count
        error = WorkerLostError(
            f"the process that ran it ended: {end.detail} (delivery {delivery.receive_count})"
        )
        # a message acknowledged early does not come again
        again = settler.wants(ready.task, "reject_on_worker_lost") and ready.late
        if again and (limit is None or delivery.receive_count < limit):
            task_logger.error("task %s: %s; it will be delivered again", label(ready.envelope), error)
            return Release(self._conf.worker_lost_wait)
        verdict = settler.settle(ready, Outcome(states.FAILURE, error=error, traceback=str(error)))
        return Bury("worker_lost", str(error)) if again and isinstance(verdict, Ack) else verdict
