"""The broker on Amazon SQS.

Every verb is an operation free of I/O (``SqsOperations``), driven here by ``run`` on a sync port;
``arun`` drives the same ones on an asyncio port.

A long poll cannot be called back: SQS may give the next message to a client that has hung up, where it
stays unseen until its visibility timeout. So a poll is waited out where there is time; a worker that
has nothing else to do hangs up (``interrupt``).
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias, TypeVar

from cloudq.aws.errors import is_throttled, plain_code
from cloudq.aws.factory import make_port
from cloudq.aws.port import AwsError, Operation, Pause, Port, run
from cloudq.brokers import sqs_admin
from cloudq.brokers.base import (
    BrokerCapabilities,
    Delivery,
    Message,
    QueueDepth,
    QueueInfo,
    QueueSpec,
    Refused,
    is_fifo,
)
from cloudq.brokers.sqs_entry import buried, check, pack, seconds, to_delivery, to_entry
from cloudq.brokers.sqs_names import name_from_arn
from cloudq.brokers.sqs_queues import Queues
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.errors import (
    CloudQError,
    ImproperlyConfigured,
    LeaseLost,
    NoDeadLetterQueue,
    SendError,
    ServiceUnavailable,
)
from cloudq.ids import derived_id
from cloudq.retry import backoff
from cloudq.url import Url

T = TypeVar("T")
#: A delivery, and the parameters of its entry in a batch call.
Change: TypeAlias = tuple[Delivery, dict[str, Any]]

#: Tries of a batch's entries that failed through no fault of ours, and the waits between them.
ENTRY_ATTEMPTS: Final = 5
ENTRY_BACKOFF: Final = (0.1, 2.0)
#: Asked for this much less than the 12 hours, because SQS's clock started before ours.
CEILING_MARGIN: Final = 1.0

_SYSTEM_ATTRIBUTES: Final = [
    "ApproximateReceiveCount",
    "SentTimestamp",
    "ApproximateFirstReceiveTimestamp",
    "MessageGroupId",
    "MessageDeduplicationId",
]
_DEPTHS: Final = [
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
]
_OPTIONS: Final = (
    "region",
    "endpoint_url",
    "profile",
    "driver",
    "account",
    "queue_name_prefix",
    "max_body",
    "wait_time_seconds",
    "visibility_timeout",
)


def from_url(url: Url, clock: Clock = SYSTEM_CLOCK) -> SqsBroker:
    """``sqs://?region=&endpoint_url=&profile=&driver=&account=&queue_name_prefix=&max_body=&wait_time_seconds=``
    ``&visibility_timeout=``

    ``driver``: ``lean`` or ``boto3``. ``account``: the queues' owner, when it is another account. ``max_body``: the queues'
    MaximumMessageSize in bytes, when below 1 MiB. ``wait_time_seconds``: the longest poll, 0..20.
    ``visibility_timeout``: seconds a new queue, or a consumer that says nothing, uses.
    """
    options = url.options(_OPTIONS)
    if url.host or url.path:
        raise ImproperlyConfigured(
            f"sqs:// takes no host or path, got {url.host or url.path!r}: for a region write sqs://?region="
            f"{url.host or 'eu-west-1'}"
        )
    capabilities = BrokerCapabilities(
        max_body=int(url.number("max_body", 1_048_576, 1_024, 1_048_576)),
        max_wait=url.number("wait_time_seconds", 20, 0, 20),
    )
    visibility = url.number("visibility_timeout", 0, 0, 43_200)
    return SqsBroker(
        make_port(
            options.get("region"),
            options.get("endpoint_url"),
            options.get("profile"),
            options.get("driver", "lean"),
        ),
        url=str(url),
        capabilities=capabilities,
        queue_name_prefix=options.get("queue_name_prefix", ""),
        account=options.get("account"),
        visibility_timeout=visibility or None,
        clock=clock,
    )


class SqsOperations:
    """What to call and how to read the answer; no I/O, no waiting."""

    def __init__(self, queues: Queues, capabilities: BrokerCapabilities, clock: Clock) -> None:
        self._queues = queues
        self._can = capabilities
        self._clock = clock

    def send(self, queue: str, messages: Sequence[Message]) -> Operation[list[str]]:
        """See ``Broker.send``. On FIFO the order holds unless SQS refuses an entry of a batch."""
        sizes = [check(queue, message, self._can) for message in messages]
        if len(messages) == 1:
            answer = yield from self._queues.call(queue, "SendMessage", to_entry(queue, messages[0]))
            return [answer["MessageId"]]
        entries = [{"Id": str(n), **to_entry(queue, message)} for n, message in enumerate(messages)]
        sent: dict[int, str] = {}
        failures: dict[int, Exception] = {}
        for part in pack(sizes, self._can.max_batch, self._can.max_body):
            try:
                yield from self._send_batch(queue, {n: entries[n] for n in part}, sent, failures)
            except CloudQError as error:
                if not sent and not failures:
                    raise
                rest = range(part.start, len(entries))
                failures.update({n: error for n in rest if n not in sent and n not in failures})
                break
        if failures:
            raise SendError(failures, sent)
        return [sent[n] for n in range(len(entries))]

    def _send_batch(
        self,
        queue: str,
        pending: dict[int, dict[str, Any]],
        sent: dict[int, str],
        failures: dict[int, Exception],
    ) -> Operation[None]:
        waits = backoff(*ENTRY_BACKOFF)
        for attempt in range(1, ENTRY_ATTEMPTS + 1):
            params = {"Entries": list(pending.values())}
            answer = yield from self._queues.call(queue, "SendMessageBatch", params)
            for done in answer.get("Successful", []):
                sent[int(done["Id"])] = done["MessageId"]
            reasons = {int(failed["Id"]): failed for failed in answer.get("Failed", [])}
            for n, failed in reasons.items():
                if not _may_work_later(failed):
                    failures[n] = self._entry_error(queue, "SendMessageBatch", failed)
            pending = {n: entry for n, entry in pending.items() if n not in sent and n not in failures}
            if not pending:
                return
            if attempt < ENTRY_ATTEMPTS:
                yield Pause(next(waits))
        for n in pending:
            why = reasons.get(n, {})
            failures[n] = ServiceUnavailable(
                f"SQS did not take the message in {ENTRY_ATTEMPTS} tries: {why.get('Code')}: "
                f"{why.get('Message', '')}; send it again later"
            )

    def _entry_error(self, queue: str, operation: str, failed: Mapping[str, Any]) -> Exception:
        code, text = str(failed.get("Code", "")), str(failed.get("Message", ""))
        return self._queues.explain(queue, AwsError(code, text, service="sqs", operation=operation))

    def receive(self, queue: str, limit: int, wait: float, invisible: float) -> Operation[list[Delivery]]:
        """See ``Broker.receive``. A ``wait`` under a second is a short poll, which asks only some of
        SQS's servers and may come back empty although there are messages."""
        poll = int(min(max(0.0, wait), self._can.max_wait))
        hidden = min(seconds(invisible), int(self._can.max_invisible))
        params: dict[str, Any] = {
            "MaxNumberOfMessages": min(limit, self._can.max_batch),
            "WaitTimeSeconds": poll,
            "VisibilityTimeout": hidden,
            "MessageSystemAttributeNames": _SYSTEM_ATTRIBUTES,
            "MessageAttributeNames": ["All"],
        }
        if is_fifo(queue):
            # The port's own retry after a lost answer gets the same messages again, not a blocked group.
            params["ReceiveRequestAttemptId"] = str(uuid.uuid4())
        answer = yield from self._queues.call(queue, "ReceiveMessage", params, timeout=float(poll))
        now = self._clock.time()
        return [to_delivery(queue, raw, now, hidden) for raw in answer.get("Messages") or []]

    def ack(self, deliveries: Sequence[Delivery]) -> Operation[list[Refused]]:
        """See ``Broker.ack``. SQS itself accepts a stale receipt of a standard queue."""
        return self._change("DeleteMessageBatch", [(delivery, {}) for delivery in deliveries])

    def release(self, deliveries: Sequence[Delivery], delay: float) -> Operation[list[Refused]]:
        """See ``Broker.release``. SQS holds nothing back for more than 12 hours from its receipt."""
        changes: list[Change] = [
            (delivery, {"VisibilityTimeout": max(0, min(seconds(delay), self._left(delivery)))})
            for delivery in deliveries
        ]
        return self._change("ChangeMessageVisibilityBatch", changes)

    def extend(self, deliveries: Sequence[Delivery], invisible: float) -> Operation[list[Refused]]:
        """See ``Broker.extend``. Never asks past 12 hours from the receipt: SQS would refuse (decision 2)."""
        over: list[Refused] = []
        changes: list[Change] = []
        for delivery in deliveries:
            left = self._left(delivery)
            if left < 1:
                text = "SQS keeps a message for at most 12 hours from its receipt"
                over.append(Refused(delivery, "VisibilityCeiling", text, lost=True))
            else:
                changes.append((delivery, {"VisibilityTimeout": min(seconds(invisible), left)}))
        return over + (yield from self._change("ChangeMessageVisibilityBatch", changes))

    def _left(self, delivery: Delivery) -> int:
        """Whole seconds until SQS's ceiling for this receipt."""
        ends = delivery.received_at + self._can.max_invisible - CEILING_MARGIN
        return int(max(0.0, ends - self._clock.time()))

    def _change(self, operation: str, changes: Sequence[Change]) -> Operation[list[Refused]]:
        refused: list[Refused] = []
        for queue, part in _by_queue(changes, self._can.max_batch):
            refused += yield from self._change_batch(queue, operation, part)
        return refused

    def _change_batch(self, queue: str, operation: str, part: Sequence[Change]) -> Operation[list[Refused]]:
        waits = backoff(*ENTRY_BACKOFF)
        refused: list[Refused] = []
        pending = dict(enumerate(part))
        for attempt in range(1, ENTRY_ATTEMPTS + 1):
            entries = [
                {"Id": str(n), "ReceiptHandle": delivery.receipt, **change}
                for n, (delivery, change) in pending.items()
            ]
            answer = yield from self._queues.call(queue, operation, {"Entries": entries})
            failed = {int(entry["Id"]): entry for entry in answer.get("Failed", [])}
            last = attempt == ENTRY_ATTEMPTS
            refused += [
                _refused(pending[n][0], entry)
                for n, entry in failed.items()
                if last or not _may_work_later(entry)
            ]
            pending = {n: pending[n] for n, entry in failed.items() if not last and _may_work_later(entry)}
            if not pending:
                return refused
            yield Pause(next(waits))
        return refused

    def bury(self, delivery: Delivery, reason: str, detail: str) -> Operation[None]:
        """See ``Broker.bury``. A crash between sending and deleting leaves a second copy (FIFO: none
        within 5 minutes). Raises LeaseLost when the copy is there but the original was not ours to delete."""
        info = yield from self._queues.info(delivery.queue)
        if info.dead_letter_queue is None:
            raise NoDeadLetterQueue(
                f"the queue {delivery.queue!r} has no dead-letter queue: give it a redrive policy "
                "(Terraform, or `cloudq queues create` for a new queue)"
            )
        at = datetime.fromtimestamp(self._clock.time(), UTC).isoformat(timespec="milliseconds")
        dedup = derived_id("bury", delivery.message_id)
        copy = buried(delivery, reason, detail, at, dedup, self._can.max_body)
        dead = info.dead_letter_queue
        yield from self._queues.call(dead, "SendMessage", to_entry(dead, copy))
        for refused in (yield from self.ack([delivery])):
            text = f"buried a copy of message {delivery.message_id} in {dead!r}, but could not delete it from"
            kind = LeaseLost if refused.lost else ServiceUnavailable
            raise kind(f"{text} {delivery.queue!r}: {refused.code}: {refused.message}")

    def depth(self, queue: str) -> Operation[QueueDepth]:
        """See ``Broker.depth``."""
        found = yield from self._queues.attributes(queue, _DEPTHS)
        visible, in_flight, delayed = (int(found.get(name, 0)) for name in _DEPTHS)
        return QueueDepth(visible, in_flight, delayed)

    def purge(self, queue: str) -> Operation[None]:
        """See ``Broker.purge``. SQS takes up to a minute, and allows it once a minute."""
        yield from self._queues.call(queue, "PurgeQueue", {})


