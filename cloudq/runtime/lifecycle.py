"""The lifecycle of a delivery, the same in a worker, in Lambda and inline.

``prepare`` decodes and decides whether it may run, ``execute`` runs it and never raises, ``settle``
records the end and gives the verdict that the driver applies.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from cloudq import states
from cloudq.backends.base import Version
from cloudq.brokers.base import Broker, Delivery, is_fifo
from cloudq.brokers.claimcheck import ClaimCheck
from cloudq.clock import Clock
from cloudq.conf import Conf
from cloudq.context import Request
from cloudq.delays import hop
from cloudq.errors import (
    CloudQError,
    InvalidArguments,
    MessageError,
    OperationalError,
    PayloadMissing,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from cloudq.execution.batch import acall_one, call_one
from cloudq.execution.call import judge
from cloudq.execution.outcome import Outcome
from cloudq.hooks import Hooks
from cloudq.message import Envelope
from cloudq.outgoing import IGNORE_RESULT
from cloudq.pools.base import Cancelled, Died, Returned, TimedOut, Watch
from cloudq.registry import Registry
from cloudq.results.record import Record
from cloudq.results.store import ResultStore
from cloudq.runtime.admission import NOTHING, Admission, Admitted
from cloudq.runtime.gather import Gatherer
from cloudq.runtime.limits import Wait
from cloudq.runtime.naming import label, printable
from cloudq.runtime.past import may_have_run
from cloudq.runtime.patience import Patience
from cloudq.runtime.ready import Ready
from cloudq.runtime.request import request_of
from cloudq.runtime.settle import Settler, release_after
from cloudq.runtime.verdict import ABANDON, ACK, Ack, Bury, Release, Verdict
from cloudq.serializers.codec import Codec
from cloudq.task import Task
from cloudq.workflows.words import ERRBACK, JOINED

logger = logging.getLogger("cloudq.runtime")
task_logger = logging.getLogger("cloudq.task")


class Lifecycle:
    """One per process that runs tasks; safe to use from many threads."""

    def __init__(
        self,
        *,
        registry: Registry,
        codec: Codec,
        store: ResultStore | None,
        broker: Callable[[], Broker],
        settler: Settler,
        conf: Conf,
        hooks: Hooks,
        clock: Clock,
        hostname: str,
        patience: Patience,
        admission: Admission,
        claims: ClaimCheck | None = None,
        eager: bool = False,
    ) -> None:
        self._claims = claims
        self._registry = registry
        self._codec = codec
        self._store = store
        self._broker = broker
        self._conf = conf
        self._hooks = hooks
        self._clock = clock
        self._hostname = hostname
        self._eager = eager
        self._patience = patience
        self._gatherer = Gatherer(store)
        self.settler = settler
        #: Why a task must not run although its message says so ("revoked"), or None. From memory.
        self.revoked: Callable[[Envelope], str | None] = lambda envelope: None
        self.admission = admission

    # --- the whole way ------------------------------------------------------------------------

    def run(self, delivery: Delivery, watch: Watch) -> Verdict:
        """From delivery to verdict, in this thread. Never raises (but for a pool's own hard limit)."""
        try:
            ready = self.prepare(delivery)
            if not isinstance(ready, Ready):
                return ready
            try:
                early = self.ack_early(ready)
                outcome = self.execute(ready, watch)
                return self.closed(self.settled(ready, outcome, watch), early)
            finally:
                self.leave(ready)
                self.over(delivery)
        except Exception as error:  # noqa: BLE001  whatever went wrong, the message must not be lost
            return self.stumbled(delivery, error)

    async def arun(self, delivery: Delivery, watch: Watch, bridge: Callable[..., Any]) -> Verdict:
        """As ``run``, on an event loop; ``bridge(f, *args)`` awaits blocking work in a thread."""
        try:
            ready = await bridge(self.prepare, delivery)
            if not isinstance(ready, Ready):
                verdict: Verdict = ready
                return verdict
            try:
                early = await bridge(self.ack_early, ready)
                outcome = await self.aexecute(ready, watch)
                return self.closed(await bridge(self.settled, ready, outcome, watch), early)
            finally:
                if ready.admitted is not NOTHING:
                    await bridge(self.leave, ready)
                self.over(delivery)
        except Exception as error:  # noqa: BLE001
            return self.stumbled(delivery, error)

    def leave(self, ready: Ready) -> None:
        """The run is over, however it ended: others may have what it held. Never raises."""
        self.admission.leave(ready.admitted)

    def over(self, delivery: Delivery) -> None:
        """Tell the hooks that nothing more is done for this delivery."""
        if self._hooks.wants("task_settled"):
            self._hooks.fire("task_settled", delivery=delivery)

    def hurry(self) -> None:
        """Do not wait for absent services any more: the worker is stopping."""
        self._patience.hurry()

    def hurry_by(self, moment: float) -> None:
        """Wait for no absent service past this moment (of the app's clock, monotonic)."""
        self._patience.until = moment

    def settled(self, ready: Ready, outcome: Outcome, watch: Watch) -> Verdict:
        """A watch that cuts tasks short for its driver's sake says so here: they are lost, not at fault."""
        cut_short = getattr(watch, "cut_short", None)
        end = cut_short(outcome, ready.delivery) if cut_short is not None else None
        return self.settle(ready, outcome) if end is None else self.lost(ready.delivery, end)

    def ack_early(self, ready: Ready) -> bool:
        """Delete the message now if its task wants that (``acks_late=False``); was it?"""
        if self._wants(ready.task, "acks_late"):
            return False
        self.settler.eased(ready.delivery)
        self._patience.call(
            f"acknowledging {label(ready.envelope)} early", lambda: self._broker().ack([ready.delivery])
        )
        if self._claims is not None:
            self._claims.forget([ready.delivery.body])
        return True

    def closed(self, verdict: Verdict, early: bool) -> Verdict:
        """The verdict on a message that was perhaps acknowledged early."""
        # what was deleted can still be buried, but neither acknowledged nor given back
        return Ack(already=True) if early and not isinstance(verdict, Bury) else verdict

    def _wants(self, task: Task[..., Any], option: str) -> bool:
        return self.settler.wants(task, option)

    def stumbled(self, delivery: Delivery, error: Exception) -> Verdict:
        """The verdict when something else than the task went wrong: it is given back."""
        if isinstance(error, OperationalError):
            logger.error("message %s of %s is given back: %s", delivery.message_id, delivery.queue, error)
            return release_after(delivery.receive_count)
        logger.error(
            "message %s of %s could not be handled and is given back",
            delivery.message_id,
            delivery.queue,
            exc_info=error,
        )
        return release_after(delivery.receive_count)

    # --- prepare ------------------------------------------------------------------------------

    def prepare(self, delivery: Delivery) -> Ready | Verdict:
        """May it run? Otherwise the verdict, with everything done that follows from it."""
        if not self.settler.holds(delivery):
            logger.warning(
                "message %s of %s was lost before its task began", delivery.message_id, delivery.queue
            )
            return ABANDON
        try:
            envelope = self._decode(delivery)
        except PayloadMissing as error:
            return self._without_payload(delivery, error)
        except MessageError as error:
            return self._bury(delivery, error)
        if self._hooks.wants("task_received"):
            self._hooks.fire("task_received", delivery=delivery, envelope=envelope)
        if (refused := self._not_now(delivery, envelope)) is not None:
            return refused
        try:
            return self._checked(delivery, envelope)
        except MessageError as error:
            self.settler.free(envelope)
            return self._bury(delivery, error)

    def _checked(self, delivery: Delivery, envelope: Envelope) -> Ready | Verdict:
        task = self._registry[envelope.task]
        if not _refers(envelope):
            self._bind(task, envelope.args, envelope)
        records = self._records(task, envelope)
        found = self._known(delivery, envelope, records)
        if found is None:
            return self._ready(delivery, envelope, task, None, records)
        record, version = found
        if record.final:
            task_logger.info("task %s had already ended in %s; not run again", label(envelope), record.state)
            dead_letter = self._wants(task, "dead_letter")
            return self.settler.conclude(envelope, delivery.queue, record, dead_letter, again=True)
        if record.state == states.RETRY and record.retries > envelope.retries:
            return self._stale(delivery, envelope, task, record, version, records)
        return self._ready(delivery, envelope, task, version, records)

    def _decode(self, delivery: Delivery) -> Envelope:
        def once() -> Envelope:
            return self._codec.decode(
                delivery.body, delivery.queue, delivery.message_id, sent_at=delivery.sent_at
            )

        try:
            return once()
        except OperationalError:  # its text lies elsewhere
            return self._patience.call(f"reading message {delivery.message_id} of {delivery.queue}", once)

    def _without_payload(self, delivery: Delivery, error: PayloadMissing) -> Verdict:
        """A large message whose text is gone: a copy of one that was settled, or a loss to be seen."""
        head = error.head.with_(id=error.head.id or delivery.message_id)
        if self._store is not None:
            store = self._store
            record = self._patience.call(f"reading the record of {label(head)}", lambda: store.read(head.id))
            if record is not None and (record.final or record.retries > head.retries):
                task_logger.info("task %s: a duplicate of try %d is dropped", label(head), head.retries)
                return ACK
        return self._bury(delivery, error)

    def _not_now(self, delivery: Delivery, envelope: Envelope) -> Verdict | None:
        now = self._clock.time()
        if envelope.expires is not None and envelope.expires <= now:
            records = not envelope.headers.get(IGNORE_RESULT)
            return self.settler.revoke(envelope, delivery.queue, TaskRevokedError("expired"), records)
        if (why := self.revoked(envelope)) is not None:
            return self._revoke(delivery, envelope, why)
        if not self._eager and (rest := hop.remaining(envelope, now)):
            if is_fifo(delivery.queue):
                return Release(rest)
            task_logger.debug("task %s is not due for %.1f s: sent on", label(envelope), rest)
            return self.settler.hop(hop.hopped(envelope), delivery)
        return None

    def _revoke(self, delivery: Delivery, envelope: Envelope, why: str) -> Verdict:
        task = self._registry.get(envelope.task)
        records = not envelope.headers.get(IGNORE_RESULT) if task is None else self._records(task, envelope)
        return self.settler.revoke(envelope, delivery.queue, TaskRevokedError(why), records)

    def _bind(self, task: Task[..., Any], args: tuple[Any, ...], envelope: Envelope) -> None:
        try:
            task.check_arguments(args, envelope.kwargs)
        except TypeError as error:
            raise InvalidArguments(str(error)) from None

    def _records(self, task: Task[..., Any], envelope: Envelope) -> bool:
        if self._store is None or self._eager:  # inline: the caller is right here and asks
            return self._store is not None
        if envelope.chord is not None:  # what follows its group reads its result
            return True
        return not (self._wants(task, "ignore_result") or envelope.headers.get(IGNORE_RESULT))

    def _known(self, delivery: Delivery, envelope: Envelope, records: bool) -> tuple[Record, Version] | None:
        """The task's record, read only where a second message or run is likely: it costs a call."""
        store = self._store
        if not records or store is None or not may_have_run(delivery, envelope, self._conf):
            return None
        return self._patience.call(
            f"reading the record of {label(envelope)}", lambda: store.read_versioned(envelope.id)
        )

    def _stale(
        self,
        delivery: Delivery,
        envelope: Envelope,
        task: Task[..., Any],
        record: Record,
        version: Version,
        records: bool,
    ) -> Ready | Verdict:
        """A later try is on record already: this is the message of an earlier one."""
        if is_fifo(delivery.queue):  # there a retry is this very message again
            return self._ready(delivery, envelope.with_(retries=record.retries), task, version, records)
        if delivery.receive_count == 1:
            # Another copy of this message wrote that record and is not deleted before it has sent the retry.
            task_logger.info("task %s: a duplicate of try %d is dropped", label(envelope), envelope.retries)
            return ACK
        if record.retry_at is None:
            return self._ready(delivery, envelope, task, version, records)
        return self.settler.send_again(envelope.with_(retries=record.retries), delivery, record.retry_at)

    def _ready(
        self,
        delivery: Delivery,
        envelope: Envelope,
        task: Task[..., Any],
        known: Version | None,
        records: bool,
    ) -> Ready | Verdict:
        if is_fifo(delivery.queue) and not records:
            envelope = envelope.with_(retries=max(envelope.retries, delivery.receive_count - 1))
        args = self._arguments(envelope, task)
        if isinstance(args, Release):
            return args
        if isinstance(args, Outcome):
            request = self._request(delivery, envelope, task, records)
            return self.settle(Ready(delivery, envelope, task, request, known, records), args)
        whole = envelope if args is envelope.args else envelope.with_(args=args)  # keys are made of arguments
        admitted = NOTHING if self._eager else self._admit(task, whole, delivery)
        if isinstance(admitted, Wait):
            return self._defer(delivery, envelope, admitted)
        if isinstance(admitted, Record):
            return self.settler.adopt(admitted, task, envelope, delivery, known, records)
        try:
            started = self._start(delivery, envelope, task, known, records)
            if started is not None and not isinstance(started, str):
                self.admission.leave(admitted, ran=False)
                return started
            self.settler.started(envelope, task)
            request = self._request(delivery, envelope, task, records)
            request.args = args
            return Ready(delivery, envelope, task, request, started, records, admitted, args)
        except BaseException:
            self.admission.leave(admitted, ran=False)
            raise

    def _arguments(self, envelope: Envelope, task: Task[..., Any]) -> tuple[Any, ...] | Outcome | Release:
        if not _refers(envelope):
            return envelope.args
        found = self._patience.call(
            f"fetching the arguments of {label(envelope)}", lambda: self._gatherer.arguments(envelope, task)
        )
        if isinstance(found, tuple):
            self._bind(task, found, envelope)
        return found

    def _admit(
        self, task: Task[..., Any], envelope: Envelope, delivery: Delivery
    ) -> Admitted | Wait | Record:
        if not self.admission.asks(task, envelope):
            return NOTHING
        return self._patience.call(
            f"admitting {label(envelope)}", lambda: self.admission.admit(task, envelope, delivery)
        )

    def _defer(self, delivery: Delivery, envelope: Envelope, wait: Wait) -> Verdict:
        task_logger.debug(
            "task %s comes back in %.1f s: %s", label(envelope), wait.due - self._clock.time(), wait.why
        )
        again = delivery.receive_count > 1
        most = self._broker().describe(delivery.queue).max_receive_count if again else None
        last = most is not None and delivery.receive_count >= most
        return self.settler.defer(envelope, delivery, wait.due, last)

    def _start(
        self,
        delivery: Delivery,
        envelope: Envelope,
        task: Task[..., Any],
        known: Version | None,
        records: bool,
    ) -> Version | Verdict | None:
        """Record STARTED where that is wanted: the version of the record that is there, or the verdict
        when it turns out to have ended."""
        store = self._store
        if not records or store is None or not self._wants(task, "track_started"):
            return known
        started = Record(envelope.id, states.STARTED, {"hostname": self._hostname}, retries=envelope.retries)
        standing, version = self._patience.call(
            f"recording the start of {label(envelope)}", lambda: store.progress(started, known)
        )
        if not standing.final:
            return version
        # it ended, or was revoked, behind our back
        task_logger.info("task %s had already ended in %s; not run", label(envelope), standing.state)
        return self.settler.conclude(envelope, delivery.queue, standing, self._wants(task, "dead_letter"))

    def _request(
        self, delivery: Delivery, envelope: Envelope, task: Task[..., Any], records: bool
    ) -> Request:
        return request_of(delivery, envelope, task, self._conf, records, self._hostname, self._eager)

    def _bury(self, delivery: Delivery, error: MessageError) -> Bury:
        said = f"{error.reason}: {printable(str(error))}"
        task_logger.error("message %s of %s is buried: %s", delivery.message_id, delivery.queue, said)
        self._hooks.fire("task_rejected", delivery=delivery, reason=error.reason, detail=str(error))
        return Bury(error.reason, str(error))

    # --- execute ------------------------------------------------------------------------------

    def execute(self, ready: Ready, watch: Watch) -> Outcome:
        """Run the task's function. Never raises."""
        self.before(ready)
        outcome = call_one(ready.task, ready.request, ready.args, ready.envelope.kwargs, watch)
        return self.after(ready, outcome)

    async def aexecute(self, ready: Ready, watch: Watch) -> Outcome:
        """As ``execute``, on the event loop."""
        self.before(ready)
        outcome = await acall_one(ready.task, ready.request, ready.args, ready.envelope.kwargs, watch)
        return self.after(ready, outcome)

    def before(self, ready: Ready) -> None:
        """Tell the hooks that it starts."""
        if self._hooks.wants("task_prerun"):
            self._hooks.fire("task_prerun", task=ready.task, request=ready.request)

    def after(self, ready: Ready, outcome: Outcome) -> Outcome:
        """Tell the hooks that it ended."""
        if self._hooks.wants("task_postrun"):
            self._hooks.fire("task_postrun", task=ready.task, request=ready.request, outcome=outcome)
        return outcome

    # --- settle -------------------------------------------------------------------------------

    def settle(self, ready: Ready, outcome: Outcome) -> Verdict:
        """Record the end, send what follows, give the verdict."""
        return self.settler.settle(ready, outcome)

    def lost(self, delivery: Delivery, end: Died | TimedOut | Returned | Cancelled) -> Verdict:
        """What becomes of a delivery whose run ended without a verdict. Never raises."""
        if isinstance(end, Returned):
            return Release(0.0)
        try:
            envelope = self._decode(delivery)
            if (known := self._registry.get(envelope.task)) is not None:
                self.admission.vacate(known, envelope, delivery)
            if isinstance(end, Cancelled):
                return self._revoke(delivery, envelope, "terminated" if end.started else "revoked")
            task = self._registry[envelope.task]
            records = self._records(task, envelope)
            found = self._known_after_loss(envelope, records)
            if found is not None and found[0].final:
                dead_letter = self._wants(task, "dead_letter")
                return self.settler.conclude(envelope, delivery.queue, found[0], dead_letter, again=True)
            ready = Ready(
                delivery,
                envelope,
                task,
                self._request(delivery, envelope, task, records),
                found[1] if found else None,
                records,
            )
            return self._judge_loss(ready, end)
        except MessageError as error:
            return self._bury(delivery, error)
        except CloudQError as error:
            return self.stumbled(delivery, error)

    def _known_after_loss(self, envelope: Envelope, records: bool) -> tuple[Record, Version] | None:
        if not records or self._store is None:
            return None
        return self._store.read_versioned(envelope.id)

    def _judge_loss(self, ready: Ready, end: Died | TimedOut) -> Verdict:
        if isinstance(end, TimedOut):
            error: CloudQError = TimeLimitExceeded(
                f"ran past its time limit of {end.limit:g} s and was stopped"
            )
            return self.settle(ready, judge(ready.task, ready.request, error, end.limit))
        delivery = ready.delivery
        limit = self._broker().describe(delivery.queue).max_receive_count
        error = WorkerLostError(
            f"the process that ran it ended: {end.detail} (delivery {delivery.receive_count})"
        )
        # a message acknowledged early does not come again
        again = self._wants(ready.task, "reject_on_worker_lost") and self._wants(ready.task, "acks_late")
        if again and (limit is None or delivery.receive_count < limit):
            task_logger.error("task %s: %s; it will be delivered again", label(ready.envelope), error)
            return Release(self._conf.worker_lost_wait)
        verdict = self.settle(ready, Outcome(states.FAILURE, error=error, traceback=str(error)))
        return Bury("worker_lost", str(error)) if again and isinstance(verdict, Ack) else verdict


def _refers(envelope: Envelope) -> bool:
    """Are some of its arguments not in the message, but in the store?"""
    headers = envelope.headers
    return bool(headers) and (JOINED in headers or ERRBACK in headers)
