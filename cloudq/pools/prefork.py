"""Prefork: a process per place. The parent hands jobs down and takes replies; a child that dies or
outlives its hard limit costs its own job only, and is replaced (decision 14)."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import selectors
import signal
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final

from cloudq.errors import ImproperlyConfigured
from cloudq.pools import child
from cloudq.pools.base import Died, End, Finished, Returned, Runner, RunnerSpec, TimedOut

logger = logging.getLogger("cloudq.pools")

#: Seconds that a child gets to make its runner.
START_TIMEOUT: Final = 120.0
#: Longest pause before a child that cannot start is tried again, seconds.
MAX_PAUSE: Final = 30.0


class Child:
    """One process, and what it is doing."""

    __slots__ = (
        "deadline",
        "done",
        "gone",
        "hard",
        "job",
        "leaving",
        "pipe",
        "process",
        "ready",
        "timed_out",
    )

    def __init__(self, process: Any, pipe: Connection) -> None:
        self.process = process
        self.pipe = pipe
        self.ready = False
        self.leaving = False
        self.gone = False
        self.job: Any = None
        self.done: Callable[[End], None] | None = None
        self.hard = 0.0
        self.deadline: float | None = None
        self.timed_out = False

    def kill(self) -> None:
        self.process.kill()


class PreforkPool:
    """``size`` child processes. ``max_memory_per_child`` is KiB."""

    def __init__(
        self,
        size: int,
        *,
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | None = None,
        start_method: str = "spawn",
    ) -> None:
        self._size = size
        self._max_tasks = max_tasks_per_child
        self._max_memory = max_memory_per_child
        self._context: Any = multiprocessing.get_context(start_method)
        self._spec: RunnerSpec | None = None
        self._lock = threading.RLock()
        self._waiting: deque[tuple[Any, Callable[[End], None]]] = deque()
        self._idle: list[Child] = []
        self._children: list[Child] = []
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._started = threading.Condition(self._lock)
        self._broken: str | None = None
        self._ever_ready = False
        self._pause = 0.5
        self._respawn_at: float | None = None
        self._stopping = False
        self._deadline = float("inf")
        self._killed = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        # Held open by us alone: when we die, every child reads the end of it.
        self._lifeline_read, self._lifeline_write = self._context.Pipe(duplex=False)

    @property
    def size(self) -> int:
        return self._size

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that live."""
        with self._lock:
            return [each.process.pid for each in self._children]

    # --- contract -----------------------------------------------------------------------------

    def start(self, spec: RunnerSpec, runner: Runner | None = None) -> None:
        self._spec = spec
        self._thread = threading.Thread(target=self._run, name="cloudq-prefork", daemon=True)
        with self._lock:
            for _ in range(self._size):
                self._spawn()
        self._thread.start()
        with self._started:
            ready = self._started.wait_for(
                lambda: self._broken is not None or sum(each.ready for each in self._children) >= self._size,
                START_TIMEOUT,
            )
        if self._broken is not None or not ready:
            self.stop(0.0)
            why = self._broken or f"it was not ready within {START_TIMEOUT:g} seconds"
            raise ImproperlyConfigured(f"a child process cannot start: {why}")

    def submit(self, job: Any, done: Callable[[End], None]) -> None:
        with self._lock:
            if not self._stopping:
                if self._idle and not self._waiting:
                    self._give(self._idle.pop(), job, done)
                else:
                    self._waiting.append((job, done))
                return
        done(Returned())

    def resize(self, size: int) -> None:
        """Grow at once, or shrink as children become idle."""
        with self._lock:
            self._size = size
            while len(self._children) < size:
                self._spawn()
            while len(self._children) > size and self._idle:
                self._dismiss(self._idle.pop())
        self._wake()

    def stop(self, grace: float) -> None:
        with self._lock:
            self._stopping = True
            self._deadline = min(self._deadline, time.monotonic() + grace)
            returned, self._waiting = list(self._waiting), deque()
            while self._idle:
                self._dismiss(self._idle.pop())
        for _, done in returned:
            done(Returned())
        self._wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._ended.wait(grace + 10.0)

    # --- children -----------------------------------------------------------------------------

    def _spawn(self) -> None:
        here, there = self._context.Pipe()
        process = self._context.Process(
            target=child.main,
            args=(there, self._lifeline_read, self._spec, self._max_tasks, self._max_memory),
            name=f"Child-{len(self._children) + 1}",
            daemon=False,
        )
        process.start()
        there.close()
        made = Child(process, here)
        self._children.append(made)
        self._selector.register(here, selectors.EVENT_READ, made)
        self._wake()

    def _give(self, to: Child, job: Any, done: Callable[[End], None]) -> None:
        to.job, to.done, to.deadline, to.timed_out = job, done, None, False
        try:
            to.pipe.send_bytes(pickle.dumps(job, protocol=5))
        except (BrokenPipeError, ConnectionResetError, OSError):
            to.kill()  # it died while idle; its end is seen by the supervisor, which moves the job on
            to.job = _NotStarted(job)

    def _dismiss(self, one: Child) -> None:
        """Tell an idle child to end: the end of its pipe."""
        one.leaving = True
        self._forget(one)

    def _forget(self, one: Child) -> None:
        if one.gone:
            return
        one.gone = True
        self._selector.unregister(one.pipe)
        one.pipe.close()
        if one in self._children:
            self._children.remove(one)
        if one in self._idle:
            self._idle.remove(one)
        threading.Thread(target=_reap, args=(one.process,), name="cloudq-reap", daemon=True).start()

    # --- supervision --------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._finished():
                for key, _ in self._selector.select(self._timeout()):
                    if key.data is None:
                        self._drain_wakes()
                    elif not key.data.gone:
                        self._hear(key.data)
                self._enforce()
        except Exception:
            logger.exception("the prefork supervisor failed")
            self._give_up()
        finally:
            self._lifeline_write.close()
            self._ended.set()

    def _give_up(self) -> None:
        """Every job still gets its end."""
        with self._lock:
            self._stopping = True
            ends: list[tuple[Callable[[End], None], End]] = [(done, Returned()) for _, done in self._waiting]
            self._waiting.clear()
            for each in list(self._children):
                each.kill()
                if each.done is not None:
                    ends.append((each.done, Died("its pool failed")))
                    each.done = None
                self._forget(each)
        for done, end in ends:
            done(end)

    def _finished(self) -> bool:
        with self._lock:
            return self._stopping and not self._children

    def _timeout(self) -> float | None:
        with self._lock:
            times = [each.deadline for each in self._children if each.deadline is not None]
            if self._stopping and not self._killed:
                times.append(self._deadline)
            if self._respawn_at is not None:
                times.append(self._respawn_at)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _hear(self, one: Child) -> None:
        """Everything a child has said; then, if it is gone, what that means for its job."""
        try:
            while True:
                self._understand(one, one.pipe.recv_bytes())
                if one.gone or not one.pipe.poll():
                    return
        except (EOFError, OSError):
            self._bereaved(one)

    def _understand(self, one: Child, message: bytes) -> None:
        kind, rest = message[:1], message[1:]
        if kind in (child.REPLY, child.LAST):
            self._settled(one, Finished(pickle.loads(rest)), kind == child.LAST)  # noqa: S301  our own child
        elif kind == child.BEGIN:
            one.hard = struct.unpack("!d", rest)[0]
            one.deadline = time.monotonic() + one.hard
        elif kind == child.END:
            one.deadline = None
        elif kind == child.FAILED:
            self._settled(one, Died(rest.decode()), False)
        elif kind == child.READY:
            with self._started:
                one.ready = self._ever_ready = True
                self._pause = 0.5
                self._started.notify_all()
                self._next_for(one)
        elif kind == child.BROKEN:
            self._cannot_start(one, rest.decode())

    def _settled(self, one: Child, end: End, last: bool) -> None:
        with self._lock:
            done, one.done, one.job, one.deadline = one.done, None, None, None
            if last:
                one.leaving = True
                self._forget(one)
                if not self._stopping and len(self._children) < self._size:
                    self._spawn()
            else:
                self._next_for(one)
        if done is not None:
            done(end)

    def _next_for(self, one: Child) -> None:
        if self._stopping or len(self._children) > self._size:
            self._dismiss(one)
        elif self._waiting:
            self._give(one, *self._waiting.popleft())
        else:
            self._idle.append(one)

    def _bereaved(self, one: Child) -> None:
        """The child is gone."""
        one.process.join(5.0)
        if one.process.exitcode is None:  # it closed its pipe and lives on: not one of ours any more
            one.kill()
            one.process.join(5.0)
        detail = _how(one.process.exitcode)
        with self._lock:
            done, job = one.done, one.job
            one.done = one.job = None
            self._forget(one)
            unstarted = isinstance(job, _NotStarted)
            if unstarted and done is not None and not self._stopping:
                self._waiting.appendleft((job.job, done))
                done = None
            if not self._stopping and len(self._children) < self._size:
                if one.ready:
                    logger.warning("child process %d ended (%s); replaced", one.process.pid, detail)
                    self._spawn()
                else:
                    self._later(f"child process {one.process.pid} ended before it was ready ({detail})")
        if done is None:
            return
        if unstarted:
            done(Returned())
        elif one.timed_out:
            done(TimedOut(one.hard))
        else:
            done(Died(detail))

    def _cannot_start(self, one: Child, why: str) -> None:
        with self._started:
            self._forget(one)
            if not self._ever_ready:
                self._broken = why
                self._started.notify_all()
            elif not self._stopping:
                self._later(f"a child process cannot start: {why}")

    def _later(self, why: str) -> None:
        """Children that cannot start are tried again, ever more slowly."""
        if not self._ever_ready and self._broken is None:
            self._broken = why
            self._started.notify_all()
            return
        logger.error("%s; trying again in %.1f s", why, self._pause)
        self._respawn_at = time.monotonic() + self._pause
        self._pause = min(MAX_PAUSE, self._pause * 2)

    def _enforce(self) -> None:
        now = time.monotonic()
        with self._lock:
            for each in self._children:
                if each.deadline is not None and now >= each.deadline:
                    each.timed_out, each.deadline = True, None
                    each.kill()
            if self._respawn_at is not None and now >= self._respawn_at and not self._stopping:
                self._respawn_at = None
                while len(self._children) < self._size:
                    self._spawn()
            if self._stopping and not self._killed and now >= self._deadline:
                self._killed = True
                for each in self._children:
                    each.kill()

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"w")
        except BlockingIOError:
            pass  # it is awake already

    def _drain_wakes(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass


class _NotStarted:
    """Marks a job that never reached its child."""

    def __init__(self, job: Any) -> None:
        self.job = job


def _reap(process: Any) -> None:
    process.join(10.0)
    if process.exitcode is None:
        process.kill()
        process.join()


def _how(code: int | None) -> str:
    """An exit code for people."""
    if code is None:
        return "it does not end"
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    return f"killed by signal {-code} ({name})"
