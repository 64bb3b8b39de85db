"""Between threads and asyncio: sync functions awaited, and coroutines run from sync code.

Both directions are bounded, start at their first use, and start anew in a forked child (threads
do not survive a fork).
"""

from __future__ import annotations

import asyncio
import builtins
import contextvars
import functools
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

#: Threads that ``to_thread`` uses at most; further calls wait for one.
THREADS: Final = 64
#: Seconds a coroutine is given to end after its caller has stopped waiting for it.
CANCEL_GRACE: Final = 5.0
#: Seconds between two looks of a waiting thread at what was thrown into it from outside
#: (``PyThreadState_SetAsyncExc`` does not wake a thread that waits for a lock).
_SLICE: Final = 0.25


class ThreadBridge:
    """A bounded set of threads that coroutines hand blocking calls to."""

    def __init__(self, size: int = THREADS, name: str = "cloudq-aio") -> None:
        self._size = size
        self._name = name
        self._mine: tuple[int, ThreadPoolExecutor] | None = None

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``fn`` in one of the threads, with the caller's context variables.

        A cancelled caller stops waiting; the call itself goes on to its end.
        """
        bound = functools.partial(contextvars.copy_context().run, fn, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._executor(), bound)

    def _executor(self) -> ThreadPoolExecutor:
        mine = self._mine
        if mine is None or mine[0] != os.getpid():
            # No lock, which a fork might copy while it is held: an executor has no thread before
            # its first call, so the loser of a race costs nothing.
            mine = self._mine = (os.getpid(), ThreadPoolExecutor(self._size, self._name))
        return mine[1]

    def close(self) -> None:
        """Let the threads end after what they are doing. A later call starts new ones."""
        mine, self._mine = self._mine, None
        if mine is not None and mine[0] == os.getpid():
            mine[1].shutdown(wait=False)


class _Loop:
    """An event loop in a daemon thread."""

    def __init__(self, name: str) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._main, name=name, daemon=True)
        self.thread.start()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    async def drain(self) -> None:
        """Cancel what still runs and wait for it."""
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.loop.shutdown_asyncgens()


class LoopThread:
    """One event loop in a background thread, for sync code that has a coroutine to run."""

    def __init__(self, name: str = "cloudq-loop") -> None:
        self._name = name
        self._guard = (0, threading.Lock())
        self._mine: _Loop | None = None

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run it on the loop, with this thread's context variables, and return its result.

        ``timeout`` in seconds. When it runs out (builtin TimeoutError), or an exception hits this
        thread while it waits, the coroutine is cancelled and given CANCEL_GRACE seconds to end.
        Raises RuntimeError when called on the loop's own thread, which would wait for itself.
        """
        mine = self._started()
        if threading.current_thread() is mine.thread:
            coroutine.close()
            raise RuntimeError("a coroutine on cloudq's background loop cannot wait for it: use await")
        future = _submit(mine.loop, coroutine)
        try:
            return _result(future, timeout)
        except BaseException:
            if not future.done():
                future.cancel()
                wait([future], CANCEL_GRACE)
            raise

    def _started(self) -> _Loop:
        with self._lock():
            mine = self._mine
            if mine is None or mine.pid != os.getpid():
                mine = self._mine = _Loop(self._name)
            return mine

    def _lock(self) -> threading.Lock:
        pid, lock = self._guard
        if pid != os.getpid():
            # The parent's lock may have been held at the fork; a child begins with one thread.
            self._guard = pid, lock = os.getpid(), threading.Lock()
        return lock

    def close(self) -> None:
        """Cancel what runs and end the thread. Idempotent; a later ``run`` starts a new one."""
        with self._lock():
            mine, self._mine = self._mine, None
        if mine is None or mine.pid != os.getpid():
            return
        wait([_submit(mine.loop, mine.drain())], CANCEL_GRACE)
        mine.loop.call_soon_threadsafe(mine.loop.stop)
        mine.thread.join(CANCEL_GRACE)


def _submit(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> _Running[T]:
    """Start a coroutine on another thread's loop, in a copy of this thread's context."""
    running: _Running[T] = _Running(loop)

    def start() -> None:
        task = loop.create_task(coroutine)
        running.task = task
        task.add_done_callback(running.settle)

    # Runs ``start`` in a copy of this thread's context, which the task inherits.
    loop.call_soon_threadsafe(start)
    return running


class _Running(Future[T]):
    """The outcome of a task on another thread's loop. ``cancel`` asks the task to end; the future
    is done when the task really is."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self.task: asyncio.Task[T] | None = None
        self.set_running_or_notify_cancel()

    def cancel(self) -> bool:
        self._loop.call_soon_threadsafe(lambda: self.task is not None and self.task.cancel())
        return True

    def settle(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.set_exception(CancelledError())
        elif (error := task.exception()) is not None:
            self.set_exception(error)
        else:
            self.set_result(task.result())


def _result(future: Future[T], timeout: float | None) -> T:
    left = timeout
    while True:
        part = _SLICE if left is None else min(_SLICE, left)
        done, _ = wait([future], part)
        if done:
            return future.result()
        if left is not None:
            left -= part
            if left <= 0:
                raise builtins.TimeoutError(f"the coroutine did not end in {timeout:g} s")


_BRIDGE: Final = ThreadBridge()
_LOOP: Final = LoopThread()


async def to_thread(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``asyncio.to_thread`` on cloudq's own bounded threads; see ``ThreadBridge.run``."""
    return await _BRIDGE.run(fn, *args, **kwargs)


def run(coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
    """Run a coroutine from sync code on the process's background loop; see ``LoopThread.run``."""
    return _LOOP.run(coroutine, timeout)
