"""The worker's end of the control plane: signs of life, and now and then a look at the board."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import cloudq
from cloudq.brokers.base import Delivery
from cloudq.control.broadcast import Answering
from cloudq.control.revocations import Revocations
from cloudq.control.roster import WorkerInfo, level_of
from cloudq.coordination.board import Board, Order
from cloudq.errors import CorruptRecord, OperationalError, ValueTooLarge
from cloudq.pools.base import Active
from cloudq.runtime.naming import named
from cloudq.serializers.peek import peek
from cloudq.worker.adjust import Adjust
from cloudq.worker.batches import deliveries_of
from cloudq.worker.commands import Commands

if TYPE_CHECKING:
    from cloudq.worker.worker import Worker

logger = logging.getLogger("cloudq.control")

#: Seconds between two looks, and two signs of life: at a store in the cloud, where each costs money, and
#: at one on this machine.
FAR: Final = (15.0, 30.0)
NEAR: Final = (1.0, 5.0)
#: Longest that a stopping worker tries to say that it is gone, seconds.
SIGN_OFF: Final = 3.0
#: Running tasks that a sign of life names.
NAMED: Final = 20


class Steering:
    """One per worker, with a thread of its own. Does nothing at level ``off``, or without a results store."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        app = worker.app
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing: set[str] = set()
        self._done: set[str] | None = None
        self._commands = Commands(worker)
        self.adjust = Adjust(worker)
        #: What to do once the answers are out.
        self.afterwards: list[Callable[[], Any]] = []
        self.started = app.clock.time()
        self.revocations: Revocations | None = None
        #: Does each look at the store cost money?
        self.far = app.backend is not None and app.backend.capabilities.reach == "cloud"
        if level_of(app.conf.monitoring) == 0 or app.backend is None:
            return
        looks, beats = FAR if self.far else NEAR
        self.interval: float = app.conf.control_interval or looks
        self.beat_every: float = app.conf.worker_heartbeat_interval or beats
        self._answering = Answering(app.backend, app.clock)
        self.revocations = Revocations(app.control.boards, app.clock)
        worker.lifecycle.revoked = self.revocations.why

    @property
    def on(self) -> bool:
        """Does it do anything?"""
        return self.revocations is not None

    def start(self) -> None:
        """A first sign of life, then one after the other."""
        if not self.on:
            return
        self._try("looking for a namesake", self._warn_of_namesake)
        self.beat()
        self._thread = threading.Thread(target=self._run, name="cloudq-control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """No more signs of life: the worker is gone, and says so."""
        self._closed.set()
        if self._thread is None:
            return
        if self._thread is not threading.current_thread():
            self._thread.join(2.0)
        # in a thread: a store that is away must not keep a worker that has nothing else to do
        leaving = threading.Thread(target=self._sign_off, name="cloudq-sign-off", daemon=True)
        leaving.start()
        leaving.join(SIGN_OFF)

    def _sign_off(self) -> None:
        hostname = self._worker.hostname
        self._try("signing off", lambda: self._worker.app.control.roster.leave(hostname))

    def look(self) -> None:
        """Read the board once and act on it. Never raises for a store that is away: the next look may do."""
        if self.revocations is None:
            return
        if not self._try("looking for revocations and commands", self.revocations.look):
            return
        self._obey(self.revocations.board)
        if self.revocations:
            self._stop_revoked()

    def beat(self) -> None:
        """One sign of life. Never raises for a store that is away."""
        app = self._worker.app
        self._try("writing a sign of life", lambda: app.control.roster.beat(self.info()))
        app.hooks.fire("worker_heartbeat", worker=self._worker)

    def revoked(self, delivery: Delivery) -> bool:
        """Is this message's task not to run? From memory."""
        if not self.revocations:
            return False
        found = peek(delivery.body, delivery.message_id)
        return self.revocations.find(found.id, found.headers) is not None

    def info(self) -> WorkerInfo:
        """What a sign of life says."""
        worker = self._worker
        active: list[Active] = getattr(worker.pool, "active", list)()
        return WorkerInfo(
            hostname=worker.hostname,
            app=worker.app.main,
            pid=os.getpid(),
            host=os.uname().nodename,
            pool=worker.pool_name,
            concurrency=worker.concurrency,
            queues=tuple(worker.queues),
            started=self.started,
            at=worker.app.clock.time(),
            every=self.beat_every,
            looks_every=self.interval,
            version=cloudq.__version__,
            level=worker.conf.monitoring,
            stopping=worker.stopping,
            paused=tuple(self.adjust.paused),
            stats={**worker.stats(), "active": len(active)},
            running=tuple(_named(each) for each in active[:NAMED]),
        )

    # --- parts --------------------------------------------------------------------------------

    def _warn_of_namesake(self) -> None:
        worker = self._worker
        for other in worker.app.control.roster.alive([worker.hostname]):
            if (other.host, other.pid) != (os.uname().nodename, os.getpid()) and not other.stopping:
                logger.warning(
                    "another worker is called %s (process %d on %s): commands and `cloudq status` cannot tell "
                    "them apart; give each a --hostname of its own",
                    other.hostname,
                    other.pid,
                    other.host,
                )

    def _run(self) -> None:
        look_at = time.monotonic() + self.interval * random.random()
        beat_at = time.monotonic() + self.beat_every * random.random()
        while not self._closed.wait(max(0.0, min(look_at, beat_at) - time.monotonic())):
            try:
                if time.monotonic() >= look_at:
                    look_at = time.monotonic() + self.interval
                    self.look()
                if time.monotonic() >= beat_at:
                    beat_at = time.monotonic() + self.beat_every
                    self.beat()
            except Exception:
                logger.exception("the control plane failed; going on")

    def _try(self, what: str, call: Callable[[], Any]) -> Any:
        """The call's value, or None when the store is away or a document damaged: said once, until it works."""
        try:
            value = call()
        except (OperationalError, CorruptRecord) as error:
            if what not in self._failing:
                logger.warning("%s: %s; trying again", what, error)
            self._failing.add(what)
            return None
        self._failing.discard(what)
        return value

    def _obey(self, board: Board) -> None:
        """Carry out what the board asks for and has not been done here."""
        self.adjust.pause(board.paused)
        known = {each.id for each in board.orders}
        if self._done is None:  # orders that were there before us were for others
            self._done = known
            return
        for order in board.orders:
            mine = order.to is None or self._worker.hostname in order.to
            if mine and order.id not in self._done and order.until > self._worker.app.clock.time():
                self._done.add(order.id)  # first: an order that kills us is not obeyed again
                self._do(order)
        self._done &= known

    def _do(self, order: Order) -> None:
        answer = self._commands.run(order.do, order.args)
        if order.do not in Commands.QUESTIONS:
            logger.info("command %s(%s): %s", order.do, order.args, answer)
        self._try("answering", lambda: self._answer(order, answer))
        afterwards, self.afterwards = self.afterwards, []
        for each in afterwards:
            each()

    def _answer(self, order: Order, answer: dict[str, Any]) -> None:
        try:
            self._answering.give(order, self._worker.hostname, answer)
        except ValueTooLarge as error:
            short = {"error": f"the answer is too long for the results store: {error}"}
            self._answering.give(order, self._worker.hostname, short)

    def _stop_revoked(self) -> None:
        """What the worker has in hand: waiting messages are taken back, running ones stopped where asked."""
        pool, revocations = self._worker.pool, self.revocations
        assert revocations is not None
        for delivery in list(self._worker.running.values()):
            found = peek(delivery.body, delivery.message_id)
            hit = revocations.find(found.id, found.headers)
            if hit is None:
                continue
            # prepare() looks as well: what waits inside a pool of this process never runs
            quarantine = self._worker.quarantine
            if quarantine is not None and quarantine.cancel(delivery, hit.terminate):
                continue
            cancel = getattr(pool, "cancel", None)
            if cancel is not None and cancel(delivery, hit.terminate):
                logger.info("task %s is stopped: revoked by %s", named(found.task, found.id), hit.by)
            elif hit.terminate and cancel is None:
                logger.warning("task %s is revoked, but this pool stops nothing", named(found.task, found.id))


def _named(active: Active) -> dict[str, Any]:
    first = deliveries_of(active.job)[0]  # of a batch; one entry per run is enough here
    found = peek(first.body, first.message_id)
    return {"id": found.id, "name": found.task, "queue": first.queue, "since": round(active.since, 3)}
