"""Delays kept by EventBridge Scheduler: one schedule a task, which sends the message and deletes itself.

For delays beyond the queue's own, and for FIFO queues, which have none (decision 4). Nothing hops
meanwhile, and it costs one request instead of four an hour. EventBridge fires within the minute, and
at least once: the message says that it may exist twice, so whoever runs it looks at the record first.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from cloudq.aws.port import AwsError, Call, Operation, Port, run
from cloudq.backends.fetch import Fetcher
from cloudq.brokers.base import Broker, Message, is_fifo
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.conf import Conf
from cloudq.errors import ImproperlyConfigured, MessageTooLarge, OperationalError, Unsupported

#: Most bytes of a schedule's Input (EventBridge Scheduler API reference, Target: 256 KB).
MAX_INPUT: Final = 262_144
#: Seconds from now that a schedule is made for at the least: EventBridge refuses the past.
MIN_LEAD: Final = 5.0
#: The last year that EventBridge's expressions know (cron: 1970-2199).
LAST_YEAR: Final = 2199
#: Seconds after its due time at which a message is in its queue at the latest: EventBridge's own minute, and ours.
LATE: Final = 60.0 + MIN_LEAD

#: CreateSchedule calls in flight at once, of one process.
THREADS: Final = 8

A = TypeVar("A")
T = TypeVar("T")

#: EventBridge replaces these words in an Input by values of its own.
_KEYWORD: Final = re.compile(r"<(?=aws\.scheduler\.)")
_GROUP: Final = re.compile(r"[0-9a-zA-Z-_.]{1,64}")
#: Group ids that SQS takes.
_GROUP_ID: Final = re.compile(r"""[a-zA-Z0-9!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}""")


def schedule_name(task_id: str, retries: int) -> str:
    """The name of the schedule of one try of a task: derived, so that it can be found to be deleted."""
    digest = hashlib.sha256(task_id.encode("utf-8", "surrogatepass")).hexdigest()
    return f"cloudq-{digest[:40]}-{retries}"


def escaped(body: str) -> str:
    """The same JSON text, without any word that EventBridge would replace."""
    return _KEYWORD.sub(r"\\u003c", body)


def input_size(body: str) -> int:
    """Bytes that count against ``MAX_INPUT``."""
    return len(escaped(body).encode("utf-8", "surrogatepass"))


def at_expression(due: float, now: float) -> str:
    """``at(2027-01-01T00:00:00)`` in UTC: the first full second that is not early.

    Raises ValueError beyond the year 2199.
    """
    moment = math.ceil(max(due, now + MIN_LEAD))
    try:
        at = datetime.fromtimestamp(moment, UTC)
    except (OverflowError, ValueError, OSError):
        at = None
    if at is None or at.year > LAST_YEAR:
        raise ValueError(
            f"eta {due:g} (seconds since the epoch) is beyond {LAST_YEAR}, the last year EventBridge Scheduler knows"
        )
    return f"at({at:%Y-%m-%dT%H:%M:%S})"


class OneShots:
    """Makes and deletes schedules that send one message each. Thread-safe.

    ``target`` gives a queue's ARN, ``role_arn`` what EventBridge may do there (sqs:SendMessage).
    """

    def __init__(
        self,
        port: Port,
        target: Callable[[str], str],
        *,
        role_arn: str,
        group: str = "default",
        dead_letter_arn: str | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._port = port
        self._target = target
        self._role_arn = role_arn
        self._group = group
        self._dead_letter_arn = dead_letter_arn
        self._clock = clock
        self._fetcher = Fetcher(THREADS, "cloudq-schedule")

    def put(self, task_id: str, retries: int, queue: str, message: Message, due: float) -> str:
        """Have ``message`` sent to ``queue`` at ``due`` (epoch seconds). Returns the schedule's name.

        The same task, try and time again is no error: the schedule is there. Raises MessageTooLarge,
        ValueError (beyond the horizon, or the id is scheduled for another time), OperationalError.
        """
        return run(self._port, self._put(task_id, retries, queue, message, due), self._clock)

    def map(self, call: Callable[[A], T], arguments: Iterable[A]) -> list[T]:
        """``call`` on each, several at a time: EventBridge takes schedules one by one."""
        return self._fetcher.map(call, arguments)

    def remove(self, task_id: str, tries: Iterable[int] = (0,)) -> bool:
        """Delete the schedules of these tries; True when one was there: the task will not come."""
        return run(self._port, self._remove(task_id, sorted(set(tries))), self._clock)

    def _put(self, task_id: str, retries: int, queue: str, message: Message, due: float) -> Operation[str]:
        size = input_size(message.body)
        if size > MAX_INPUT:
            raise MessageTooLarge(
                f"the message has {size} bytes; an EventBridge schedule holds {MAX_INPUT}: set broker_large_messages "
                "to keep large messages elsewhere, or delay_tier to hop"
            )
        name = schedule_name(task_id, retries)
        expression = at_expression(due, self._clock.time())
        target = self._target_of(queue, task_id, message)
        params = {
            "Name": name,
            "GroupName": self._group,
            "ScheduleExpression": expression,
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "ActionAfterCompletion": "DELETE",
            "Description": f"cloudq: task {task_id}"[:512],
            # The same token for the same schedule: a call that is repeated after a lost answer makes one.
            "ClientToken": hashlib.sha256(
                f"{name}\x1f{expression}\x1f{target['Input']}".encode("utf-8", "surrogatepass")
            ).hexdigest(),
            "Target": target,
        }
        try:
            yield Call("scheduler", "CreateSchedule", params)
        except AwsError as error:
            if error.code != "ConflictException":
                raise self._explain(error, queue) from error
            yield from self._same(name, task_id, expression, target["Arn"])
        return name

    def _target_of(self, queue: str, task_id: str, message: Message) -> dict[str, Any]:
        target: dict[str, Any] = {
            "Arn": self._target(queue),
            "RoleArn": self._role_arn,
            "Input": escaped(message.body),
        }
        if is_fifo(queue):
            # without a group of its own each message is one: unrelated ones run in parallel, as when sent
            target["SqsParameters"] = {"MessageGroupId": message.group_id or _group_of(task_id)}
        if self._dead_letter_arn:
            target["DeadLetterConfig"] = {"Arn": self._dead_letter_arn}
        return target

    def _same(self, name: str, task_id: str, expression: str, arn: str) -> Operation[None]:
        """There is a schedule of that name: is it this one?"""
        try:
            found = yield Call("scheduler", "GetSchedule", {"Name": name, "GroupName": self._group})
        except AwsError as error:
            if error.code == "ResourceNotFoundException":  # it has fired and gone meanwhile
                return
            raise
        present = str(found.get("ScheduleExpression"))
        # Sent once more a second later, the lead may have pushed the time on: that is the same call.
        if (
            found.get("Target", {}).get("Arn") != arn
            or abs(_when(present) - _when(expression)) > MIN_LEAD + 1
        ):
            raise ValueError(
                f"task {task_id} is scheduled already, for {present}: revoke it first, or use another task_id"
            )

    def _remove(self, task_id: str, tries: Iterable[int]) -> Operation[bool]:
        found = False
        for retries in tries:
            name = schedule_name(task_id, retries)
            try:
                yield Call("scheduler", "DeleteSchedule", {"Name": name, "GroupName": self._group})
                found = True
            except AwsError as error:
                if error.code != "ResourceNotFoundException":
                    raise
        return found

    def _explain(self, error: AwsError, queue: str) -> OperationalError:
        if error.code == "ResourceNotFoundException":
            return OperationalError(
                f"EventBridge Scheduler: no schedule group {self._group!r} in {self._port.region} ({error.message}): "
                "create it with Terraform, or set scheduler_group"
            )
        if error.code == "ServiceQuotaExceededException":
            return OperationalError(f"EventBridge Scheduler: the account's quota is used up: {error.message}")
        hint = ""
        if is_fifo(queue):
            hint = f" (the FIFO queue {queue} needs content-based deduplication on)"
        return OperationalError(
            f"EventBridge Scheduler refused the schedule: {error.code}: {error.message}{hint}"
        )


def _when(expression: str) -> float:
    """The moment of an ``at()``, which is UTC here; minus infinity for anything else."""
    try:
        return (
            datetime.fromisoformat(expression.removeprefix("at(").removesuffix(")"))
            .replace(tzinfo=UTC)
            .timestamp()
        )
    except ValueError:
        return -math.inf


def _group_of(task_id: str) -> str:
    if _GROUP_ID.fullmatch(task_id):
        return task_id
    return hashlib.sha256(task_id.encode("utf-8", "surrogatepass")).hexdigest()


def serves(broker: Broker) -> bool:
    """Can EventBridge Scheduler send to this broker's queues?"""
    from cloudq.brokers.sqs import SqsBroker

    return isinstance(broker, SqsBroker)


