"""Settle: from an outcome to a verdict.

Always in this order: the record, then what follows from it, then the verdict; the driver acks
last. Every step may happen twice: the record is written under a condition and the one that stands
decides what follows; what follows has derived ids (decisions 1, 3, 6, 7).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from cloudq import states
from cloudq.backends.base import Version
from cloudq.brokers.base import Delivery
from cloudq.clock import Clock
from cloudq.conf import Conf
from cloudq.errors import ImproperlyConfigured, Reject, Replace, SerializationError, ValueTooLarge
from cloudq.execution.outcome import Outcome
from cloudq.hooks import RUNS_EVERYWHERE, Hooks
from cloudq.message import Envelope
from cloudq.producer import Producer
from cloudq.results.push import REPLY_TO, announcement
from cloudq.results.record import Record
from cloudq.results.store import ResultStore
from cloudq.runtime import limits
from cloudq.runtime.follow import UNSENDABLE, Follower
from cloudq.runtime.idempotency import Claim
from cloudq.runtime.naming import label
from cloudq.runtime.patience import Patience
from cloudq.runtime.ready import Ready
from cloudq.runtime.records import Records
from cloudq.runtime.returns import Returns
from cloudq.runtime.uniques import Uniques
from cloudq.runtime.verdict import ABANDON, ACK, Bury, Release, Verdict
from cloudq.task import Task
from cloudq.workflows.words import ERRBACK, JOINED

logger = logging.getLogger("cloudq.task")


class Settler:
    """Writes records and sends what follows. ``holds`` says whether a delivery's lease is still ours."""

    def __init__(
        self,
        store: ResultStore | None,
        producer: Producer,
        conf: Conf,
        hooks: Hooks,
        clock: Clock,
        hostname: str,
        patience: Patience,
        follower: Follower,
        post: Callable[[str, str], None] | None = None,
    ) -> None:
        self._store = store
        self._producer = producer
        self._conf = conf
        self._hooks = hooks
        self._heard = hooks.of_runs
        self._clock = clock
        self._patience = patience
        self._follower = follower
        self._post = post
        self._records = Records(conf, clock, hostname, follower)
        self.uniques = Uniques(store, conf, clock, patience)
        self.returns = Returns(producer, clock, patience)
        self.holds: Callable[[Any], bool] = lambda delivery: True
        #: Called before a delivery is acknowledged whose task has yet to run.
        self.eased: Callable[[Any], None] = lambda delivery: None

    @property
    def can_hold(self) -> bool:
        """Does the driver keep a message that is to wait under its lease (``Hold``)?"""
        return self.returns.can_hold

    @can_hold.setter
    def can_hold(self, yes: bool) -> None:
        self.returns.can_hold = yes

    def at_once(self, ready: Ready, outcome: Outcome) -> bool:
        """Does ``settle`` wait for nobody: is there nothing to write or to send, and nobody to be told?"""
        return (
            outcome.state == states.SUCCESS
            and not (self._heard or RUNS_EVERYWHERE)
            and not ready.envelope.headers
            and ready.admitted.claim is None
            and not self._stores(ready, outcome)
            and self._is_alone(ready)
        )

    def settle(self, ready: Ready, outcome: Outcome) -> Verdict:
        """Raises OperationalError when a service stayed away longer than patience lasts."""
        # a message acknowledged before its task ran is under no lease any more
        if ready.late and not self.holds(ready.delivery):
            logger.warning(
                "task %s: its lease was lost while it ran; nothing is recorded", label(ready.envelope)
            )
            return ABANDON
        if outcome.state == states.SUCCESS:
            return self._end(ready, outcome)
        if outcome.state == states.RETRY:
            return self._retry(ready, outcome)
        if outcome.state == states.IGNORED:
            return self._ignored(ready, outcome)
        if outcome.state == states.REJECTED:
            return self._reject(ready, outcome)
        return self._end(ready, outcome)

    # --- the final states ---------------------------------------------------------------------

    def _end(self, ready: Ready, outcome: Outcome) -> Verdict:
        claim, stored = ready.admitted.claim, self._stores(ready, outcome)
        if claim is None and not stored and outcome.state == states.SUCCESS and self._is_alone(ready):
            self._report(ready, outcome)  # nobody asks for a record, and nothing follows from it
            if ready.envelope.headers:
                self.uniques.free(ready.envelope)
            return ACK
        record = self._records.of(ready, outcome)
        if claim is not None and outcome.state == states.SUCCESS:
            try:
                first = self._keep(claim, record, ready)
            except (SerializationError, ValueTooLarge, ImproperlyConfigured) as error:
                return self._end(ready, _unstorable(ready, outcome, error))
            if first is not record:
                return self._outrun(ready, first)
        if stored:
            try:
                standing = self._finish(record, ready)
            except (SerializationError, ValueTooLarge, ImproperlyConfigured) as error:
                if outcome.state != states.SUCCESS:
                    raise
                return self._end(ready, _unstorable(ready, outcome, error))
            self._announce(ready.envelope, standing)
        else:
            standing = record
        if standing is record:
            self._report(ready, outcome)
        else:
            logger.info("task %s had already ended in %s; that stands", label(ready.envelope), standing.state)
        again = standing is not record or ready.delivery.receive_count > 1
        dead_letter = standing.state == states.FAILURE and self.wants(ready.task, "dead_letter")
        return self.conclude(ready.envelope, ready.delivery.queue, standing, dead_letter, again, stored)

    def _keep(self, claim: Claim, record: Record, ready: Ready) -> Record | None:
        """Keep a success for all who come with the same key, before anything else says that it ended."""
        task, what = ready.task, f"keeping the result of {label(ready.envelope)} for its key"
        return self._patience.call(
            what, lambda: claim.finish(record, task.result_serializer, task.idempotency_expires)
        )

    def _outrun(self, ready: Ready, first: Record | None) -> Verdict:
        """The claim was lost while the task ran: what counts is what its new owner makes of it."""
        logger.warning(
            "task %s: its claim was lost while it ran; its result is dropped", label(ready.envelope)
        )
        if first is None:  # still at work
            return self.returns.defer(
                ready.envelope, ready.delivery, self._clock.time() + 1.0, last_receipt=False
            )
        return self.adopt(first, ready.task, ready.envelope, ready.delivery, ready.known, ready.records)

    def adopt(
        self,
        first: Record,
        task: Task[..., Any],
        envelope: Envelope,
        delivery: Delivery,
        known: Version | None,
        records: bool,
    ) -> Verdict:
        """End as the one did who did the work of this key first."""
        logger.info("task %s is not run: %s did the same work", label(envelope), first.id)
        record = first.with_(
            id=envelope.id,
            retries=envelope.retries,
            root_id=envelope.root_id if envelope.root_id != envelope.id else None,
            parent_id=envelope.parent_id,
            group_id=envelope.group.id if envelope.group else None,
            children=tuple(self._follower.children(envelope)),
        )
        stored = self._store is not None and records
        if self._store is not None and stored:
            store = self._store
            record = self._patience.call(
                f"storing the result of {label(envelope)}",
                lambda: store.finish(record, known, serializer=task.result_serializer),
            )
            self._announce(envelope, record)
        dead_letter, again = self.wants(task, "dead_letter"), delivery.receive_count > 1
        return self.conclude(envelope, delivery.queue, record, dead_letter, again, stored)

    def _finish(self, record: Record, ready: Ready) -> Record:
        """The record that stands. A failure that is too long for the store is told in fewer words."""
        assert self._store is not None
        store = self._store
        # a task's own serializer is for what it returns: a failure can always be written
        serializer = ready.task.result_serializer if record.state == states.SUCCESS else None

        def write(record: Record) -> Record:
            return store.finish(record, ready.known, serializer=serializer)

        what = f"storing the result of {label(ready.envelope)}"
        try:
            return self._patience.call(what, lambda: write(record))
        except ValueTooLarge as error:
            if record.state == states.SUCCESS:
                raise
            logger.warning("%s: %s; it is shortened", what, error)
            short = record.shortened()
            standing = self._patience.call(what, lambda: write(short))
            return record if standing is short else standing

    def _announce(self, envelope: Envelope, record: Record) -> None:
        """Tell the client's reply queue. A word lost costs its waiter a second, and nothing else."""
        queue = envelope.headers.get(REPLY_TO)
        if self._post is None or not isinstance(queue, str):
            return
        try:
            self._post(queue, announcement(record))
        except Exception as error:  # noqa: BLE001  the result is stored, the task has ended
            logger.warning("announcing %s to %s: %s", label(envelope), queue, error)

    def conclude(
        self,
        envelope: Envelope,
        queue: str,
        record: Record,
        dead_letter: bool = False,
        again: bool = False,
        stored: bool = True,
    ) -> Verdict:
        """Send what follows from a final record and give the verdict. May happen any number of times.

        ``again``: it may have happened before; ``stored``: the record is in the store.
        """
        if not self._follower.alone(envelope):
            self._patience.call(
                f"sending what follows {label(envelope)}",
                lambda: self._follower.follow(envelope, record, again=again, stored=stored),
            )
        self.uniques.free(envelope)
        if dead_letter and record.state == states.FAILURE:
            return Bury("task_failed", f"{type(record.result).__name__}: {record.result}")
        if record.state == states.REJECTED:
            return _rejected(record.result)
        return ACK

    def _ignored(self, ready: Ready, outcome: Outcome) -> Verdict:
        envelope = ready.envelope
        self.uniques.free(envelope)
        if isinstance(outcome.error, Replace):
            return self._replaced(ready, outcome.error)
        logger.info("task %s ignored in %.3f s", label(envelope), outcome.runtime)
        if not self._follower.expects(envelope) or self._store is None:
            return ACK
        # Somebody waits for all members of a group: this one will have no result, and that is known.
        record = self._finish(self._records.of(ready, outcome).with_(result=None), ready)
        return self.conclude(envelope, ready.delivery.queue, record, again=ready.delivery.receive_count > 1)

    def _replaced(self, ready: Ready, replace: Replace) -> Verdict:
        """Another workflow takes the place of this task: its id, and what follows it."""
        envelope = ready.envelope
        if envelope.retries and ready.records and self._store is not None:
            store = self._store  # the record of an earlier try would make the new task look stale
            self._patience.call(f"replacing {label(envelope)}", lambda: store.forget(envelope.id))
        again = ready.delivery.receive_count > 1
        try:
            self._patience.call(
                f"sending what replaces {label(envelope)}",
                lambda: self._follower.replace(envelope, replace.signature, again=again),
            )
        except UNSENDABLE as error:  # then this task has failed
            trace = f"{type(error).__name__}: {error}"
            return self._end(ready, Outcome(states.FAILURE, error=error, traceback=trace))
        logger.info("task %s replaced itself by %s", label(envelope), replace.signature.get("task"))
        return ACK

    def _reject(self, ready: Ready, outcome: Outcome) -> Verdict:
        reason = outcome.error.reason if isinstance(outcome.error, Reject) else None
        if outcome.requeue:
            logger.info("task %s gave its message back: %s", label(ready.envelope), reason)
            return Release(0.0)
        if self._store is not None and ready.records:
            record = self._finish(self._records.of(ready, outcome), ready)
            self._announce(ready.envelope, record)
            if self._follower.expects(ready.envelope):
                self.conclude(ready.envelope, ready.delivery.queue, record, again=True)
        logger.warning("task %s rejected: %s", label(ready.envelope), reason)
        detail = "" if reason is None else str(reason)
        self._hooks.fire("task_rejected", delivery=ready.delivery, reason="rejected", detail=detail)
        self.uniques.free(ready.envelope)
        return _rejected(outcome.error)

    # --- retry --------------------------------------------------------------------------------

    def _retry(self, ready: Ready, outcome: Outcome) -> Verdict:
        envelope, retry = ready.envelope, outcome.retry
        assert retry is not None
        now = self._clock.time()
        due = retry.eta.timestamp() if retry.eta is not None else now + outcome.delay
        again = envelope.with_(retries=envelope.retries + 1, headers=limits.unmarked(envelope.headers))
        if retry.task_args is not None:
            own = {name: each for name, each in again.headers.items() if name not in (JOINED, ERRBACK)}
            again = again.with_(args=retry.task_args, headers=own)
        if retry.task_kwargs is not None:
            again = again.with_(kwargs=retry.task_kwargs)
        plain = retry.task_args is None and retry.task_kwargs is None and not retry.options
        if self._store is not None and ready.records:
            store = self._store
            record = self._records.of(ready, outcome).with_(
                retries=again.retries, done_at=None, retry_at=due if plain else None
            )
            standing = self._progress(store, record, ready)
            if standing.final:
                return self.conclude(envelope, ready.delivery.queue, standing, again=True)
        delay = max(0.0, due - now)
        logger.info(
            "task %s to be tried again in %.1f s (retry %d): %r",
            label(envelope),
            delay,
            again.retries,
            outcome.error,
        )
        if self._hooks.wants("task_retried"):
            self._hooks.fire(
                "task_retried", task=ready.task, request=ready.request, outcome=outcome, delay=delay
            )
        return self.returns.send_again(again, ready.delivery, due, retry.options)

    def _progress(self, store: ResultStore, record: Record, ready: Ready) -> Record:
        what = f"recording the retry of {label(ready.envelope)}"

        def write(record: Record) -> Record:
            return store.progress(record, ready.known)[0]

        try:
            return self._patience.call(what, lambda: write(record))
        except ValueTooLarge:
            return self._patience.call(what, lambda: write(record.shortened()))

    # --- parts --------------------------------------------------------------------------------

    def revoke(self, envelope: Envelope, queue: str, error: BaseException, records: bool) -> Verdict:
        """The task is not to run: record REVOKED."""
        record = Record(
            envelope.id,
            states.REVOKED,
            error,
            retries=envelope.retries,
            done_at=self._clock.time(),
            root_id=envelope.root_id,
            parent_id=envelope.parent_id,
        )
        if self._store is not None and records:
            store = self._store
            record = self._patience.call(
                f"recording {label(envelope)} as revoked", lambda: store.finish(record)
            )
            self._announce(envelope, record)
        logger.info("task %s revoked: %s", label(envelope), error)
        self._hooks.fire("task_revoked", envelope=envelope, reason=str(error), queue=queue)
        return self.conclude(envelope, queue, record)

    def _stores(self, ready: Ready, outcome: Outcome) -> bool:
        if self._store is None:
            return False
        if ready.records or outcome.state == states.SUCCESS:
            return ready.records
        return self.wants(ready.task, "store_errors_even_if_ignored")

    def wants(self, task: Task[..., Any], option: str) -> bool:
        """A task's option, or the app's setting where the task does not say."""
        own = getattr(task, option)
        return bool(getattr(self._conf, "task_" + option) if own is None else own)

    def _is_alone(self, ready: Ready) -> bool:
        """Does nothing come after its success?"""
        return not ready.request.added and self._follower.alone(ready.envelope)

    def _report(self, ready: Ready, outcome: Outcome) -> None:
        """One log line per task, and the hooks."""
        if outcome.state == states.SUCCESS:
            if logger.isEnabledFor(logging.INFO):
                logger.info("task %s succeeded in %.3f s", label(ready.envelope), outcome.runtime)
            if (self._heard or RUNS_EVERYWHERE) and self._hooks.wants("task_succeeded"):
                self._hooks.fire("task_succeeded", task=ready.task, request=ready.request, outcome=outcome)
            return
        name, error = label(ready.envelope), outcome.error
        if isinstance(error, ready.task.throws):
            logger.info("task %s failed as expected in %.3f s: %r", name, outcome.runtime, error)
        else:
            logger.error(
                "task %s failed in %.3f s: %r\n%s", name, outcome.runtime, error, outcome.traceback or ""
            )
        self._hooks.fire("task_failed", task=ready.task, request=ready.request, outcome=outcome)


def _rejected(error: Any) -> Bury:
    reason = error.reason if isinstance(error, Reject) else error
    return Bury("rejected", "" if reason is None else str(reason))


def _unstorable(
    ready: Ready, outcome: Outcome, error: SerializationError | ValueTooLarge | ImproperlyConfigured
) -> Outcome:
    """The task did its work, but nobody will see what it returned: that is a failure."""
    message = f"the result of {ready.envelope.task} cannot be stored: {error}"
    kind = ValueTooLarge(message) if isinstance(error, ValueTooLarge) else SerializationError(message, "")
    return Outcome(states.FAILURE, error=kind, traceback=message, runtime=outcome.runtime)


def release_after(receive_count: int) -> Release:
    """How long to leave a message alone that could not be settled: longer each time it comes back."""
    return Release(min(900.0, 15.0 * 2 ** min(receive_count, 6)))
