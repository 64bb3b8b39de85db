"""Prepare: from a delivery to a run that may begin, or to the verdict on what must not.

Every task comes through here, so what a task does not use is not asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from cloudq import states
from cloudq.backends.base import Version
from cloudq.brokers.base import Broker, Delivery, is_fifo
from cloudq.clock import Clock
from cloudq.conf import Conf
from cloudq.delays import hop
from cloudq.errors import InvalidArguments, MessageError, OperationalError, PayloadMissing, TaskRevokedError
from cloudq.execution.outcome import Outcome
from cloudq.hooks import RUNS_EVERYWHERE, Hooks
from cloudq.message import Envelope
from cloudq.outgoing import IGNORE_RESULT
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
from cloudq.runtime.settle import Settler
from cloudq.runtime.verdict import ABANDON, ACK, Bury, Release, Verdict
from cloudq.serializers.codec import Codec
from cloudq.task import Task
from cloudq.workflows.words import ERRBACK, JOINED

logger = logging.getLogger("cloudq.runtime")
#: Characters of a message that takes long to read.
LONG: Final = 64 * 1024

task_logger = logging.getLogger("cloudq.task")


class Preparation:
    """Decides whether a delivery may run; one per lifecycle."""

    def __init__(
        self,
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
        eager: bool,
    ) -> None:
        self._registry = registry
        self._codec = codec
        self._store = store
        self._broker = broker
        self._settler = settler
        self._conf = conf
        self._hooks = hooks
        self._heard = hooks.of_runs
        self._clock = clock
        self._hostname = hostname
        self._patience = patience
        self._admission = admission
        self._eager = eager
        self._gatherer = Gatherer(store)
        #: Why a task must not run although its message says so ("revoked"), or None. From memory.
        self.revoked: Callable[[Envelope], str | None] = lambda envelope: None

    def prepare(self, delivery: Delivery) -> Ready | Verdict:
        """May it run? Otherwise the verdict, with everything done that follows from it."""
        if not self._settler.holds(delivery):
            logger.warning(
                "message %s of %s was lost before its task began", delivery.message_id, delivery.queue
            )
            return ABANDON
        try:
            envelope = self.decode(delivery)
        except PayloadMissing as error:
            return self._without_payload(delivery, error)
        except MessageError as error:
            return self.bury(delivery, error)
        if (self._heard or RUNS_EVERYWHERE) and self._hooks.wants("task_received"):
            self._hooks.fire("task_received", delivery=delivery, envelope=envelope)
        if (refused := self._not_now(delivery, envelope)) is not None:
            return refused
        try:
            return self._checked(delivery, envelope)
        except MessageError as error:
            self._settler.uniques.free(envelope)
            return self.bury(delivery, error)

    def at_once(self, delivery: Delivery) -> Ready | None:
        """A run that may begin without anybody being asked, for drivers whose thread must not wait; None: it takes
        ``prepare``, which may. What is long, and listeners to hooks, are taken to be slow."""
        if self._heard or RUNS_EVERYWHERE or len(delivery.body) > LONG or not self._settler.holds(delivery):
            return None
        envelope = self._codec.decode_at_once(delivery.body, delivery.message_id, sent_at=delivery.sent_at)
        if envelope is None or envelope.headers or envelope.expires is not None or envelope.eta is not None:
            return None
        task = self._registry.get(envelope.task)
        if task is None or self.revoked(envelope) is not None or self._admission.asks(task, envelope):
            return None
        records = self.records(task, envelope)
        if records and (
            self._settler.wants(task, "track_started") or may_have_run(delivery, envelope, self._conf)
        ):
            return None
        if not records and is_fifo(delivery.queue):
            return None
        try:
            task.check_arguments(envelope.args, envelope.kwargs)
        except TypeError:
            return None
        return self.ready(delivery, envelope, task, None, records)

    def _checked(self, delivery: Delivery, envelope: Envelope) -> Ready | Verdict:
        task = self._registry[envelope.task]
        if not (envelope.headers and _refers(envelope)):
            _bind(task, envelope.args, envelope)
        records = self.records(task, envelope)
        found = self._known(delivery, envelope) if records else None
        if found is None:
            return self._ready(delivery, envelope, task, None, records)
        record, version = found
        if record.final:
            task_logger.info("task %s had already ended in %s; not run again", label(envelope), record.state)
            dead_letter = self._settler.wants(task, "dead_letter")
            return self._settler.conclude(envelope, delivery.queue, record, dead_letter, again=True)
        if record.state == states.RETRY and record.retries > envelope.retries:
            return self._stale(delivery, envelope, task, record, version, records)
        return self._ready(delivery, envelope, task, version, records)

    def decode(self, delivery: Delivery) -> Envelope:
        """Raises MessageError, and OperationalError for a text that lies where nobody answers."""
        body, queue, message_id = delivery.body, delivery.queue, delivery.message_id
        try:
            return self._codec.decode(body, queue, message_id, sent_at=delivery.sent_at)
        except OperationalError:  # its text lies elsewhere
            return self._patience.call(
                f"reading message {message_id} of {queue}",
                lambda: self._codec.decode(body, queue, message_id, sent_at=delivery.sent_at),
            )

    def _without_payload(self, delivery: Delivery, error: PayloadMissing) -> Verdict:
        """A large message whose text is gone: a copy of one that was settled, or a loss to be seen."""
        head = error.head.with_(id=error.head.id or delivery.message_id)
        if self._store is not None:
            store = self._store
            record = self._patience.call(f"reading the record of {label(head)}", lambda: store.read(head.id))
            if record is not None and (record.final or record.retries > head.retries):
                task_logger.info("task %s: a duplicate of try %d is dropped", label(head), head.retries)
                return ACK
        return self.bury(delivery, error)

    def _not_now(self, delivery: Delivery, envelope: Envelope) -> Verdict | None:
        if envelope.expires is not None and envelope.expires <= self._clock.time():
            records = not envelope.headers.get(IGNORE_RESULT)
            return self._settler.revoke(envelope, delivery.queue, TaskRevokedError("expired"), records)
        if (why := self.revoked(envelope)) is not None:
            return self.revoke(delivery, envelope, why)
        if envelope.eta is None or self._eager:
            return None
        if rest := hop.remaining(envelope, self._clock.time()):
            if is_fifo(delivery.queue):
                return Release(rest)
            task_logger.debug("task %s is not due for %.1f s: sent on", label(envelope), rest)
            return self._settler.returns.hop(hop.hopped(envelope), delivery)
        return None

    def revoke(self, delivery: Delivery, envelope: Envelope, why: str) -> Verdict:
        """It is not to run, or was stopped."""
        task = self._registry.get(envelope.task)
        records = not envelope.headers.get(IGNORE_RESULT) if task is None else self.records(task, envelope)
        return self._settler.revoke(envelope, delivery.queue, TaskRevokedError(why), records)

    def records(self, task: Task[..., Any], envelope: Envelope) -> bool:
        """Is the result of this call to be stored?"""
        if self._store is None or self._eager:  # inline: the caller is right here and asks
            return self._store is not None
        if envelope.chord is not None:  # what follows its group reads its result
            return True
        return not (self._settler.wants(task, "ignore_result") or envelope.headers.get(IGNORE_RESULT))

    def _known(self, delivery: Delivery, envelope: Envelope) -> tuple[Record, Version] | None:
        """The task's record, read only where a second message or run is likely: it costs a call."""
        store = self._store
        if store is None or not may_have_run(delivery, envelope, self._conf):
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
        return self._settler.returns.send_again(
            envelope.with_(retries=record.retries), delivery, record.retry_at
        )

    def _ready(
        self,
        delivery: Delivery,
        envelope: Envelope,
        task: Task[..., Any],
        known: Version | None,
        records: bool,
    ) -> Ready | Verdict:
        if not records and is_fifo(delivery.queue):
            envelope = envelope.with_(retries=max(envelope.retries, delivery.receive_count - 1))
        args, whole = envelope.args, envelope
        if envelope.headers and _refers(envelope):
            found = self._arguments(envelope, task)
            if isinstance(found, Release):
                return found
            if isinstance(found, Outcome):
                return self._settler.settle(self.ready(delivery, envelope, task, known, records), found)
            args, whole = found, envelope.with_(args=found)  # keys are made of arguments
        if self._eager or not self._admission.asks(task, envelope):
            return self._begun(delivery, envelope, task, known, records, NOTHING, args)
        admitted = self._admit(task, whole, delivery)
        if isinstance(admitted, Wait):
            return self._defer(delivery, envelope, admitted)
        if isinstance(admitted, Record):
            return self._settler.adopt(admitted, task, envelope, delivery, known, records)
        try:
            begun = self._begun(delivery, envelope, task, known, records, admitted, args)
        except BaseException:
            self._admission.leave(admitted, ran=False)
            raise
        if not isinstance(begun, Ready):
            self._admission.leave(admitted, ran=False)
        return begun

    def _begun(
        self,
        delivery: Delivery,
        envelope: Envelope,
        task: Task[..., Any],
        known: Version | None,
        records: bool,
        admitted: Admitted,
        args: tuple[Any, ...],
    ) -> Ready | Verdict:
        """It begins now: what is to be written then is written."""
        if records:
            started = self._start(delivery, envelope, task, known)
            if started is not None and not isinstance(started, str):
                return started
            known = started
        if envelope.headers:
            self._settler.uniques.started(envelope, task)
        return self.ready(delivery, envelope, task, known, records, admitted, args)

    def ready(
        self,
        delivery: Delivery,
        envelope: Envelope,
        task: Task[..., Any],
        known: Version | None,
        records: bool,
        admitted: Admitted = NOTHING,
        args: tuple[Any, ...] | None = None,
    ) -> Ready:
        """All that is known of the run, with its request. ``args``: those of the message, if none are given."""
        if args is None:
            args = envelope.args
        conf = self._conf
        late = conf.task_acks_late if task.acks_late is None else bool(task.acks_late)
        request = request_of(delivery, envelope, task, conf, records, self._hostname, self._eager, args)
        return Ready(delivery, envelope, task, request, late, known, records, admitted, args)

    def _arguments(self, envelope: Envelope, task: Task[..., Any]) -> tuple[Any, ...] | Outcome | Release:
        found = self._patience.call(
            f"fetching the arguments of {label(envelope)}", lambda: self._gatherer.arguments(envelope, task)
        )
        if isinstance(found, tuple):
            _bind(task, found, envelope)
        return found

    def _admit(
        self, task: Task[..., Any], envelope: Envelope, delivery: Delivery
    ) -> Admitted | Wait | Record:
        return self._patience.call(
            f"admitting {label(envelope)}", lambda: self._admission.admit(task, envelope, delivery)
        )

    def _defer(self, delivery: Delivery, envelope: Envelope, wait: Wait) -> Verdict:
        task_logger.debug(
            "task %s comes back in %.1f s: %s", label(envelope), wait.due - self._clock.time(), wait.why
        )
        again = delivery.receive_count > 1
        most = self._broker().describe(delivery.queue).max_receive_count if again else None
        last = most is not None and delivery.receive_count >= most
        return self._settler.returns.defer(envelope, delivery, wait.due, last)

    def _start(
        self, delivery: Delivery, envelope: Envelope, task: Task[..., Any], known: Version | None
    ) -> Version | Verdict | None:
        """Record STARTED where that is wanted: the version of the record that is there, or the verdict
        when it turns out to have ended."""
        store = self._store
        if store is None or not self._settler.wants(task, "track_started"):
            return known
        started = Record(envelope.id, states.STARTED, {"hostname": self._hostname}, retries=envelope.retries)
        standing, version = self._patience.call(
            f"recording the start of {label(envelope)}", lambda: store.progress(started, known)
        )
        if not standing.final:
            return version
        # it ended, or was revoked, behind our back
        task_logger.info("task %s had already ended in %s; not run", label(envelope), standing.state)
        dead_letter = self._settler.wants(task, "dead_letter")
        return self._settler.conclude(envelope, delivery.queue, standing, dead_letter)

    def bury(self, delivery: Delivery, error: MessageError) -> Bury:
        """It can never run."""
        said = f"{error.reason}: {printable(str(error))}"
        task_logger.error("message %s of %s is buried: %s", delivery.message_id, delivery.queue, said)
        self._hooks.fire("task_rejected", delivery=delivery, reason=error.reason, detail=str(error))
        return Bury(error.reason, str(error))


def _bind(task: Task[..., Any], args: tuple[Any, ...], envelope: Envelope) -> None:
    try:
        task.check_arguments(args, envelope.kwargs)
    except TypeError as error:
        raise InvalidArguments(str(error)) from None


def _refers(envelope: Envelope) -> bool:
    """Are some of its arguments not in the message, but in the store?"""
    return JOINED in envelope.headers or ERRBACK in envelope.headers
