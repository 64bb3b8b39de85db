"""The one way out: calls become envelopes, envelopes become messages, messages reach the broker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from cloudq.brokers.base import Broker, Message, is_fifo, message_size
from cloudq.brokers.claimcheck import ClaimCheck
from cloudq.brokers.joined import JoinedSends
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.conf import Conf
from cloudq.delays import eventbridge, hop
from cloudq.delays.tiers import Tiers
from cloudq.errors import (
    MessageTooLarge,
    OperationalError,
    SendError,
    SerializationError,
    ServiceUnavailable,
)
from cloudq.hooks import Hooks
from cloudq.message import Envelope, PayloadRef
from cloudq.outgoing import Outgoing
from cloudq.preparation import Preparation
from cloudq.retry import backoff
from cloudq.serializers.codec import Codec

T = TypeVar("T")


class Producer:
    """Sends calls. ``defaults(name)`` gives the options a registered task has of its own."""

    def __init__(
        self,
        broker: Callable[[], Broker],
        codec: Codec,
        conf: Conf,
        hooks: Hooks,
        defaults: Callable[[str], Mapping[str, Any]],
        clock: Clock = SYSTEM_CLOCK,
        claims: ClaimCheck | None = None,
    ) -> None:
        self._broker = broker
        self._claims = claims
        self._codec = codec
        self._conf = conf
        self._hooks = hooks
        self._clock = clock
        self._joined = JoinedSends(broker)
        self._tiers = Tiers(broker, conf, clock)
        self._preparation = Preparation(conf, self._tiers, defaults, clock)

    # --- calls to envelopes -------------------------------------------------------------------

    def prepare(
        self, name: str, args: Iterable[Any], kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> Outgoing:
        """One call as it will be sent. Raises TypeError for unknown options, ValueError for bad ones."""
        return self._preparation.prepare(name, args, kwargs, options)

    def queue_for(self, queue: str | None, priority: int | None) -> str:
        """The queue, or its sibling for this priority. Raises ValueError, ImproperlyConfigured."""
        return self._preparation.queue_for(queue, priority)

    def unschedule(self, task_id: str, tries: Iterable[int] = (0,)) -> bool:
        """Delete the EventBridge schedules of these tries of a task that is not due yet.

        True when there was one: the task will not come. Always False where ``delay_tier`` is hop.
        """
        return self._tiers.unschedule(task_id, tries)

    def text_of(self, envelope: Envelope, queue: str) -> str:
        """The message as it would be sent, but for a claim check. Raises SerializationError."""
        return self._codec.encode(envelope, queue)

    def resend(
        self,
        envelope: Envelope,
        queue: str,
        due: float | None,
        group_id: str | None = None,
        quiet: bool = False,
    ) -> Outgoing:
        """The same task once more (a retry, a hop, a deferral), due at ``due``, for the same tenant."""
        now = self._clock.time()
        at = self._tiers.scheduled_at(due, now, queue)
        if at is not None:
            again = hop.may_repeat(envelope.with_(eta=due))
            return Outgoing(again, queue, group_id=group_id, quiet=quiet, at=at)
        delay = self._tiers.first_delay(due, now, queue)
        return Outgoing(envelope.with_(eta=due), queue, delay, group_id, quiet=quiet)

    # --- envelopes to the broker --------------------------------------------------------------

    def post(self, queue: str, body: str) -> None:
        """Send something that is no task, once."""
        self._broker().send(queue, [Message(body)])

    def send(self, calls: Sequence[Outgoing]) -> None:
        """Publish all; returns once the broker has every one of them.

        Raises SerializationError and MessageTooLarge before anything is sent, SendError (positions
        are those of ``calls``) when some were refused.
        """
        failures: dict[int, Exception] = {}
        messages = self._messages(calls, failures)
        queues: dict[str, list[int]] = {}
        scheduled = []
        for position, call in enumerate(calls):
            if position in failures:
                continue
            if call.at is None:
                queues.setdefault(call.queue, []).append(position)
            else:
                scheduled.append(position)
        sent: dict[int, str] = {}
        if scheduled:
            self._schedule(scheduled, calls, messages, failures, sent)
        for queue, positions in queues.items():
            self._send_queue(queue, positions, messages, calls[positions[0]].retry, failures, sent)
        if self._hooks.wants("task_sent"):
            for call in (calls[position] for position in sent if not calls[position].quiet):
                self._hooks.fire("task_sent", envelope=call.envelope, queue=call.queue)
        if failures and self._hooks.wants("publish_failed"):
            for position, error in failures.items():
                call = calls[position]
                self._hooks.fire("publish_failed", envelope=call.envelope, queue=call.queue, error=error)
        if failures:
            if len(calls) == 1:
                raise failures[0]
            raise SendError(failures, sent)

    def _messages(self, calls: Sequence[Outgoing], failures: dict[int, Exception]) -> list[Message]:
        """The calls as messages; large ones are kept elsewhere first, several at a time."""
        texts, messages, large = [], [], []
        most = self._limit()
        for position, call in enumerate(calls):
            text = self._text(call) if call.text is None else call.text
            message = self._message(call, text)
            limit = most if call.at is None else min(most, eventbridge.MAX_INPUT)
            if (size := self._size(call, message)) > limit:
                self._check_size(call, size, limit)
                large.append(position)
            texts.append(text)
            messages.append(message)
        if self._claims is not None and large:
            kept = self._claims.map(lambda position: self._keep(calls[position], texts[position]), large)
            for position, ref in zip(large, kept, strict=True):
                if isinstance(ref, PayloadRef):
                    text = self._codec.refer(calls[position].envelope, ref)
                    messages[position] = self._message(calls[position], text)
                else:
                    failures[position] = ref
        return messages

    def written(self, call: Outgoing) -> Outgoing:
        """The call, to be sent later as it is now. Raises SerializationError and MessageTooLarge."""
        found = call.with_(text=self._text(call))
        if self._claims is None and call.at is None:
            assert found.text is not None
            if (size := self._size(call, self._message(call, found.text))) > (limit := self._limit()):
                self._check_size(call, size, limit)
        return found

    def _text(self, call: Outgoing) -> str:
        if not call.quiet and self._hooks.wants("before_publish"):
            self._hooks.fire("before_publish", envelope=call.envelope, queue=call.queue)
        try:
            return self._codec.write(call.envelope, serializer=call.serializer, compression=call.compression)
        except SerializationError as error:
            message = f"the arguments of {call.envelope.task} cannot be written: {error.message}"
            raise SerializationError(message, error.path) from error

    def _size(self, call: Outgoing, message: Message) -> int:
        return message_size(message) if call.at is None else eventbridge.input_size(message.body)

    def _limit(self) -> int:
        own, queues = self._conf.broker_large_messages_over, self._broker().capabilities.max_body
        return queues if own is None or self._claims is None else min(own, queues)

    def _check_size(self, call: Outgoing, size: int, limit: int) -> None:
        if self._claims is not None:
            self._claims.check_size(size)
            return
        where = f"queue {call.queue}" if call.at is None else "an EventBridge schedule"
        raise MessageTooLarge(
            f"the message for {call.envelope.task} has {size} bytes; {where} takes {limit}. Set "
            "broker_large_messages (like s3://bucket/prefix) to keep large messages there, task_compression to "
            "make them smaller, or pass a reference to the data"
        )

    def _keep(self, call: Outgoing, text: str) -> PayloadRef | OperationalError:
        """Keep one message's text elsewhere, trying again as for the broker."""
        claims = self._claims
        assert claims is not None
        return self._patiently(call.retry, lambda: claims.store(text, due=call.envelope.eta))

    def _patiently(self, retry: bool, call: Callable[[], T]) -> T | OperationalError:
        """What ``call()`` gives, tried again while the service is unavailable; or its last error."""
        deadline = self._clock.monotonic() + (self._conf.task_publish_retry_timeout if retry else 0.0)
        for wait in backoff(0.1, 5.0):
            try:
                return call()
            except ServiceUnavailable as error:
                if self._clock.monotonic() + wait > deadline:
                    return error
                self._clock.sleep(wait)
            except OperationalError as error:
                return error
        raise AssertionError("backoff() never ends")

    def _schedule(
        self,
        positions: list[int],
        calls: Sequence[Outgoing],
        messages: Sequence[Message],
        failures: dict[int, Exception],
        sent: dict[int, str],
    ) -> None:
        """Have EventBridge send these: one request each, several at a time."""
        shots = self._tiers.one_shots()

        def put(position: int) -> str | Exception:
            call, message = calls[position], messages[position]
            envelope, at = call.envelope, call.at
            assert at is not None
            try:
                return self._patiently(
                    call.retry, lambda: shots.put(envelope.id, envelope.retries, call.queue, message, at)
                )
            except (MessageTooLarge, ValueError) as error:
                return error

        for position, outcome in zip(positions, shots.map(put, positions), strict=True):
            if isinstance(outcome, Exception):
                failures[position] = outcome
            else:
                sent[position] = outcome

    def _message(self, call: Outgoing, text: str) -> Message:
        body = self._codec.seal(text, call.queue)
        dedup_id = call.dedup_id
        if dedup_id is None and is_fifo(call.queue):
            # the id and try: a follow-up sent twice after a crash is dropped by SQS itself (decision 7)
            dedup_id = f"{call.envelope.id}-{call.envelope.retries}-{hop.hops(call.envelope)}"
        return Message(body, call.delay, call.group_id, dedup_id)

    def _send_queue(
        self,
        queue: str,
        positions: list[int],
        messages: Sequence[Message],
        retry: bool,
        failures: dict[int, Exception],
        sent: dict[int, str],
    ) -> None:
        """Send one queue's messages, trying again while the broker is unavailable."""
        broker = self._broker()
        deadline = self._clock.monotonic() + (self._conf.task_publish_retry_timeout if retry else 0.0)
        for wait in backoff(0.1, 5.0):
            try:
                if len(positions) == 1 and self._conf.task_publish_joined:
                    found = [self._joined.send(queue, messages[positions[0]])]
                else:
                    found = broker.send(queue, [messages[position] for position in positions])
            except SendError as error:
                sent.update({positions[index]: message_id for index, message_id in error.sent.items()})
                again = [positions[i] for i, e in error.failures.items() if isinstance(e, ServiceUnavailable)]
                failures.update({positions[i]: e for i, e in error.failures.items()})
            except ServiceUnavailable as error:
                again = positions
                failures.update(dict.fromkeys(positions, error))
            except OperationalError as error:
                failures.update(dict.fromkeys(positions, error))
                return
            else:
                sent.update(zip(positions, found, strict=True))
                return
            if not again or self._clock.monotonic() + wait > deadline:
                return
            for position in again:
                failures.pop(position, None)
            positions = again
            self._clock.sleep(wait)