class SqsBroker:
    """``Broker`` and ``QueueAdmin`` on Amazon SQS."""

    def __init__(
        self,
        port: Port,
        *,
        url: str = "sqs://",
        capabilities: BrokerCapabilities | None = None,
        queue_name_prefix: str = "",
        account: str | None = None,
        queue_urls: Mapping[str, str] | None = None,
        visibility_timeout: float | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._port = port
        self._url = url
        self._can = capabilities or BrokerCapabilities()
        self._clock = clock
        self._closed = False
        self._queues = Queues(lambda: port.region, clock, queue_name_prefix, account, queue_urls)
        #: Drive these with ``arun`` on an asyncio port.
        self.operations = SqsOperations(self._queues, self._can, clock)
        #: Seconds, for consumers and new queues that say nothing else; None when not configured.
        self.visibility_timeout = visibility_timeout

    @property
    def capabilities(self) -> BrokerCapabilities:
        return self._can

    @property
    def url(self) -> str:
        return self._url

    @property
    def port(self) -> Port:
        """What its AWS calls go through."""
        return self._port

    def queue_arn(self, queue: str) -> str:
        """The queue's ARN, for those who send to it from elsewhere in AWS."""
        return self._run(self._queues.likely_arn(queue))

    def deduplicates_by_content(self, queue: str) -> bool:
        """Does this FIFO queue take messages without a deduplication id?"""
        found = self._run(self._queues.attributes(queue, ["ContentBasedDeduplication"]))
        return found.get("ContentBasedDeduplication") == "true"

    def send(self, queue: str, messages: Sequence[Message]) -> list[str]:
        return self._run(self.operations.send(queue, messages)) if messages else []

    def receive(self, queue: str, limit: int, wait: float, invisible: float) -> list[Delivery]:
        if self._closed or limit < 1:
            return []
        return self._run(self.operations.receive(queue, limit, wait, invisible))

    def interrupt(self, threads: Collection[int]) -> None:
        """See ``Interruptible.interrupt``. The boto3 driver cannot: there a poll is waited out."""
        hang_up = getattr(self._port, "hang_up", None)
        if hang_up is not None:
            hang_up(threads)

    def ack(self, deliveries: Sequence[Delivery]) -> list[Refused]:
        return self._run(self.operations.ack(deliveries))

    def release(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> list[Refused]:
        return self._run(self.operations.release(deliveries, delay))

    def extend(self, deliveries: Sequence[Delivery], invisible: float) -> list[Refused]:
        return self._run(self.operations.extend(deliveries, invisible))

    def bury(self, delivery: Delivery, reason: str, detail: str = "") -> None:
        self._run(self.operations.bury(delivery, reason, detail))

    def describe(self, queue: str) -> QueueInfo:
        return self._run(self._queues.info(queue))

    def depth(self, queue: str) -> QueueDepth:
        return self._run(self.operations.depth(queue))

    def purge(self, queue: str) -> None:
        self._run(self.operations.purge(queue))

    def queue_of(self, arn: str) -> str:
        """The app's name for the queue with this ARN (without ``queue_name_prefix``)."""
        return self._queues.logical(name_from_arn(arn))

    def create_queue(self, spec: QueueSpec) -> list[str]:
        return self._run(sqs_admin.create(self._queues, spec, int(self._can.max_wait)))

    def delete_queue(self, queue: str) -> None:
        self._run(sqs_admin.delete(self._queues, queue))

    def list_queues(self, prefix: str = "") -> list[str]:
        return self._run(sqs_admin.listing(self._queues, prefix))

    def close(self) -> None:
        """No poll begins after this; one under way is waited out by its caller (see above)."""
        self._closed = True
        self._port.close()

    def _run(self, operation: Operation[T]) -> T:
        return run(self._port, operation, self._clock)


def _may_work_later(failed: Mapping[str, Any]) -> bool:
    return not failed.get("SenderFault", False) or is_throttled(str(failed.get("Code", "")))


def _refused(delivery: Delivery, failed: Mapping[str, Any]) -> Refused:
    code, text = plain_code(str(failed.get("Code", ""))), str(failed.get("Message", ""))
    return Refused(delivery, code, text, lost=_is_lost(code, text))


def _is_lost(code: str, text: str) -> bool:
    """Is the receipt no longer good? SQS has a code for some cases and a sentence for others."""
    if code in ("ReceiptHandleIsInvalid", "MessageNotInflight"):
        return True
    text = text.lower()
    return code == "InvalidParameterValue" and any(
        words in text for words in ("not available", "does not exist", "handle has expired", "receipthandle")
    )


def _by_queue(changes: Sequence[Change], most: int) -> Iterator[tuple[str, Sequence[Change]]]:
    queues: dict[str, list[Change]] = {}
    for change in changes:
        queues.setdefault(change[0].queue, []).append(change)
    for queue, group in queues.items():
        for start in range(0, len(group), most):
            yield queue, group[start : start + most]
