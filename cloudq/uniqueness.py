"""Publishing calls of unique tasks: a duplicate is not sent, its caller gets the first one's id."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloudq.callkey import call_key, whole_call_key
from cloudq.clock import Clock
from cloudq.conf import Conf
from cloudq.coordination.unique import Held, Taken, UniqueLocks, lock_name
from cloudq.errors import ImproperlyConfigured, OperationalError, SendError, Unsupported
from cloudq.message import Envelope
from cloudq.outgoing import UNIQUE, Outgoing
from cloudq.producer import Producer
from cloudq.registry import Registry
from cloudq.results.store import ResultStore
from cloudq.task import Task

logger = logging.getLogger("cloudq.task")

#: Calls that are locked, published and marked together: the first must not wait long for the last.
BATCH: Final = 10
#: Seconds beyond the time a publish may take, before its lock counts as left behind.
MARGIN: Final = 5.0

Published = tuple[list[Outgoing], dict[int, Exception]]


@dataclass(slots=True)
class _Asked:
    """A call of a unique task on its way out."""

    position: int
    call: Outgoing
    task: Task[..., Any]
    taken: Taken


def publish(
    calls: Sequence[Outgoing],
    tasks: Registry,
    producer: Producer,
    store: Callable[[], ResultStore | None],
    conf: Conf,
    clock: Clock,
) -> Published:
    """Send; the calls that stand (a duplicate's is the one under way), and failures by position.

    Raises what keeps all of them from being sent, as ``Producer.send`` does.
    """
    names = {call.envelope.task for call in calls}
    if not any(_has_lock(name, tasks) for name in names) or not any(
        _is_unique(call.envelope, tasks) for call in calls
    ):
        return list(calls), _send(producer, calls)
    found = store()
    if found is None:
        raise ImproperlyConfigured(
            "unique tasks keep their locks in the results store, and this app has none"
            " (result_backend is disabled://)"
        )
    sender = _Sender(tasks, producer, UniqueLocks(found.backend, clock), conf, clock)
    standing: list[Outgoing] = []
    failures: dict[int, Exception] = {}
    for start in range(0, len(calls), BATCH):
        some, failed = sender.send(calls[start : start + BATCH])
        standing += some
        failures.update({start + position: error for position, error in failed.items()})
    return standing, failures


class _Sender:
    def __init__(
        self, tasks: Registry, producer: Producer, locks: UniqueLocks, conf: Conf, clock: Clock
    ) -> None:
        self._tasks = tasks
        self._producer = producer
        self._locks = locks
        self._conf = conf
        self._clock = clock

    def send(self, calls: Sequence[Outgoing]) -> Published:
        standing = list(calls)
        asked: dict[str, _Asked] = {}
        twins: dict[int, int] = {}  # duplicates within these calls, and whose
        going: list[int] = []
        try:
            for position, call in enumerate(calls):
                if self._ask(position, call, standing, asked, twins):
                    going.append(position)
            failed = _send(self._producer, [standing[position] for position in going])
        except BaseException:
            for each in asked.values():
                self._free(each)
            raise
        failures = {going[index]: error for index, error in failed.items()}
        for each in asked.values():
            if each.position in failures:
                self._free(each)
            else:
                self._mark(each)
        for twin, first in twins.items():
            if first in failures:
                failures[twin] = failures[first]
        return standing, failures

    def _ask(
        self,
        position: int,
        call: Outgoing,
        standing: list[Outgoing],
        asked: dict[str, _Asked],
        twins: dict[int, int],
    ) -> bool:
        """Is this call to be sent? ``standing`` and ``asked`` are brought up to date."""
        if not _is_unique(call.envelope, self._tasks):
            return True
        task = self._tasks[call.envelope.task]
        name = name_of(task, call.envelope)
        if name in asked:
            twins[position] = asked[name].position
            standing[position] = standing[asked[name].position]
            return False
        found = self._locks.take(name, call.envelope.id, self._conf.task_publish_retry_timeout + MARGIN)
        if isinstance(found, Held):
            logger.info("task %s is under way as %s: not sent again", call.envelope.task, found.id)
            standing[position] = _as(call, found.id)
            return False
        standing[position] = _marked(_as(call, found.id), task, name)
        asked[name] = _Asked(position, standing[position], task, found)
        return True

    def _mark(self, asked: _Asked) -> None:
        now = self._clock.time()
        try:
            self._locks.sent(asked.taken, lock_until(asked.task, asked.call.envelope, self._conf, now))
        except OperationalError as error:
            # the message is out; whoever calls next sends it again under the same id, which is recognised
            logger.warning("marking the lock of %s as sent: %s", asked.task.name, error)

    def _free(self, asked: _Asked) -> None:
        try:
            self._locks.release(asked.taken.name, asked.taken.id)
        except OperationalError as error:
            logger.warning("freeing the lock of %s: %s; it runs out by itself", asked.task.name, error)


def name_of(task: Task[..., Any], envelope: Envelope) -> str:
    """The lock's name for a call. Raises TypeError for arguments that are no key."""
    args, kwargs = envelope.args, envelope.kwargs
    if task.unique_on is None:
        key = whole_call_key("unique", task.parameters, args, kwargs)
    else:
        key = call_key("unique_on", task.unique_on, task.parameters, args, kwargs)
    return lock_name(f"{task.name}:{key}")


def lock_until(task: Task[..., Any], envelope: Envelope, conf: Conf, now: float) -> float:
    """When a lock ends at the latest."""
    if not isinstance(task.unique, str):
        return now + float(task.unique or 0)
    longest = conf.task_unique_expires if task.unique_expires is None else task.unique_expires
    # what has expired never starts; the worker takes longer once it has
    return now + longest if envelope.expires is None else min(now + longest, envelope.expires)


def _has_lock(name: str, tasks: Registry) -> bool:
    task = tasks.get(name)
    return task is not None and task.unique is not None


def _is_unique(envelope: Envelope, tasks: Registry) -> bool:
    if not _has_lock(envelope.task, tasks):
        return False
    if envelope.link or envelope.link_error:
        raise Unsupported(
            f"task {envelope.task} is unique: what a duplicate's link or link_error would send would be lost;"
            " send it from the task itself"
        )
    # a workflow waits for each of its members
    return not (envelope.group or envelope.chord or envelope.chain)


def _as(call: Outgoing, task_id: str) -> Outgoing:
    envelope = call.envelope
    if envelope.id == task_id:
        return call
    root = task_id if envelope.root_id == envelope.id else envelope.root_id
    return call.with_(envelope=envelope.with_(id=task_id, root_id=root))


def _marked(call: Outgoing, task: Task[..., Any], name: str) -> Outgoing:
    # a lock for a time is freed by nobody; but its message too may have been sent twice
    mark: Mapping[str, str] = {"lock": name, "until": task.unique} if isinstance(task.unique, str) else {}
    return call.with_(envelope=call.envelope.with_(headers={**call.envelope.headers, UNIQUE: mark}))


def _send(producer: Producer, calls: Sequence[Outgoing]) -> dict[int, Exception]:
    if not calls:
        return {}
    try:
        producer.send(calls)
    except SendError as error:
        if len(calls) == 1:
            return {0: error}
        return dict(error.failures)
    except OperationalError as error:
        if len(calls) == 1:
            return {0: error}
        raise
    return {}
