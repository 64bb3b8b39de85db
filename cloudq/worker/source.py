"""One queue's messages: polls that ask for what can start soon, one on an idle queue, several on a deep one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from cloudq.brokers.base import Broker, Delivery, Interruptible
from cloudq.errors import OperationalError
from cloudq.monitoring.scaling import Waits
from cloudq.retry import backoff
from cloudq.worker.credit import Ask, Lane

logger = logging.getLogger("cloudq.worker")

#: Most polls in flight on one queue.
MAX_POLLS: Final = 8
#: A poll that has not come back this long after its wait is given up and replaced (seconds).
STUCK_AFTER: Final = 90.0
#: Longest wait of a poll that goes no further than this machine: it costs nothing to ask again, and a
#: worker that stops need not wait for it (seconds).
NEAR_WAIT: Final = 0.25
#: Seconds that a stopping worker waits for polls that cannot be hung up (boto3 driver): what they bring
#: (perhaps just what we gave back) is given back too.
POLL_GRACE: Final = 1.0
#: Seconds before the next poll of a queue that had fewer messages than asked for: what has just been handed on begins
#: meanwhile, instead of waiting for the interpreter's lock while the next request is made.
_LET_START: Final = 5e-5


class Source:
    """Receives from one queue and hands deliveries on, in its own threads.

    ``deliver(deliveries)`` must not block for long. Errors of the broker are waited out; a poll
    that died or hangs is replaced (``supervise``).
    """

    def __init__(
        self,
        broker: Broker,
        queue: str,
        lane: Lane,
        deliver: Callable[[list[Delivery]], None],
        *,
        wait: float,
        invisible: float,
        stuck_after: float = STUCK_AFTER,
    ) -> None:
        self.queue = queue
        self.lane = lane
        self._broker = broker
        self._deliver = deliver
        #: Polls go no further than this machine.
        self.near = broker.capabilities.reach != "cloud"
        self._wait = min(wait, NEAR_WAIT) if self.near else wait
        self._invisible = invisible
        self._stuck_after = stuck_after
        self._stopping = threading.Event()
        self._helpers_wanted = threading.Semaphore(0)
        #: Its polls begin, end and are replaced by different threads: one that is not yet started is not dead.
        self._changing = threading.Lock()
        self._pollers: list[_Poller] = []
        #: When a poll last succeeded (monotonic seconds), and why the last one failed, if it did.
        self.last_success = time.monotonic()
        self.last_error: str | None = None
        #: When (monotonic) a poll last succeeded, or none was due since no place was free.
        self.well_at = time.monotonic()
        self.received = 0
        self.polls = 0
        #: Polls that died or hung and were replaced.
        self.replaced = 0
        self.waits = Waits()

    def start(self) -> None:
        """Begin to poll."""
        with self._changing:
            self._pollers = [_Poller(self, number) for number in range(1, MAX_POLLS + 1)]
            for each in self._pollers:
                each.start()

    def stop(self) -> None:
        """No further polls. One in flight may still bring messages; they are handed on."""
        with self._changing:
            self._stopping.set()
            for _ in self._pollers:
                self._helpers_wanted.release()

    def join(self, timeout: float) -> bool:
        """Wait for polls in flight; False when one is still waiting for the queue's answer."""
        deadline = time.monotonic() + timeout
        for each in self._pollers:
            each.thread.join(max(0.0, deadline - time.monotonic()))
        return not any(each.thread.is_alive() for each in self._pollers)

    def interrupt(self) -> None:
        """Have polls in flight end at once, where the broker can; what they have brought is handed on."""
        if isinstance(self._broker, Interruptible):
            self._broker.interrupt([each.thread.ident for each in self._pollers if each.thread.ident])

    def supervise(self) -> None:
        """Replace polls that are dead or stuck. Called every second or so."""
        with self._changing:
            if self._stopping.is_set():
                return
            for place, poller in enumerate(self._pollers):
                since = poller.since
                stuck = since is not None and time.monotonic() - since > self._wait + self._stuck_after
                if stuck or not poller.thread.is_alive():
                    self._replace(place, poller, "hangs" if stuck else "has died")

    def _replace(self, place: int, poller: _Poller, what: str) -> None:
        logger.error("poll %d of queue %s %s; another takes its place", poller.number, self.queue, what)
        poller.give_up()
        self.replaced += 1
        self._pollers[place] = _Poller(self, poller.number)
        self._pollers[place].start()

    # --- in the pollers' threads ------------------------------------------------------------------

    def lead(self, poller: _Poller) -> None:
        """The first poll, always there: long where the queue is idle."""
        waits = backoff(0.5, 30.0)
        while not (self._stopping.is_set() or poller.given_up):
            ask = self.lane.ask(self._broker.capabilities.max_batch, 1.0)
            if ask is None:
                self.well_at = time.monotonic()
                continue
            if self._poll(poller, ask, self._wait):
                waits = backoff(0.5, 30.0)
            else:
                self._stopping.wait(next(waits))

    def help(self, poller: _Poller) -> None:
        """A further poll: woken when the queue proved deep, asleep again once it no longer is."""
        while not poller.given_up:
            self._helpers_wanted.acquire()
            if self._stopping.is_set():
                return
            ask = self.lane.ask(self._broker.capabilities.max_batch)
            if ask is not None:
                self._poll(poller, ask, 0.0)

    def _poll(self, poller: _Poller, ask: Ask, wait: float) -> bool:
        """One receive; did it succeed?"""
        self.polls += 1
        got: int | None = None
        poller.begin(ask)
        try:
            deliveries = self._broker.receive(self.queue, ask.count, wait, self._invisible)
            got = len(deliveries)
        except OperationalError as error:
            self._failed(error)
        except Exception as error:
            self._failed(error)
            logger.exception("receiving from %s failed in a way nobody foresaw", self.queue)
        finally:
            poller.end()
            self.lane.answer(ask, got)
        if got is None:
            return False
        self.last_success = self.well_at = time.monotonic()
        self.last_error = None
        if deliveries:
            self.received += got
            self.waits.note(deliveries)
            if got >= ask.count and ask.more:
                self._helpers_wanted.release()
            self._deliver(deliveries)
            if got < ask.count:
                time.sleep(_LET_START)
        return True

    def _failed(self, error: Exception) -> None:
        if self._stopping.is_set():
            return
        self.last_error = f"{type(error).__name__}: {error}"
        if isinstance(error, OperationalError):
            logger.warning("receiving from %s: %s; trying again", self.queue, error)


