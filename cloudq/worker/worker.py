"""The worker: sources bring deliveries, a pool runs them, verdicts are carried out, leases are kept."""

from __future__ import annotations

import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from cloudq import plugins
from cloudq.app import CloudQ
from cloudq.brokers.base import Delivery, QueueInfo
from cloudq.errors import ImproperlyConfigured
from cloudq.pools.base import Cancelled, Died, End, Finished, Pool, Remote, Returned, TimedOut
from cloudq.pools.prefork import PreforkPool
from cloudq.runtime.heartbeat import Leases
from cloudq.runtime.verdict import Abandon, Ack, Bury, Hold, Release, Verdict
from cloudq.worker import folder, intake
from cloudq.worker.batches import Batch, Batches, deliveries_of
from cloudq.worker.cores import default_concurrency
from cloudq.worker.credit import AHEAD, Credit, Lane
from cloudq.worker.demand import Demand
from cloudq.worker.disposal import Disposal
from cloudq.worker.feeding import Feeding
from cloudq.worker.groups import Groups
from cloudq.worker.quarantine import Quarantine
from cloudq.worker.runner import WorkerRunner, spec
from cloudq.worker.source import NEAR_WAIT, Source, end_polls
from cloudq.worker.steering import Steering
from cloudq.worker.waiting import Waiting

logger = logging.getLogger("cloudq.worker")


