"""An SQS event source mapping on this machine, by the rules of the real one.

Rules: "Using Lambda with Amazon SQS", "Configuring scaling behavior" and "Handling errors for an SQS event
source" in the Lambda Developer Guide.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cloudq.aws_lambda.event import event_of
from cloudq.aws_lambda.sandbox import FunctionFailed, Sandbox
from cloudq.brokers.base import Broker, Delivery, is_fifo
from cloudq.errors import ImproperlyConfigured, OperationalError

logger = logging.getLogger("cloudq.lambda")

#: Most bytes of an event.
MOST_BYTES: Final = 6 * 1024 * 1024
#: Seconds of one poll: a stop waits for it.
POLL: Final = 1.0
#: Advised: a queue's visibility timeout is this many times the function's timeout.
ADVISED: Final = 6


@dataclass(frozen=True, slots=True)
class Rules:
    """A mapping's settings. ``window`` and ``timeout`` (the function's) are seconds."""

    queue: str
    batch_size: int = 10
    window: float = 0.0
    concurrency: int = 1
    timeout: float = 30.0
    #: FunctionResponseTypes has ReportBatchItemFailures.
    reports: bool = True

    def __post_init__(self) -> None:
        fifo = is_fifo(self.queue)
        most = 10 if fifo else 10_000
        if not 1 <= self.batch_size <= most:
            raise ImproperlyConfigured(
                f"the batch size of {self.queue} is 1 to {most}, got {self.batch_size}"
            )
        if not 0 <= self.window <= 300 or (fifo and self.window):
            allowed = "0: FIFO queues have none" if fifo else "0 to 300 s"
            raise ImproperlyConfigured(
                f"the batching window of {self.queue} is {allowed}, got {self.window:g}"
            )
        if self.batch_size > 10 and self.window < 1:
            raise ImproperlyConfigured("a batch size over 10 needs a batching window of 1 s or more")
        if self.concurrency < 1:
            raise ImproperlyConfigured(f"concurrency is at least 1, got {self.concurrency}")
        if not 0 < self.timeout <= 900:
            raise ImproperlyConfigured(f"a function's timeout is at most 900 s, got {self.timeout:g}")


class EventSourceMapping:
    """Polls a queue and drives a function, ``concurrency`` sandboxes at a time."""

    def __init__(
        self,
        broker: Broker,
        rules: Rules,
        sandbox: Callable[[], Sandbox],
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Raises ImproperlyConfigured where AWS would refuse the mapping, QueueNotFound."""
        self._broker = broker
        self.rules = rules
        self._sandbox = sandbox
        self._tell = tell
        self._visibility = broker.describe(rules.queue).visibility_timeout
        if rules.timeout > self._visibility:
            raise ImproperlyConfigured(
                f"Lambda refuses a mapping whose function's timeout ({rules.timeout:g} s) is longer than the "
                f"visibility timeout of {rules.queue} ({self._visibility:g} s)"
            )
        if rules.timeout * ADVISED + rules.window > self._visibility:
            tell(
                f"{rules.queue}: a visibility timeout of {self._visibility:g} s is less than {ADVISED} times the "
                f"function's timeout ({rules.timeout:g} s), which AWS advises"
            )
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._active = time.monotonic()
        #: Since the start.
        self.invocations = self.deleted = self.failed = 0

    def run(self, stop_when_idle: float | None = None) -> None:
        """Until ``stop``, or until the queue was empty for so many seconds."""
        slots = [
            threading.Thread(target=self._slot, name=f"cloudq-mapping-{n}", daemon=True)
            for n in range(self.rules.concurrency)
        ]
        self._active = time.monotonic()
        for each in slots:
            each.start()
        while any(each.is_alive() for each in slots):
            slots[0].join(0.1)
            idle = time.monotonic() - self._active
            if stop_when_idle is not None and idle > stop_when_idle:
                self.stop()
            if not slots[0].is_alive():
                for each in slots:
                    each.join(0.1)

    def stop(self) -> None:
        """No further polls; invocations under way end. Returns at once."""
        self._stopping.set()

    # --- one slot -----------------------------------------------------------------------------

    def _slot(self) -> None:
        sandbox = self._sandbox()
        try:
            while not self._stopping.is_set():
                try:
                    batch = self._gather()
                    if batch:
                        self._serve(sandbox, batch)
                except OperationalError as error:
                    self._tell(f"{self.rules.queue}: {error}")
                    self._stopping.wait(1.0)
        finally:
            sandbox.close()

    def _gather(self) -> list[Delivery]:
        """A batch: full, or as large as its window or its bytes allow."""
        rules = self.rules
        found: list[Delivery] = []
        ends = 0.0
        while len(found) < rules.batch_size and not (found and self._stopping.is_set()):
            left = ends - time.monotonic() if found else POLL
            if left <= 0:
                break
            wait = min(POLL, left, self._broker.capabilities.max_wait)
            part = self._broker.receive(
                rules.queue, min(10, rules.batch_size - len(found)), wait, self._visibility
            )
            if not part and not found:
                return []
            if not found:
                ends = time.monotonic() + rules.window
            found += part
            if sum(len(each.body) for each in found) > MOST_BYTES // 2:
                break
        return found

    def _serve(self, sandbox: Sandbox, batch: list[Delivery]) -> None:
        self._active = time.monotonic() + self.rules.timeout
        begun, starts = time.monotonic(), sandbox.starts
        try:
            answer = sandbox.invoke(event_of(batch))
            failed = failures(answer, batch) if self.rules.reports else set()
            how = f"{len(failed)} reported" if failed else "all done"
        except FunctionFailed as error:
            failed, how = {each.message_id for each in batch}, f"{error.kind}: {error}"
        done = [each for each in batch if each.message_id not in failed]
        if done:
            self._broker.ack(done)
        with self._lock:
            self.invocations += 1
            self.deleted += len(done)
            self.failed += len(failed)
        took = 1000 * (time.monotonic() - begun)
        start = "cold start" if sandbox.starts > starts else "warm"
        self._tell(f"{self.rules.queue}: {start}, {len(batch)} messages, {how}, {took:.0f} ms")
        self._active = time.monotonic()


def failures(answer: Any, batch: list[Delivery]) -> set[str]:
    """Message ids that stay in the queue. What is no proper answer fails the whole batch, as in Lambda."""
    whole = {each.message_id for each in batch}
    if answer is None or answer == {}:
        return set()
    items = answer.get("batchItemFailures") if isinstance(answer, dict) else whole
    if items is None:
        return set()
    if not isinstance(items, list):
        logger.error("this is no batch response: %s", json.dumps(answer)[:500])
        return whole
    found = {each.get("itemIdentifier") if isinstance(each, dict) else None for each in items}
    return {str(each) for each in found} if found <= whole else whole
