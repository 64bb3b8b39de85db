"""A pool on one event loop, for coroutines: hundreds of jobs that wait, in one thread."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final

from cloudq.errors import ImproperlyConfigured, SoftTimeLimitExceeded
from cloudq.pools import runners
from cloudq.pools.base import (
    Active,
    AsyncRunner,
    Cancelled,
    Died,
    End,
    Finished,
    Returned,
    Runner,
    RunnerSpec,
    TimedOut,
)
from cloudq.pools.claim import Claim, Done, tell
from cloudq.pools.threads import ThreadsPool

logger = logging.getLogger("cloudq.pools")

#: Seconds that a stopping pool gives cancelled jobs to come out of their ``finally`` blocks.
_OUT: Final = 0.5


class _SoftCancel(SoftTimeLimitExceeded, asyncio.CancelledError):
    """The soft limit inside a coroutine. Tasks catch it as SoftTimeLimitExceeded; task groups,
    ``gather`` and ``wait_for`` see the cancellation that it is, and cancel what they hold."""

    def __reduce__(self) -> tuple[Any, ...]:
        return SoftTimeLimitExceeded, self.args


# What people read in tracebacks and records is the name they know.
_SoftCancel.__name__ = _SoftCancel.__qualname__ = SoftTimeLimitExceeded.__name__
_SoftCancel.__module__ = SoftTimeLimitExceeded.__module__


class AsyncioPool:
    """``size`` jobs at once on one event loop in one thread of its own.

    A runner without ``arun`` gets ``size`` threads instead. Limits reach a coroutine where it awaits: one
    that computes without awaiting, or calls something that blocks, holds up the whole loop, limits
    included. A job not gone ``patience`` seconds after its hard limit is counted in ``abandoned`` and
    loses its place; what it does later is dropped.
    """

    def __init__(self, size: int = 100, *, patience: float = 1.0) -> None:
        if size < 1:
            raise ImproperlyConfigured(f"the asyncio pool runs at least 1 job at once, not {size}")
        self._size = size
        self._patience = patience
        self._runner: AsyncRunner | None = None
        self._threads: ThreadsPool | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._waiting: deque[tuple[Any, Done]] = deque()
        self._woken = False
        self._runs: set[_Run] = set()
        self._strays: set[_Run] = set()
        self._changed = threading.Condition()
        self._stopping = False
        self._closed = False
        self._deadline = math.inf
        self._abandoned = 0

    @property
    def size(self) -> int:
        """How many jobs run at once."""
        return self._size

    @property
    def abandoned(self) -> int:
        """Jobs that did not end after their hard limit."""
        return self._abandoned + (self._threads.abandoned if self._threads is not None else 0)

    # --- the contract -------------------------------------------------------------------------

    def start(self, spec: RunnerSpec, runner: Runner | None = None) -> None:
        """As Pool.start."""
        runner = runner if runner is not None else runners.make(spec)
        if not isinstance(runner, AsyncRunner):
            self._threads = ThreadsPool(self._size, patience=self._patience)
            self._threads.start(spec, runner)
            return
        self._runner = runner
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="cloudq-asyncio", daemon=True)
        self._thread.start()

    def submit(self, job: Any, done: Done) -> None:
        """As Pool.submit."""
        if self._threads is not None:
            self._threads.submit(job, done)
            return
        if not self._stopping:
            self._waiting.append((job, done))
            self._wake()
            if not self._late():
                return
            self._give_back()  # stop() may have looked just before
        else:
            tell(done, Returned())

    def resize(self, size: int) -> None:
        """As Resizable.resize."""
        if size < 1:
            raise ValueError(f"the asyncio pool runs at least 1 job at once, not {size}")
        self._size = size
        if self._threads is not None:
            self._threads.resize(size)
        elif self._loop is not None:
            self._wake()

    def stop(self, grace: float) -> None:
        """As Pool.stop. Called from a job's ``done`` it does not wait."""
        if self._threads is not None:
            self._threads.stop(grace)
            return
        with self._changed:
            self._stopping = True
            self._deadline = min(self._deadline, time.monotonic() + grace)
            self._changed.notify_all()
        self._give_back()
        if self._thread is threading.current_thread():
            threading.Thread(target=self._finish, name="cloudq-asyncio-stop").start()
        else:
            self._finish()

    def active(self) -> list[Active]:
        """As Steerable.active."""
        if self._threads is not None:
            return self._threads.active()
        return [run.running for run in tuple(self._runs)]

    def cancel(self, job: Any, running: bool) -> bool:
        """As Steerable.cancel. Jobs that wait are not reached."""
        if self._threads is not None:
            return self._threads.cancel(job, running)
        for run in tuple(self._runs) if running else ():
            if run.running.job is job:
                self._on_loop(run.cancel)
                return True
        return False

    # --- the loop's thread --------------------------------------------------------------------

    def _main(self) -> None:
        loop = self._loop
        assert loop is not None
        asyncio.set_event_loop(loop)
        while not self._closed:
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt):  # from a task that a job has created
                logger.exception("a background task of a job would end the process; the pool goes on")
        # A coroutine that will not end keeps this (daemon) thread, not the one that called stop().
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    def _wake(self) -> None:
        """Have the loop look at what waits; one look serves everything submitted before it."""
        if self._woken:
            return
        self._woken = True
        assert self._loop is not None, "submit before start"
        try:
            self._loop.call_soon_threadsafe(self._take)
        except RuntimeError:
            if not self._late():  # else: the loop is closed, and the job is given back
                raise

    def _take(self) -> None:
        self._woken = False
        assert self._loop is not None
        assert self._runner is not None
        while len(self._runs) < self._size and not self._stopping:
            try:
                job, done = self._waiting.popleft()
            except IndexError:
                return
            run = _Run(self, self._loop, Claim(done), Active(job, time.time(), os.getpid()))
            self._runs.add(run)
            run.start(self._runner)

    def ended(self, run: _Run, end: End) -> None:
        """On the loop: a job's coroutine is over."""
        self._strays.discard(run)
        run.claim.tell(end)
        self._free(run)

    def _free(self, run: _Run) -> None:
        with self._changed:
            self._runs.discard(run)
            if self._stopping:
                self._changed.notify_all()
        if self._waiting:
            self._take()

    def give_up(self, run: _Run, limit: float) -> None:
        """On the loop: a job ignores its hard limit."""
        done = run.claim.take()
        if done is None:
            return
        self._abandoned += 1
        self._strays.add(run)
        logger.error(
            "a job ignores its hard limit of %g s: its coroutine catches the cancellation and goes on "
            "(%d so far)",
            limit,
            self._abandoned,
        )
        tell(done, TimedOut(limit))
        self._free(run)

    # --- stopping -----------------------------------------------------------------------------

    def _late(self) -> bool:
        return self._stopping

    def _give_back(self) -> None:
        while True:
            try:
                _, done = self._waiting.popleft()
            except IndexError:
                return
            tell(done, Returned())

    def _finish(self) -> None:
        with self._changed:
            while self._runs and (left := self._deadline - time.monotonic()) > 0:
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
            runs = list(self._runs)
        if runs and self._loop is not None:
            for run in runs:
                self._on_loop(run.stop)
            with self._changed:
                self._changed.wait_for(lambda: not self._runs, _OUT)
        for run in runs:
            run.claim.tell(Died("the pool was stopped while it ran"))
        with self._changed:
            close, self._closed = not self._closed, True
        if close and self._loop is not None and self._thread is not None:
            self._on_loop(self._loop.stop)
            self._thread.join(_OUT)  # longer only if a job blocks the loop: then it is left alone
            runners.close(self._runner)

    def _on_loop(self, function: Callable[[], Any]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            if not self._closed:
                raise


class _Run:
    """One job on the loop, and its Watch. Used on the loop's thread only, but for ``claim``."""

    __slots__ = (
        "_cancel", "_handles", "_hard", "_limit", "_loop", "_pool", "_soft", "_stop", "_task", "claim", "running",
    )  # fmt: skip

    def __init__(
        self, pool: AsyncioPool, loop: asyncio.AbstractEventLoop, claim: Claim, running: Active
    ) -> None:
        self._pool = pool
        self._loop = loop
        self.claim = claim
        self.running = running
        self._limit = 0.0
        self._soft = self._hard = self._stop = self._cancel = False
        self._handles: list[asyncio.TimerHandle] = []
        self._task: asyncio.Task[End] | None = None

    def start(self, runner: AsyncRunner) -> None:
        """Run the runner's coroutine."""
        self._task = self._loop.create_task(self._drive(runner, self.running.job))
        self._task.add_done_callback(self._ended)

    async def _drive(self, runner: AsyncRunner, job: Any) -> End:
        try:
            return Finished(await _translated(runner.arun(job, self), self))
        except asyncio.CancelledError as error:
            if isinstance(error, _SoftCancel):  # it is an Exception, and a runner raises none
                return runners.broken(error)
            if self._hard:
                return TimedOut(self._limit)
            if self._cancel:
                return Cancelled()
            return Died("stopped with the pool" if self._stop else "its coroutine was cancelled")
        except BaseException as error:  # noqa: BLE001  SystemExit would end the loop
            return runners.broken(error)
        finally:
            self.end()

    def _ended(self, task: asyncio.Task[End]) -> None:
        if task.cancelled():  # before its first step
            never = Cancelled(started=False) if self._cancel else Died("stopped with the pool", started=False)
            self._pool.ended(self, never)
        else:
            self._pool.ended(self, task.result())

    def stop(self) -> None:
        """The pool's grace is over."""
        self._stop = True
        self._interrupt()

    def cancel(self) -> None:
        """On the loop: Steerable.cancel."""
        self._cancel = True
        self._interrupt()

    def _interrupt(self) -> None:
        if self._task is not None:
            self._task.cancel()

    # --- Watch --------------------------------------------------------------------------------

    def begin(self, soft: float | None, hard: float | None) -> None:
        """As Watch.begin."""
        if soft is not None:
            self._handles.append(self._loop.call_later(soft, self._strike_soft))
        if hard is not None:
            self._limit = hard
            self._handles.append(self._loop.call_later(hard, self._strike_hard))

    def end(self) -> None:
        """As Watch.end."""
        if self._handles:
            for handle in self._handles:
                handle.cancel()
            self._handles.clear()

    def _strike_soft(self) -> None:
        self._soft = True
        self._interrupt()

    def _strike_hard(self) -> None:
        self._hard = True
        self._interrupt()
        self._loop.call_later(self._pool._patience, self._pool.give_up, self, self._limit)

    def translate(self, error: asyncio.CancelledError) -> BaseException:
        """What a cancellation that arrives in the job means there."""
        if not self._soft:
            return error
        self._soft = False
        if self._task is not None:
            self._task.uncancel()
        return error if self._hard or self._stop or self._cancel else _SoftCancel()


@types.coroutine
def _translated(coroutine: Coroutine[Any, Any, Any], run: _Run) -> Generator[Any, Any, Any]:
    """Await the coroutine, step by step, with cancellations translated on their way in."""
    error: BaseException | None = None
    while True:
        try:
            awaited = coroutine.send(None) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            return stop.value
        error = None
        try:
            yield awaited
        except GeneratorExit:
            coroutine.close()
            raise
        except asyncio.CancelledError as cancelled:
            error = run.translate(cancelled)
        except BaseException as other:  # noqa: BLE001  passed on to where it belongs
            error = other
