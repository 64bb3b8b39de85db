"""The one way out: calls become envelopes, envelopes become messages, messages reach the broker."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Struct
from msgspec.structs import replace

from cloudq import ids
from cloudq.brokers.base import Broker, Message, is_fifo, message_size
from cloudq.brokers.claimcheck import ClaimCheck
from cloudq.brokers.joined import JoinedSends
from cloudq.canvas.plan import to_plain
from cloudq.canvas.signature import as_list
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.conf import Conf
from cloudq.context import Request, current
from cloudq.delays import eventbridge, hop
from cloudq.errors import (
    ImproperlyConfigured,
    MessageTooLarge,
    OperationalError,
    SendError,
    SerializationError,
    ServiceUnavailable,
    Unsupported,
)
from cloudq.hooks import Hooks
from cloudq.message import Envelope, PayloadRef
from cloudq.options import check_call_options
from cloudq.priorities import queue_for
from cloudq.results.push import REPLY_TO, reply_queue
from cloudq.retry import backoff
from cloudq.routes import compile_routes
from cloudq.serializers.codec import Codec

#: Headers that carry what a task said about itself, for workers that must know before looking it up.
IGNORE_RESULT: Final = "cloudq-ignore-result"
#: The idempotency key that the caller gave.
IDEMPOTENCY_KEY: Final = "cloudq-idempotency-key"
#: The lock that a unique task frees: its name, and when ("until_start", "until_finish").
UNIQUE: Final = "cloudq-unique"

T = TypeVar("T")


class Outgoing(Struct, frozen=True):
    """One call, ready to be written. ``delay`` is seconds."""

    envelope: Envelope
    queue: str
    delay: float = 0.0
    group_id: str | None = None
    dedup_id: str | None = None
    serializer: str | None = None
    compression: str | None = None
    retry: bool = True
    #: The same try once more (a hop, a deferral): publishing it is no news to the hooks.
    quiet: bool = False
    #: Epoch seconds at which EventBridge Scheduler is to send it, instead of us now.
    at: float | None = None
    #: The message's text, when it was written before it is sent: as the arguments were then.
    text: str | None = None

    def with_(self, **changes: Any) -> Outgoing:
        """A copy with these fields changed."""
        return replace(self, **changes)


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
        self._defaults = defaults
        self._clock = clock
        self._routes: Any = None
        self._route = compile_routes(None)
        self._zone = zone_of(conf)
        self._joined = JoinedSends(broker)
        self._shots: tuple[Broker, eventbridge.OneShots] | None = None
        self._origin = f"{os.getpid()}@{socket.gethostname()}"

    # --- calls to envelopes -------------------------------------------------------------------

    def prepare(
        self, name: str, args: Iterable[Any], kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> Outgoing:
        """One call as it will be sent. Raises TypeError for unknown options, ValueError for bad ones."""
        check_call_options(options)
        if self._routes is not self._conf.task_routes:  # they may be set at any time
            self._routes = self._conf.task_routes
            self._route = compile_routes(self._routes)
        merged: dict[str, Any] = dict(self._route(name) or ())
        for source in (self._defaults(name), options):
            merged.update({key: value for key, value in source.items() if value is not None})
        now = self._clock.time()
        eta = self._due(merged, now)
        queue = self.queue_for(merged.get("queue"), merged.get("priority"))
        envelope = self._envelope(name, args, kwargs, merged, now, eta)
        at = self._scheduled_at(eta, now, queue)
        return Outgoing(
            envelope if at is None else hop.may_repeat(envelope),
            queue,
            self._delay(eta, now, queue) if at is None else 0.0,
            merged.get("group_id"),
            merged.get("dedup_id"),
            merged.get("serializer"),
            merged.get("compression"),
            bool(merged.get("retry", self._conf.task_publish_retry)),
            at=at,
        )

    def queue_for(self, queue: str | None, priority: int | None) -> str:
        """The queue, or its sibling for this priority. Raises ValueError, ImproperlyConfigured."""
        conf, queue = self._conf, queue or self._conf.task_default_queue
        if priority is None:
            if conf.task_default_priority is None or queue not in conf.task_queue_priorities:
                return queue
            priority = conf.task_default_priority
        return queue_for(conf.task_queue_priorities, queue, priority)

    def _envelope(
        self, name: str, args: Any, kwargs: Any, merged: Mapping[str, Any], now: float, eta: float | None
    ) -> Envelope:
        parent = current()
        task_id = merged.get("task_id") or ids.new_id()
        headers = dict(merged.get("headers") or ())
        # the process that started it all is the one that waits, whoever sends the later steps
        mine = parent.headers.get(REPLY_TO) if parent else reply_queue(self._conf)
        reply_to = headers.pop(REPLY_TO, mine)
        if (key := merged.get("idempotency_key")) is not None:
            headers[IDEMPOTENCY_KEY] = self._checked_key(key)
        if merged.get("ignore_result"):
            headers[IGNORE_RESULT] = True
        elif reply_to:
            headers[REPLY_TO] = reply_to
        return Envelope(
            task=name,
            id=task_id,
            args=tuple(args or ()),
            kwargs=dict(kwargs or ()),
            eta=eta,
            expires=self._moment("expires", merged["expires"], now) if "expires" in merged else None,
            root_id=merged.get("root_id") or _root_of(parent) or task_id,
            parent_id=merged.get("parent_id") or (parent.id if parent else None),
            link=_plain_links(merged.get("link")),
            link_error=_plain_links(merged.get("link_error")),
            time_limit=merged.get("time_limit"),
            soft_time_limit=merged.get("soft_time_limit"),
            headers=headers,
            origin=self._origin,
            sent_at=now,
        )

    def _checked_key(self, key: Any) -> str:
        if not isinstance(key, str) or not key:
            raise TypeError(f"idempotency_key of a call is text, got {key!r}")
        if (self._conf.result_backend or "").startswith("disabled://"):
            raise ImproperlyConfigured(
                "idempotency_key: claims are kept in the results store, and this app has none"
                " (result_backend is disabled://)"
            )
        return key

    def _due(self, merged: Mapping[str, Any], now: float) -> float | None:
        countdown, eta = merged.get("countdown"), merged.get("eta")
        if countdown is None and eta is None:
            return None
        if countdown is None:
            return self._moment("eta", eta, now, relative=False)
        if eta is not None:
            raise ValueError("give countdown or eta, not both")
        if isinstance(countdown, bool) or not isinstance(countdown, int | float) or countdown != countdown:
            raise TypeError(f"countdown is a number of seconds, got {countdown!r}")
        return hop.checked("countdown", countdown, now + countdown) if countdown > 0 else None

    def _moment(self, name: str, value: Any, now: float, relative: bool = True) -> float | None:
        """``value`` as seconds since the epoch: a datetime, or a number (of seconds from now if relative)."""
        if value is None:
            return None
        if isinstance(value, datetime):
            return (value if value.tzinfo is not None else value.replace(tzinfo=self._zone)).timestamp()
        if isinstance(value, int | float) and not isinstance(value, bool):
            return hop.checked(name, value, now + value if relative else float(value))
        if isinstance(value, str):
            try:
                return self._moment(name, datetime.fromisoformat(value), now)
            except ValueError:
                raise ValueError(f"{name}: {value!r} is no ISO-8601 time") from None
        raise TypeError(f"{name} is a datetime or a number of seconds, got {value!r}")

    def _scheduled_at(self, due: float | None, now: float, queue: str) -> float | None:
        """When EventBridge Scheduler is to send it, or None: it goes to the queue now."""
        if self._conf.delay_tier == "hop" or due is None or due <= now:
            return None
        if self._conf.delay_tier != "scheduler":
            raise ImproperlyConfigured(f"delay_tier is hop or scheduler, got {self._conf.delay_tier!r}")
        broker = self._broker()
        if not is_fifo(queue) and (
            due - now <= broker.capabilities.max_delay or not eventbridge.serves(broker)
        ):
            return None  # the embedded broker of a laptop hops, whatever the settings say
        self._one_shots()  # a tier that cannot work is an error before anything is sent
        eventbridge.at_expression(due, now)
        return due

    def _one_shots(self) -> eventbridge.OneShots:
        broker = self._broker()
        if self._shots is None or self._shots[0] is not broker:
            self._shots = (broker, eventbridge.open_one_shots(broker, self._conf, self._clock))
        return self._shots[1]

    def unschedule(self, task_id: str, tries: Iterable[int] = (0,)) -> bool:
        """Delete the EventBridge schedules of these tries of a task that is not due yet.

        True when there was one: the task will not come. Always False where ``delay_tier`` is hop.
        """
        if self._conf.delay_tier != "scheduler" or not eventbridge.serves(self._broker()):
            return False
        return self._one_shots().remove(task_id, tries)

    def _delay(self, due: float | None, now: float, queue: str) -> float:
        if due is None:
            return 0.0
        delay = hop.first_delay(due, now, self._broker().capabilities.max_delay)
        if delay > 0 and is_fifo(queue):
            raise Unsupported(
                f"the FIFO queue {queue} takes no delay per message (an SQS rule): set delay_tier to scheduler, "
                "send to a standard queue, or without countdown/eta"
            )
        return delay

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
        at = self._scheduled_at(due, now, queue)
        if at is not None:
            again = hop.may_repeat(envelope.with_(eta=due))
            return Outgoing(again, queue, group_id=group_id, quiet=quiet, at=at)
        delay = self._delay(due, now, queue)
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
            limit = most if call.at is None else min(most, eventbridge.MAX_INPUT)
            texts.append(self._text(call) if call.text is None else call.text)
            messages.append(self._message(call, texts[-1]))
            if (size := self._size(call, messages[-1])) > limit:
                self._check_size(call, size, limit)
                large.append(position)
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
        return self._written(call)

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
        shots = self._one_shots()

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

    def _written(self, call: Outgoing) -> str:
        try:
            return self._codec.write(call.envelope, serializer=call.serializer, compression=call.compression)
        except SerializationError as error:
            message = f"the arguments of {call.envelope.task} cannot be written: {error.message}"
            raise SerializationError(message, error.path) from error

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
                for position in positions:
                    failures.pop(position, None)
                return
            if not again or self._clock.monotonic() + wait > deadline:
                return
            for position in again:
                failures.pop(position, None)
            positions = again
            self._clock.sleep(wait)


def _plain_links(links: Any) -> tuple[Mapping[str, Any], ...]:
    return tuple(to_plain(each) for each in as_list(links)) if links else ()


def _root_of(parent: Request | None) -> str | None:
    return (parent.root_id or parent.id) if parent is not None else None


def zone_of(conf: Conf) -> tzinfo:
    """The zone that naive datetimes are in. Raises ImproperlyConfigured for an unknown one."""
    if conf.enable_utc and not conf.explicit("timezone"):
        return UTC
    try:
        return ZoneInfo(conf.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ImproperlyConfigured(
            f"timezone: {conf.timezone!r} is not a known zone; example: Europe/Paris"
        ) from None
