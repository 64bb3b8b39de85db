"""An app in a sandbox: everything in memory, a clock that a test moves, nothing running by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cloudq.app import CloudQ
from cloudq.brokers.base import Delivery, dead_letter_name
from cloudq.brokers.sqlite import SqliteBroker
from cloudq.control.deadletters import DeadLetter, DeadLetters
from cloudq.control.revocations import Revocations
from cloudq.execution.call import NoWatch
from cloudq.message import Envelope
from cloudq.results.record import Record
from cloudq.runtime import batch
from cloudq.runtime.verdict import Abandon, Ack, Bury, Release, Verdict
from cloudq.serializers.peek import peek
from cloudq.testing.clock import ManualClock

#: Seconds a message is invisible while it runs here; the clock stands still meanwhile.
_INVISIBLE = 3600.0


@dataclass(frozen=True, slots=True)
class Sent:
    """One call that was sent."""

    task: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    queue: str
    id: str
    envelope: Envelope

    def __str__(self) -> str:
        shown = [repr(each) for each in self.args] + [
            f"{name}={value!r}" for name, value in self.kwargs.items()
        ]
        return f"{self.task}({', '.join(shown)}) to {self.queue}"


class Sandbox:
    """What ``sandbox(app)`` gives: what was sent, and a way to run it."""

    def __init__(self, app: CloudQ, clock: ManualClock) -> None:
        self.app = app
        self.clock = clock
        self.sent: list[Sent] = []
        self._lifecycle = app.lifecycle("sandbox")
        self._lifecycle.revoked = Revocations(app.control.boards, clock).fresh
        self._queues = {app.conf.task_default_queue: None}
        self._received: list[str] = []

    def note_sent(self, envelope: Envelope, queue: str, **_: Any) -> None:
        """A listener of the hook ``task_sent``."""
        self._queues[queue] = None
        self.sent.append(Sent(envelope.task, envelope.args, envelope.kwargs, queue, envelope.id, envelope))

    def note_received(self, envelope: Envelope, **_: Any) -> None:
        """A listener of the hook ``task_received``."""
        self._received.append(envelope.id)

    def assert_sent(
        self,
        task: str,
        args: Any = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        queue: str | None = None,
        times: int | None = None,
    ) -> list[Sent]:
        """Fail unless such a call was sent (exactly ``times`` times, if given); return those that were.

        ``args``, ``kwargs`` and ``queue`` are compared only when they are given.
        """
        found = [
            each
            for each in self.sent
            if each.task == task
            and (args is None or each.args == tuple(args))
            and (kwargs is None or dict(each.kwargs) == dict(kwargs))
            and (queue is None or each.queue == queue)
        ]
        if times is None and not found:
            raise AssertionError(f"no such call of {task} was sent; {self._all_sent()}")
        if times is not None and len(found) != times:
            raise AssertionError(
                f"{len(found)} such calls of {task} were sent, not {times}; {self._all_sent()}"
            )
        return found

    def _all_sent(self) -> str:
        if not self.sent:
            return "nothing was sent at all"
        return "sent were:\n" + "\n".join(f"  {each}" for each in self.sent)

    def drain(self, *queues: str, jump: bool = True, limit: int = 10_000) -> list[Record]:
        """Run everything that is queued, as a worker would, and all that follows from it.

        Moves the clock over delays and retries' waits; with ``jump=False`` it stands still, and what
        is not due stays queued. Returns the records of the tasks that ended, in that order (tasks
        that ignore their results have none). Raises AssertionError before more than ``limit``
        messages are handled: something sends itself for ever.
        """
        ended: dict[str, Record] = {}
        handled = 0
        while True:
            names = list(queues or self._queues)
            received = [each for name in names for each in self.app.broker.receive(name, 10, 0.0, _INVISIBLE)]
            if not received and not (jump and self._jump(names)):
                return list(ended.values())
            handled += len(received)
            if handled > limit:
                raise AssertionError(
                    f"more than {limit} messages were handled: does a task send itself for ever?"
                )
            for job in self._jobs(received):
                for record in self._handle(job):
                    if record.final:
                        ended.setdefault(record.id, record)

    def _jobs(self, deliveries: list[Delivery]) -> Iterator[list[Delivery]]:
        """What runs together: messages of a batch task, as many as it takes; all others one by one."""
        collected: dict[tuple[str, str], list[Delivery]] = {}
        for each in deliveries:
            task = self.app.tasks.get(peek(each.body, each.message_id).task)
            if task is None or task.batch is None:
                yield [each]
                continue
            found = collected.setdefault((each.queue, task.name), [])
            found.append(each)
            if len(found) == task.batch:
                yield collected.pop((each.queue, task.name))
        yield from collected.values()

    def _handle(self, deliveries: list[Delivery]) -> list[Record]:
        """Run one message, or a batch; the records of the tasks, if they have one."""
        self._received = []
        if len(deliveries) == 1:
            self._apply(deliveries[0], self._lifecycle.run(deliveries[0], NoWatch()))
        else:
            verdicts = batch.run(self._lifecycle, deliveries, NoWatch())
            for delivery, verdict in zip(deliveries, verdicts, strict=True):
                self._apply(delivery, verdict)
        found = (self.app.read(each) for each in self._received)
        return [each for each in found if each is not None]

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)

    @property
    def buried(self) -> list[DeadLetter]:
        """The dead letters of all queues, with their reasons."""
        found: list[DeadLetter] = []
        for name in self._queues:
            if self.app.broker.depth(dead_letter_name(name)).total:
                found += DeadLetters(self.app.broker, name, wait=0.0).peek(1000)
        return found

    def _apply(self, delivery: Delivery, verdict: Verdict) -> None:
        broker = self.app.broker
        match verdict:
            case Ack(already=False):
                broker.ack([delivery])
            case Release(delay=delay):
                broker.release([delivery], delay)
            case Bury(reason=reason, detail=detail):
                broker.bury(delivery, reason, detail)
            case Ack() | Abandon():
                pass

    def _jump(self, queues: list[str]) -> bool:
        """Move the clock to the next message; False when there is none."""
        broker = self.app.broker
        assert isinstance(broker, SqliteBroker)
        times = [at for name in queues if (at := broker.next_visible(name)) is not None]
        if not times:
            return False
        self.clock.advance(max(0.001, min(times) - self.clock.time()))
        return True


@contextmanager
def sandbox(app: CloudQ, clock: ManualClock | None = None, **settings: Any) -> Iterator[Sandbox]:
    """For the block, ``app`` in memory, with a clock that stands still. Settings may be given."""
    clock = clock or ManualClock()
    settings = {"task_always_eager": False, **settings}  # what a project's test settings often turn on
    with app.using(broker="memory://", backend="memory://", clock=clock, **settings):
        box = Sandbox(app, clock)
        app.hooks.on("task_sent", box.note_sent)
        app.hooks.on("task_received", box.note_received)
        try:
            yield box
        finally:
            app.hooks.off("task_sent", box.note_sent)
            app.hooks.off("task_received", box.note_received)