def end_polls(sources: Iterable[Source], patience: float) -> None:
    """Nothing else is left to do: wait ``patience`` seconds for polls in flight, then hang up."""
    until = time.monotonic() + patience
    for source in sources:
        source.join(until - time.monotonic())
    until = time.monotonic() + POLL_GRACE
    for source in sources:
        source.interrupt()
        while not source.join(0.02) and time.monotonic() < until:
            source.interrupt()  # once more: it may just have been about to ask


class _Poller:
    """One thread that polls; the first of a source leads, the others help."""

    def __init__(self, source: Source, number: int) -> None:
        self.number = number
        self.given_up = False
        #: When its poll began (monotonic); None between polls.
        self.since: float | None = None
        self._ask: Ask | None = None
        self._lane = source.lane
        self.thread = threading.Thread(
            target=source.lead if number == 1 else source.help,
            args=(self,),
            name=f"cloudq-poll-{source.queue}-{number}",
            daemon=True,
        )

    def start(self) -> None:
        self.thread.start()

    def begin(self, ask: Ask) -> None:
        """It asks the broker now."""
        self._ask = ask
        self.since = time.monotonic()

    def end(self) -> None:
        """The broker has answered."""
        self.since = None

    def give_up(self) -> None:
        """Nobody waits for it any more. What it may yet bring is handed on all the same."""
        self.given_up = True
        if self.since is not None and self._ask is not None:
            self._lane.answer(self._ask, None)
