"""A pool of processes (decision 14): the parent hands jobs down and takes replies, children run them.

A child that dies, or runs past a hard limit and is killed, costs its own job and nobody else's. One
supervisor thread waits for all children at once, without polling; a job goes to an idle child
straight from the thread that submits it.
"""

from __future__ import annotations

import logging
import math
import pickle
import selectors
import signal
import socket
import sys
import threading
import time
from collections import deque
from typing import Any, Final

from cloudq.errors import ImproperlyConfigured
from cloudq.pools import frames
from cloudq.pools.base import Active, Cancelled, Died, End, Finished, Owner, Returned, Runner, RunnerSpec
from cloudq.pools.claim import Done, tell
from cloudq.pools.launch import Launcher, launcher
from cloudq.pools.place import BUSY, IDLE, LEAVING, STARTING, Place

logger = logging.getLogger("cloudq.pools")

#: Seconds that an idle child has to close its runner and exit, in a running and in a stopping pool.
_EXIT: Final = 30.0
_EXIT_AT_STOP: Final = 2.0
#: Seconds before another child is tried when children cannot start: doubling from, at most.
_PAUSE: Final = (0.5, 30.0)
_TERMINAL: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

Told = list[tuple[Done, End]]


class PreforkPool:
    """``size`` child processes, each with a runner of its own.

    ``max_tasks_per_child`` and ``max_memory_per_child`` (KiB; the most resident memory that it ever
    had, as Celery counts) replace a child between jobs. ``start_method`` is ``spawn`` (a fresh interpreter for each child,
    children of this process) or ``forkserver`` (forks of one clean process: quicker replacements).
    ``start_timeout`` is how long a child may take to make its runner, in seconds.
    """

    def __init__(
        self,
        size: int,
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | None = None,
        start_method: str = "spawn",
        start_timeout: float = 120.0,
    ) -> None:
        if size < 1:
            raise ImproperlyConfigured(f"a pool of processes has at least 1, not {size}")
        self._size = size
        self._max_tasks = max_tasks_per_child
        self._max_memory = max_memory_per_child * 1024 if max_memory_per_child else None
        self._start_timeout = start_timeout
        self._launcher: Launcher = launcher(start_method)
        self._spec: RunnerSpec | None = None
        self._lock = threading.Lock()
        self._places: set[Place] = set()
        self._idle: list[Place] = []
        self._pending: deque[tuple[bytes, Done, Any]] = deque()
        self._owner: Owner | None = None
        self._selector = selectors.DefaultSelector()
        self._thread: threading.Thread | None = None
        self._up = threading.Condition(self._lock)
        self._was_up = False
        self._start_error: str | None = None
        self._failures = 0
        self._retry_at = -math.inf
        self._stopping = False
        self._deadline = math.inf
        self._gone = threading.Event()

    @property
    def size(self) -> int:
        """How many jobs run at once."""
        return self._size

    @property
    def pids(self) -> list[int]:
        """The children that live now."""
        with self._lock:
            return [place.process.pid for place in self._places]

    # --- the contract -------------------------------------------------------------------------

    def start(self, spec: RunnerSpec, runner: Runner | None = None) -> None:
        """As Pool.start: returns when every child is ready."""
        try:
            pickle.dumps(spec, 5)
        except Exception as error:
            raise ImproperlyConfigured(
                f"the arguments of the runner {spec.factory} cannot be sent to a child process: {error}"
            ) from error
        self._spec = spec
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._supervise, name="cloudq-prefork", daemon=True)
        self._thread.start()
        with self._up:
            self._up.wait_for(lambda: self._was_up or self._start_error is not None or self._stopping)
            error_text = None if self._was_up else self._start_error
        if error_text is not None:
            self.stop(0.0)
            raise ImproperlyConfigured(f"the pool's children cannot start: {error_text}")

    def submit(self, job: Any, done: Done) -> None:
        """As Pool.submit. A job that cannot be pickled ends as Died, not started."""
        try:
            data = frames.pack(frames.JOB, pickle.dumps(job, 5))
        except Exception as error:  # noqa: BLE001  anything may come out of a pickling class
            text = f"the job, a {type(job).__name__}, cannot be pickled: {type(error).__name__}: {error}"
            tell(done, Died(text, started=False))
            return
        with self._lock:
            accepted = not self._stopping
            if accepted:
                wake = self._assign(data, done, job)
        if not accepted:
            tell(done, Returned())
        elif wake:
            self._wake()

    def resize(self, size: int) -> None:
        """As Resizable.resize."""
        if size < 1:
            raise ValueError(f"a pool of processes has at least 1, not {size}")
        with self._lock:
            self._size = size
        self._wake()

    def restart(self, spec: RunnerSpec) -> None:
        """As Restartable.restart. A child that is just starting ends when it is ready."""
        with self._lock:
            self._spec = spec
            for place in self._places:
                place.last = True
            for place in self._idle:
                place.dismiss(_EXIT)
            self._idle.clear()
        self._wake()

    def active(self) -> list[Active]:
        """As Steerable.active."""
        with self._lock:
            running = [place.running for place in self._places]
        return [each for each in running if each is not None]

    def cancel(self, job: Any, running: bool) -> bool:
        """As Steerable.cancel: a job that waits never runs, the child that runs one is killed."""
        with self._lock:
            waiting = next((each for each in self._pending if each[2] is job), None)
            if waiting is not None:
                self._pending.remove(waiting)
            elif not (running and self._kill_for(job)):
                return False
        if waiting is not None:
            tell(waiting[1], Cancelled(started=False))
        self._wake()
        return True

    def answer_to(self, owner: Owner) -> None:
        """As Remote.answer_to."""
        self._owner = owner

    def withdraw(self, job: Any) -> None:
        """As Remote.withdraw."""
        with self._lock:
            for place in self._places:
                if place.running is not None and place.running.job is job:
                    place.withdraw()
        self._wake()

    def _kill_for(self, job: Any) -> bool:
        for place in self._places:
            if place.running is not None and place.running.job is job:
                if place.killed or not place.talks or place.ending():
                    return False  # it has just ended, or is about to end anyway
                place.kill("killed: its job was cancelled")
                place.cancelled = True
                return True
        return False

    def stop(self, grace: float) -> None:
        """As Pool.stop: returns when every child is gone (at once when called from a ``done``)."""
        with self._lock:
            self._stopping = True
            self._deadline = min(self._deadline, time.monotonic() + grace)
            returned = list(self._pending)
            self._pending.clear()
            self._up.notify_all()
        for _, done, _ in returned:
            tell(done, Returned())
        if self._thread is None:
            return
        self._wake()
        if self._thread is not threading.current_thread():
            self._gone.wait()

    # --- jobs (all under the lock) ------------------------------------------------------------

    def _assign(self, data: bytes, done: Done, job: Any) -> bool:
        """Give the job to an idle child, or keep it. True when the supervisor must look."""
        while self._idle:
            place = self._idle.pop()
            if place.give(data, done, job):
                return place.writing
            place.state = LEAVING  # it has died: the supervisor is about to hear of it
        self._pending.append((data, done, job))
        return False

    def _next(self, place: Place) -> None:
        """The child is free: another job, or rest, or the end."""
        excess = sum(each.state != LEAVING for each in self._places) > self._size
        if place.killed:
            place.state = LEAVING
        elif self._stopping or place.last or excess:
            place.dismiss(_EXIT_AT_STOP if self._stopping else _EXIT)
        elif self._pending and place.give(*self._pending[0]):
            self._pending.popleft()
        else:
            place.state = IDLE
            self._idle.append(place)

    # --- the supervisor -----------------------------------------------------------------------

    def _supervise(self) -> None:
        # Children inherit the mask, so a Ctrl-C cannot hit one that has no handler yet.
        signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINAL)
        try:
            while self._look_after():
                events = self._selector.select(self._timeout())
                told: Told = []
                for key, mask in events:
                    if key.data is None:
                        self._drain()
                    else:
                        self._attend(key.data, key.fileobj, mask, told)
                for done, end in told:
                    tell(done, end)
        except Exception:
            logger.critical("the supervisor of the prefork pool failed; the pool stops", exc_info=True)
        finally:
            self._collapse()

    def _look_after(self) -> bool:
        """Timers, missing and superfluous children. False when there is nothing left to do."""
        now = time.monotonic()
        with self._lock:
            for place in self._places:
                if now >= place.kill_at:
                    self._late(place)
            if self._stopping:
                self._wind_up(now)
                return bool(self._places)
            staying = sum(place.state != LEAVING for place in self._places)
            while staying > self._size and self._idle:
                self._idle.pop(0).dismiss(_EXIT)
                staying -= 1
            missing = self._missing(self._size - staying, now)
        for _ in range(missing):
            self._launch()
        return True

    def _late(self, place: Place) -> None:
        # What it has said by now counts: a job that has ended is not killed for its limit.
        if place.state == BUSY and place.talks and self._said_more(place):
            return
        place.kill(place.why)

    def _said_more(self, place: Place) -> bool:
        try:
            return bool(place.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    def _missing(self, missing: int, now: float) -> int:
        """How many children to start: one at a time, and with pauses, while they fail to start."""
        if self._failures == 0:
            return missing
        starting = sum(place.state == STARTING for place in self._places)
        return min(missing, 1 - starting) if now >= self._retry_at else 0

    def _launch(self) -> None:
        try:  # not under the lock: it takes milliseconds, and submit() must not wait for it
            place = Place(self._launcher, self._boot, self._start_timeout)
        except OSError as error:
            with self._lock:
                self._failed(f"the system refused a new process: {error}")
            return
        with self._lock:
            self._places.add(place)
            self._selector.register(place.sock, selectors.EVENT_READ, place)
            self._selector.register(place.process.fileno(), selectors.EVENT_READ, place)
            self._write_on(place)

    def _boot(self, parent: int) -> bytes:
        assert self._spec is not None
        boot = frames.Boot(self._spec, tuple(sys.argv), self._max_tasks, self._max_memory, parent)
        return frames.pack(frames.BOOT, pickle.dumps(boot, 5))

    def _wind_up(self, now: float) -> None:
        over = now >= self._deadline
        self._idle.clear()
        for place in self._places:
            if place.killed:
                continue
            if place.state == IDLE:
                place.dismiss(_EXIT_AT_STOP)
            elif place.state == STARTING:
                place.kill("the pool was stopped while it started")
            elif place.state == BUSY and over:
                place.kill("killed: it still ran when the pool was stopped")
            elif place.state == LEAVING:
                place.kill_at = min(place.kill_at, now + _EXIT_AT_STOP)

    def _timeout(self) -> float | None:
        with self._lock:
            at = min((place.kill_at for place in self._places), default=math.inf)
            if self._stopping:
                if any(place.state == BUSY and not place.killed for place in self._places):
                    at = min(at, self._deadline)
            elif self._failures and sum(place.state != LEAVING for place in self._places) < self._size:
                starting = any(place.state == STARTING for place in self._places)
                at = at if starting else min(at, self._retry_at)
        return None if at == math.inf else max(0.0, at - time.monotonic())

    # --- children -----------------------------------------------------------------------------

    def _attend(self, place: Place, source: Any, mask: int, told: Told) -> None:
        with self._lock:
            if place not in self._places:
                return
            if source is place.sock:
                if mask & selectors.EVENT_WRITE:
                    place.flush()
                    self._write_on(place)
                if mask & selectors.EVENT_READ:
                    self._hear(place, told)
            else:
                self._bury(place, told)

    def _write_on(self, place: Place) -> None:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if place.writing else 0)
        if self._selector.get_key(place.sock).events != wanted:
            self._selector.modify(place.sock, wanted, place)

    def _hear(self, place: Place, told: Told) -> None:
        heard, more = place.hear()
        for kind, body in heard:
            self._understand(place, kind, body, told)
        if not more and place.talks:
            place.hung_up()
            self._selector.unregister(place.sock)
            if place in self._idle:
                self._idle.remove(place)
        elif more and place.writing:
            self._write_on(place)

    def _understand(self, place: Place, kind: int, body: bytes, told: Told) -> None:
        if kind == frames.REPLY:
            self._ended(place, _read(body), told)
        elif kind == frames.BEGIN:
            place.watch(frames.FLOAT.unpack(body)[0])
        elif kind == frames.END:
            place.unwatch()
        elif kind == frames.ASK:
            place.send(frames.pack(frames.ANSWER, frames.YES if self._wanted(place) else frames.NO))
        elif kind == frames.EASED:
            if self._owner is not None and place.running is not None:
                self._owner.eased(place.running.job)
        elif kind == frames.READY:
            self._ready(place)
        elif kind == frames.LEAVING:
            place.last = True
        elif kind == frames.LOST:
            self._ended(place, Died(body.decode("utf-8", "replace")), told)
        elif kind == frames.UNREAD:
            self._ended(place, Died(body.decode("utf-8", "replace"), started=False), told)
        elif kind == frames.FAILED:
            place.dismiss(_EXIT)
            self._failed(body.decode("utf-8", "replace"))

    def _wanted(self, place: Place) -> bool:
        if self._owner is None:
            return True
        return place.running is not None and self._owner.wanted(place.running.job)

    def _ended(self, place: Place, end: End, told: Told) -> None:
        done = place.take()
        self._next(place)  # first of all: it should not wait for what `done` does
        if done is not None:
            told.append((done, end))

    def _ready(self, place: Place) -> None:
        place.kill_at = math.inf
        self._failures = 0
        self._next(place)
        if not self._was_up and not any(each.state == STARTING for each in self._places):
            self._was_up = len(self._places) >= self._size and self._start_error is None
            self._up.notify_all()

    def _failed(self, text: str) -> None:
        """A child could not start: an error for start(), or a pause before the next try."""
        if not self._was_up:
            self._start_error = self._start_error or text
            self._up.notify_all()
            return
        if self._stopping or time.monotonic() < self._retry_at:
            return  # several fail together: that is one failure
        pause = min(_PAUSE[1], _PAUSE[0] * 2.0 ** min(self._failures, 16))
        self._failures += 1
        self._retry_at = time.monotonic() + pause
        logger.error("a child process cannot start; next try in %g s: %s", pause, text)

    def _bury(self, place: Place, told: Told) -> None:
        """The process is gone."""
        self._selector.unregister(place.process.fileno())
        if place.talks:
            self._hear(place, told)  # its last words, a reply perhaps
        if place.talks:
            self._selector.unregister(place.sock)
        if place in self._idle:
            self._idle.remove(place)
        self._places.discard(place)
        state, done = place.state, place.take()
        how, end = place.bury()
        if done is not None:
            told.append((done, end))
        if state == STARTING:
            self._failed(f"it died while starting: {how}")
        elif state != LEAVING and not self._stopping:
            logger.warning("child process %d is gone (%s); another takes its place", place.process.pid, how)

    # --- waking and ending --------------------------------------------------------------------

    def _wake(self) -> None:
        try:
            self._waker.send(b"w")
        except BlockingIOError:
            pass  # it will wake anyway
        except OSError:
            if not self._gone.is_set():
                raise

    def _drain(self) -> None:
        try:
            self._woken.recv(4096)
        except BlockingIOError:
            return
        with self._lock:
            for place in self._places:
                if place.talks:
                    self._write_on(place)

    def _collapse(self) -> None:
        """The end of the supervisor, in order or not: nobody is left running, no job without an end."""
        told: Told = []
        with self._lock:
            self._stopping = True
            for place in self._places:
                place.kill("killed: the pool's supervisor failed")
                if (done := place.take()) is not None:
                    told.append((done, Died("killed: the pool's supervisor failed")))
                place.bury()
            self._places.clear()
            told += [(done, Returned()) for _, done, _ in self._pending]
            self._pending.clear()
            self._up.notify_all()
            self._launcher.close()
            self._selector.close()
        for done, end in told:
            tell(done, end)
        self._gone.set()
        self._waker.close()
        self._woken.close()


def _read(body: bytes) -> End:
    try:
        return Finished(pickle.loads(body))  # noqa: S301  from our own child
    except Exception as error:  # noqa: BLE001  anything may come out of an unpickling class
        return Died(f"the reply cannot be read here: {type(error).__name__}: {error}")