def open_one_shots(broker: Broker, conf: Conf, clock: Clock) -> OneShots:
    """The scheduler tier as the settings say. Raises ImproperlyConfigured, Unsupported (not on SQS)."""
    from cloudq.brokers.sqs import SqsBroker

    if not isinstance(broker, SqsBroker):
        raise Unsupported(
            f"delay_tier is scheduler, and EventBridge Scheduler sends to SQS only, not to {broker.url}: "
            "set delay_tier to hop"
        )
    if conf.scheduler_role_arn is None:
        raise ImproperlyConfigured(
            "delay_tier is scheduler, and scheduler_role_arn is not set: the ARN of a role that "
            "scheduler.amazonaws.com may assume and that has sqs:SendMessage on the queues"
        )
    check_arns(conf)
    return OneShots(
        broker.port,
        broker.queue_arn,
        role_arn=conf.scheduler_role_arn,
        group=conf.scheduler_group,
        dead_letter_arn=conf.scheduler_dead_letter_arn,
        clock=clock,
    )


def check_arns(conf: Conf) -> None:
    """Raise ImproperlyConfigured for a role, group or dead-letter queue that cannot be one."""
    shapes: Mapping[str, tuple[str, str]] = {
        "scheduler_role_arn": (
            r"arn:[\w-]+:iam::\d{12}:role/.+",
            "arn:aws:iam::123456789012:role/cloudq-scheduler",
        ),
        "scheduler_dead_letter_arn": (
            r"arn:[\w-]+:sqs:[\w-]+:\d{12}:[\w-]+",
            "arn:aws:sqs:eu-west-1:123456789012:schedules-dlq (a standard queue)",
        ),
    }
    for name, (shape, example) in shapes.items():
        value = getattr(conf, name)
        if value is not None and not re.fullmatch(shape, value):
            raise ImproperlyConfigured(f"{name}: {value!r} is no such ARN; example: {example}")
    if not _GROUP.fullmatch(conf.scheduler_group):
        raise ImproperlyConfigured(
            f"scheduler_group: {conf.scheduler_group!r} is no name of 1 to 64 letters, digits, '-', '_' and '.'"
        )
