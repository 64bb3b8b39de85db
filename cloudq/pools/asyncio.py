"""asyncio: hundreds of ``async def`` tasks at once, on one event loop in one thread.

A soft limit is raised inside the coroutine where it awaits; at the hard limit it is cancelled and
given up, whether it listens or not. Plain functions run in threads and cannot be interrupted.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from cloudq.errors import SoftTimeLimitExceeded
from cloudq.plugins import load_object
from cloudq.pools.base import Died, End, Finished, Returned, Runner, RunnerSpec, TimedOut, Watch

logger = logging.getLogger("cloudq.pools")


class AsyncRunner(Protocol):
    """A runner that can do its jobs on an event loop. Runners without ``arun`` go to threads."""

    async def arun(self, job: Any, watch: Watch) -> Any: ...


class LoopWatch:
    """The limits of one job on the loop. ``take`` hands over what is to be raised instead of a cancellation."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_hard: Callable[[float], None]) -> None:
        self._loop = loop
        self._on_hard = on_hard
        self._task: asyncio.Task[Any] | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._pending: BaseException | None = None

    def begin(self, soft: float | None, hard: float | None) -> None:
        if threading.current_thread() is not _thread_of(self._loop):
            return  # a plain function in a thread: nothing here can interrupt it
        self._task = asyncio.current_task()
        if soft is not None:
            self._timers.append(self._loop.call_later(soft, self._strike))
        if hard is not None:
            self._timers.append(self._loop.call_later(hard, self._on_hard, hard))

    def end(self) -> None:
        for each in self._timers:
            each.cancel()
        self._timers.clear()
        self._pending = None

    def take(self) -> BaseException | None:
        """The exception that the last cancellation stands for, once."""
        found, self._pending = self._pending, None
        if found is not None and self._task is not None:
            self._task.uncancel()
        return found

    def _strike(self) -> None:
        if self._task is not None:
            self._pending = SoftTimeLimitExceeded()
            self._task.cancel()


_threads: dict[int, threading.Thread] = {}


def _thread_of(loop: asyncio.AbstractEventLoop) -> threading.Thread | None:
    return _threads.get(id(loop))


class AsyncioPool:
    """``size`` jobs at once on one loop."""

    def __init__(self, size: int = 100) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Any, Callable[[End], None]]] = deque()
        self._busy = 0
        self._running: dict[asyncio.Task[None], Callable[[End], bool]] = {}
        self._stopping = False
        self._deadline = float("inf")
        self._runner: Any = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="cloudq-asyncio", daemon=True)
        #: Jobs that went on although their hard limit had passed.
        self.abandoned = 0

    @property
    def size(self) -> int:
        return self._size

    def start(self, spec: RunnerSpec, runner: Runner | None = None) -> None:
        self._runner = runner if runner is not None else load_object(spec.factory)(*spec.args)
        _threads[id(self._loop)] = self._thread
        self._thread.start()

    def resize(self, size: int) -> None:
        """Change how many jobs run at once."""
        with self._lock:
            self._size = size
        self._loop.call_soon_threadsafe(self._fill)

    def submit(self, job: Any, done: Callable[[End], None]) -> None:
        with self._lock:
            stopping = self._stopping
            if not stopping:
                self._waiting.append((job, done))
        if stopping:
            done(Returned())
        else:
            self._loop.call_soon_threadsafe(self._fill)

    def stop(self, grace: float) -> None:
        with self._lock:
            first, self._stopping = not self._stopping, True
            returned, self._waiting = list(self._waiting), deque()
        for _, done in returned:
            done(Returned())
        self._deadline = min(self._deadline, time.monotonic() + grace)
        while self._running and time.monotonic() < self._deadline:
            time.sleep(0.01)
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._cut_short(), self._loop).result(10.0)
            if first:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join(5.0)
        if first and self._runner is not None:
            self._runner.close()

    # --- on the loop --------------------------------------------------------------------------

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            _threads.pop(id(self._loop), None)
            self._loop.close()

    def _fill(self) -> None:
        while self._busy < self._size:
            with self._lock:
                if not self._waiting:
                    return
                job, done = self._waiting.popleft()
            self._busy += 1
            self._begin(job, done)

    def _begin(self, job: Any, done: Callable[[End], None]) -> None:
        told = [done]

        def settle(end: End) -> bool:
            if not told:
                return False
            told.pop()(end)
            return True

        def too_long(limit: float) -> None:
            if settle(TimedOut(limit)):
                self.abandoned += 1
                self._release(task)
                task.cancel()

        task = self._loop.create_task(self._work(job, settle, too_long))
        self._running[task] = settle
        task.add_done_callback(self._ended)

    async def _work(self, job: Any, settle: Callable[[End], bool], too_long: Callable[[float], None]) -> None:
        watch = LoopWatch(self._loop, too_long)
        try:
            if hasattr(self._runner, "arun"):
                reply = await self._runner.arun(job, watch)
            else:
                reply = await asyncio.to_thread(self._runner.run, job, watch)
        except asyncio.CancelledError:
            settle(Died("it was cancelled"))
            raise
        except Exception as error:
            logger.exception("a runner failed")
            settle(Died(f"the runner failed: {error!r}"))
        else:
            settle(Finished(reply))
        finally:
            watch.end()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task in self._running:
            self._release(task)
        else:
            self.abandoned -= 1  # it listened to its cancellation after all

    def _release(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._busy -= 1
        self._fill()

    async def _cut_short(self) -> None:
        left = dict(self._running)
        for task, settle in left.items():
            settle(Died("it was still running when the pool stopped"))
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=1.0)