class Worker:
    """Consumes queues until it is stopped. ``run()`` blocks; ``stop()`` may be called from anywhere.

    ``queues`` are names, or ``name=concurrency``, ``name:weight`` (see ``worker.intake``). ``app_path``
    (``module:app``) is needed by pools of processes, whose children load the app anew.
    """

    def __init__(
        self,
        app: CloudQ,
        queues: Sequence[str] = (),
        *,
        pool: str | None = None,
        concurrency: int | None = None,
        hostname: str | None = None,
        app_path: str | None = None,
        loglevel: int = logging.INFO,
        stop_when_idle: float | None = None,
    ) -> None:
        self.app = app
        self.conf = app.conf
        self._intakes = intake.parse(queues) or [intake.Intake(app.conf.task_default_queue)]
        self.queue_order = intake.order_of(self._intakes, app.conf.worker_queue_order)
        self.pool_name = pool or app.conf.worker_pool
        self.concurrency = (
            concurrency
            or intake.concurrency_of(self._intakes)
            or app.conf.worker_concurrency
            or default_concurrency(self.pool_name)
        )
        self._intakes = intake.with_siblings(self._intakes, app.conf.task_queue_priorities, self.queue_order)
        self.queues = [each.queue for each in self._intakes]
        self.hostname = hostname or f"cloudq@{socket.gethostname()}.{os.getpid()}"
        self._app_path = app_path
        self._loglevel = loglevel
        self._stop_when_idle = stop_when_idle
        if self.concurrency < 1:
            raise ImproperlyConfigured(f"concurrency is at least 1, got {self.concurrency}")
        self.infos: dict[str, QueueInfo] = {}
        self.pool: Pool | None = None
        self.quarantine: Quarantine | None = None
        self.sources: list[Source] = []
        self._lanes: dict[str, Lane] = {}
        self._groups = Groups()
        self.waiting = Waiting(self._resume)
        self._started = self._stopping = False
        self._lock = threading.Lock()
        self._deadline: float | None = None
        self._cold = False
        self._cut_short = 0
        self._why = "asked to"
        self.running: dict[str, Delivery] = {}
        self._judges: list[threading.Thread] = []
        # None wakes run() up. SimpleQueue, because a signal handler must take no lock that we may hold.
        self._inbox: queue.SimpleQueue[Delivery | Batch | None] = queue.SimpleQueue()
        self._stops: queue.SimpleQueue[str] = queue.SimpleQueue()

    # --- start --------------------------------------------------------------------------------

    def check(self) -> None:
        """Look at the pool, every queue and the store once; raises what a user can do something about."""
        if self.pool is None:
            self.pool = self._make_pool()
        for name in self.queues:
            self.infos[name] = self.app.broker.describe(name)
        if self.app.backend is not None:
            self.app.backend.read("task/cloudq-worker-start")
        if self.app.claims is not None:
            self.app.claims.check()

    def start(self) -> None:
        """Check, then begin to consume. Raises OperationalError or ImproperlyConfigured."""
        self.app.hooks.fire("worker_init", worker=self)
        if not self.infos:
            self.check()
        assert self.pool is not None
        broker = self.app.broker
        self.lifecycle = self.app.lifecycle(self.hostname)
        self.leases = Leases(broker, self.app.clock, self._lost)
        self.lifecycle.settler.holds = self.leases.holds
        self.lifecycle.settler.eased = self.leases.ease
        self.lifecycle.settler.can_hold = True
        claims = self.app.claims
        self.disposal = Disposal(broker, self.leases, *([claims.forget] if claims else []))
        ahead = AHEAD if self.conf.worker_prefetch_multiplier else 0
        self.credit = Credit(self.places(self.concurrency), self.queue_order, ahead=ahead)
        self.steering = Steering(self)
        self.adjust = self.steering.adjust
        self.demand = Demand(self)
        self.adjust.spec = self._spec()
        if isinstance(self.pool, Remote):
            self.pool.answer_to(self)
        elif self._app_path is not None:
            self.quarantine = Quarantine(self._last_resort, self._start_task)
        self.pool.start(self.adjust.spec, WorkerRunner(self.lifecycle))
        self.batches = Batches(self.app.tasks, self._rejoins, self._hand_on, self.leases.holds)
        self.leases.start()
        self.disposal.start()
        for name in self.queues:
            self.sources.append(self.make_source(name))
        self.feeding.start()
        self.steering.look()  # before the first message: what was revoked while nobody worked stays undone
        threading.Thread(target=self._follow_stops, name="cloudq-stops", daemon=True).start()
        for source in self.sources:
            source.start()
        self.steering.start()
        logger.info("ready: consuming %s", ", ".join(self.queues))
        self._started = True
        self.app.hooks.fire("worker_ready", worker=self)

    def _make_pool(self) -> Pool:
        factory = plugins.load("pools", self.pool_name)
        options: dict[str, Any] = {}
        if self.pool_name == "prefork":
            if self._app_path is None:
                raise ImproperlyConfigured(
                    "the prefork pool loads the app in its children: start it with -A module:app"
                )
            options = {
                "max_tasks_per_child": self.conf.worker_max_tasks_per_child,
                "max_memory_per_child": self.conf.worker_max_memory_per_child,
            }
        if self.pool_name == "solo":
            self.concurrency = 1
        pool: Pool = factory(self.concurrency, **options)
        return pool

    def _last_resort(self) -> Pool:
        """A process for tasks that may have killed others."""
        assert self.adjust.spec is not None
        pool = PreforkPool(1)
        pool.answer_to(self)
        pool.start(self.adjust.spec)
        return pool

    def _spec(self) -> Any:
        explicit = {name: value for name, value in self.conf.items() if self.conf.explicit(name)}
        # what belongs to this worker alone, for all of its children: limits per worker
        self._folder = folder.make()
        shared = f"sqlite:///{os.path.join(self._folder.name, 'worker.db')}"
        self.feeding = Feeding(self, self._folder.name)
        path = self._app_path or ""
        return spec(path, self.hostname, explicit, self._loglevel, shared, self.feeding.spool)

    def places(self, concurrency: int) -> int:
        """How many messages to hold when so many tasks run at once."""
        return max(1, concurrency + int(concurrency * self.conf.worker_prefetch_multiplier))

    @property
    def stopping(self) -> bool:
        """Was it asked to stop?"""
        return self._stopping

    def make_source(self, name: str) -> Source:
        """Polls of one queue, to be started. Its place among the queues is what it was, if it was there before."""
        each = next((found for found in self._intakes if found.queue == name), intake.Intake(name))
        invisible = self.conf.worker_visibility_timeout or self.infos[name].visibility_timeout
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = self.credit.lane(each.weight or 1.0, each.most, each.family)
        return Source(
            self.app.broker,
            name,
            lane,
            self._deliver,
            wait=min(self.conf.worker_wait_time, self.app.broker.capabilities.max_wait),
            invisible=max(1.0, invisible),
        )

    # --- run ----------------------------------------------------------------------------------

    def run(self) -> int:
        """Consume until stopped; returns the exit code: 0, or 3 when running tasks were cut short."""
        if not self._started:
            self.start()
        idle_since = time.monotonic()
        while not self._stopping:
            self._run_solo(0.2 if self._stop_when_idle is not None else 1.0)
            for source in self.sources:
                source.supervise()
            if (
                self.credit.held
                or self.waiting
                or self.batches
                or any(source.last_error for source in self.sources)
            ):
                idle_since = time.monotonic()
            received = max((s.last_success for s in self.sources), default=0.0)
            if self._stop_when_idle is not None and received - idle_since > self._stop_when_idle:
                self.stop("idle")
        return self._shut_down()

    def stop(self, why: str = "asked to") -> None:
        """Stop: warm at the first call, at once at the second. Returns immediately; never blocks.

        Safe in a signal handler: it takes no lock.
        """
        if self._stopping:
            self._cold = True
            self._deadline = time.monotonic()
        else:
            self._deadline = time.monotonic() + self.conf.worker_shutdown_timeout
            self._stopping = True
        self._why = why
        self._inbox.put(None)
        self._stops.put(why)

    def _follow_stops(self) -> None:
        """Act on ``stop`` where the main thread may be busy: waiting for the pool, or running a solo task."""
        assert self.pool is not None
        self._stops.get()
        rest: float | None = None
        if self.pool_name == "solo":
            self._stop_polls()
            self._empty_inbox()
            self._inbox.put(None)
            rest = max(0.0, (self._deadline or 0.0) - time.monotonic())
        try:
            self._stops.get(timeout=rest)
        except queue.Empty:
            pass
        self.pool.stop(0.0)
        if self.quarantine is not None:
            self.quarantine.stop(0.0)

    def _shut_down(self) -> int:
        """Stop polling, give back what has not started, wait for what runs, then cut it short."""
        assert self.pool is not None
        self.app.hooks.fire("worker_stopping", worker=self, signal=self._why)
        running = len(self.running)
        logger.info("stopping (%s): no new messages; %d in hand", self._why, running)
        self._stop_polls()
        self.waiting.close()
        for delivery in self.batches.close():
            self._resume(delivery)
        for delivery in self._groups.clear():
            self._dispose(delivery, Release(0.0))
        self._empty_inbox()
        self.disposal.flush(1.0)
        grace = max(0.0, (self._deadline or 0.0) - time.monotonic())
        self.pool.stop(0.0 if self._cold else grace)
        if self.quarantine is not None:
            self.quarantine.stop(max(0.0, (self._deadline or 0.0) - time.monotonic()))
        end_polls(self.sources, 0.0 if self._cold else self.conf.worker_poll_patience)
        self.lifecycle.hurry()
        for judge in list(self._judges):
            judge.join(0.0 if self._cold else 2.0)
        if not self.disposal.flush(2.0 if self._cold else 10.0):
            logger.warning(
                "not every message could be acknowledged or given back; those will be delivered again"
            )
        self.steering.close()
        self.feeding.close()
        self.disposal.close()
        self.leases.close()
        self._folder.cleanup()
        self._stops.put("stopped")
        self.app.hooks.fire("worker_stopped", worker=self)
        if self._cut_short:
            logger.warning("%d running tasks were cut short; they will be delivered again", self._cut_short)
        logger.info("stopped")
        return 3 if self._cut_short else 0

    def _stop_polls(self) -> None:
        """No new polls; those in flight end first where they end soon, or they would take what we give back."""
        for source in self.sources:
            source.stop()
        self.credit.close()
        for source in self.sources:
            if source.near:
                source.join(2 * NEAR_WAIT)

    # --- a delivery's way through the worker ------------------------------------------------------

    def _deliver(self, deliveries: list[Delivery]) -> None:
        self.leases.add(deliveries)
        wanted = self.adjust.takes(deliveries[0].queue)
        for delivery in deliveries:
            if self._stopping or not wanted:
                self._dispose(delivery, Release(0.0))
            elif self._groups.admit(delivery):
                self._submit(delivery)

    def _submit(self, delivery: Delivery) -> None:
        assert self.pool is not None
        if not self.leases.holds(delivery):
            self._ended(delivery, Finished(Abandon()))
            return
        self.running[delivery.receipt] = delivery
        if self.steering.revoked(delivery):
            self._ended(delivery, Cancelled(started=False))
            return
        if self.quarantine is not None and self._last_chance(delivery):
            self.quarantine.submit(delivery, lambda end: self._ended(delivery, end))
        else:
            self._start_task(delivery)

    def _start_task(self, delivery: Delivery) -> None:
        if self.batches.add(delivery):  # what waits for company keeps no others from being received
            self._lanes[delivery.queue].give(1 + self._groups.behind(delivery))
        else:
            self._hand_on(delivery)

    def _hand_on(self, job: Delivery | Batch) -> None:
        assert self.pool is not None
        if self.pool_name == "solo":
            self._inbox.put(job)  # run() takes it: solo tasks run on the main thread
        else:
            self.pool.submit(job, partial(self._job_ended, job))

    def _job_ended(self, job: Delivery | Batch, end: End) -> None:
        if isinstance(job, Delivery):
            self._ended(job, end)
        else:
            for delivery, own in self.batches.ends(job, end):
                self._ended(delivery, own)

    def _last_chance(self, delivery: Delivery) -> bool:
        """Would its queue move it to the dead letters instead of delivering it once more?"""
        limit = self.infos[delivery.queue].max_receive_count
        return limit is not None and 1 < limit <= delivery.receive_count

    def _run_solo(self, wait: float) -> None:
        """For ``wait`` seconds, run what comes in, one after another, on this thread."""
        assert self.pool is not None
        until = time.monotonic() + wait
        while not self._stopping and (rest := until - time.monotonic()) > 0:
            try:
                job = self._inbox.get(timeout=rest)
            except queue.Empty:
                return
            if job is not None:
                self.pool.submit(job, partial(self._job_ended, job))

    def _empty_inbox(self) -> None:
        while True:
            try:
                job = self._inbox.get_nowait()
            except queue.Empty:
                return
            for delivery in () if job is None else deliveries_of(job):
                self._conclude(delivery, Release(0.0))

    def _ended(self, delivery: Delivery, end: End) -> None:
        if isinstance(end, Finished):
            self._conclude(delivery, end.reply)
            return
        if isinstance(end, Cancelled) and self.leases.lost(delivery):
            self._conclude(delivery, Abandon())
            return
        # A hard limit is the task's own doing even while we stop; a death then is ours.
        if isinstance(end, TimedOut | Cancelled) or (isinstance(end, Died) and not self._stopping):
            # Judging a loss asks the store; the pool's own thread must not wait for that.
            judge = threading.Thread(
                target=self._judge, args=(delivery, end), name="cloudq-judge", daemon=True
            )
            self._judges.append(judge)
            judge.start()
        else:
            if not isinstance(end, Returned):  # we stopped it ourselves: not the task's fault
                self._cut_short += 1
            self._conclude(delivery, Release(0.0))

    def _judge(self, delivery: Delivery, end: Died | TimedOut | Cancelled) -> None:
        self._conclude(delivery, self.lifecycle.lost(delivery, end))
        self._judges.remove(threading.current_thread())

    def _conclude(self, delivery: Delivery, verdict: Verdict) -> None:
        self.running.pop(delivery.receipt, None)
        if isinstance(verdict, Hold) and not self._stopping and self.waiting.add(delivery, verdict.delay):
            # neither it nor what waits for it may keep others from being received
            self._lanes[delivery.queue].give(1 + self._groups.behind(delivery))
            return
        if delivery.group_id is None:
            self._dispose(delivery, verdict)
            return
        successor, back = self._groups.done(delivery, isinstance(verdict, Ack | Bury))
        self._dispose(delivery, verdict)
        for each in back:
            self._dispose(each, Release(0.0))
        if successor is not None:
            if self._stopping:
                self._dispose(successor, Release(0.0))
            else:
                self._submit(successor)

    def _resume(self, delivery: Delivery) -> None:
        """A message that was held may ask again."""
        if self._rejoins(delivery):
            self._submit(delivery)

    def _rejoins(self, delivery: Delivery) -> bool:
        """A message that was set aside counts again; is it still to run?"""
        self._lanes[delivery.queue].take(1 + self._groups.behind(delivery))
        ours = self.leases.holds(delivery)
        if ours and not self._stopping:
            return True
        self._conclude(delivery, Release(0.0) if ours else Abandon())
        return False

    def _dispose(self, delivery: Delivery, verdict: Verdict) -> None:
        self.disposal.apply(delivery, verdict, self._lanes[delivery.queue].give)

    # --- leases -----------------------------------------------------------------------------------

    def wanted(self, job: Delivery | Batch) -> bool:
        """As Owner.wanted: is the lease still ours?"""
        return all(self.leases.holds(each) for each in deliveries_of(job))

    def eased(self, job: Delivery | Batch) -> None:
        """As Owner.eased."""
        for each in deliveries_of(job):
            self.leases.ease(each)

    def _lost(self, delivery: Delivery) -> None:
        """Somebody else may hold it: it does not start any more, a coroutine is stopped, what runs
        elsewhere learns that it is not to settle."""
        self.app.hooks.fire("lease_lost", delivery=delivery)
        for pool in (self.pool, self.quarantine):
            cancel = getattr(pool, "cancel", None)
            if cancel is not None and cancel(delivery, self.pool_name == "asyncio"):
                return
            if isinstance(pool, Remote | Quarantine):
                pool.withdraw(self.batches.job_of(delivery))

    def stats(self) -> dict[str, Any]:
        """Numbers since the start."""
        return {
            "hostname": self.hostname,
            "pid": os.getpid(),
            "pool": self.pool_name,
            "concurrency": self.concurrency,
            "held": self.credit.held,
            "running": len(self.running),
            "waiting": len(self.waiting) + len(self.batches),
            "acked": self.disposal.acked,
            "released": self.disposal.released,
            "buried": self.disposal.buried,
            "leases_lost": self.leases.lost_count,
            "queues": {
                s.queue: {
                    "received": s.received,
                    "polls": s.polls,
                    "polls_replaced": s.replaced,
                    "held": s.lane.held,
                    "waited": s.waits.longest(),
                }
                for s in self.sources
            },
        }
