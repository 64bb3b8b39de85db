"""What is going on now: one sampler for all pages and streams, that looks only while somebody watches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.to_thread

from cloudq.clock import Clock
from cloudq.dashboard.ring import Ring
from cloudq.errors import CloudQError
from cloudq.monitoring.overview import Overview

logger = logging.getLogger("cloudq.dashboard")

#: Seconds for which it goes on looking after the last page was asked for, and how often then.
LINGER: Final = 600.0
IDLE_EVERY: Final = 15.0


@dataclass(frozen=True, slots=True)
class Look:
    """One look. ``view`` is the last one that succeeded; ``error`` says why this one did not."""

    number: int
    #: On the monotonic clock, seconds.
    at: float
    view: Overview | None
    error: str | None = None


class Sampler:
    """``look`` blocks, and is called in a thread, never twice at once; ``patience`` seconds are waited for it."""

    def __init__(
        self, look: Callable[[], Overview], clock: Clock, *, interval: float, patience: float, remembered: int
    ) -> None:
        self._look = look
        self._clock = clock
        self._interval = interval
        self._patience = patience
        self.ring = Ring(remembered)
        #: Streams that are open.
        self.watchers = 0
        self._latest = Look(0, 0.0, None)
        self._expired = True
        self._asked = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self.stopping = False

    async def now(self) -> Look:
        """A look that is fresh; waits for one where there is none."""
        self._asked = self._clock.monotonic()
        self._ensure()
        latest = self._latest
        if not self._expired and self._asked - latest.at <= 2 * self._interval:
            return latest
        self._wake.set()
        return await self.after(latest.number, self._patience + 1.0) or latest

    async def after(self, number: int, timeout: float) -> Look | None:
        """The first look after the one with this number; None when ``timeout`` seconds pass before."""
        with anyio.move_on_after(timeout):
            while self._latest.number <= number and not self.stopping:
                self._ensure()
                await self._changed.wait()
            return None if self.stopping else self._latest
        return None

    def expire(self) -> None:
        """Something was changed: what was seen is no longer so."""
        self._expired = True

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Look often for as long as this lasts."""
        self.watchers += 1
        try:
            self._ensure()
            self._wake.set()
            yield
        finally:
            self.watchers -= 1

    def stop(self) -> None:
        """End every stream, and look no more. May be called from a signal handler."""
        self.stopping = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._nudge)

    def _nudge(self) -> None:
        self._wake.set()
        self._changed.set()

    # --- parts --------------------------------------------------------------------------------

    def _ensure(self) -> None:
        """A task that looks, on the loop that is running: mounted apps are told of no start and no end."""
        loop = asyncio.get_running_loop()
        if self.stopping or (loop is self._loop and self._task is not None and not self._task.done()):
            return
        if loop is not self._loop:
            self._wake, self._changed = asyncio.Event(), asyncio.Event()
            self._expired = True
        self._loop = loop
        self._task = loop.create_task(self._run(), name="cloudq-dashboard-sampler")

    async def _run(self) -> None:
        while not self.stopping:
            self._wake.clear()
            await self._once()
            quiet = self._clock.monotonic() - self._asked
            if not self.watchers and quiet > LINGER:
                return
            busy = self.watchers or quiet < 2 * IDLE_EVERY
            with anyio.move_on_after(self._interval if busy else max(IDLE_EVERY, self._interval)):
                await self._wake.wait()

    async def _once(self) -> None:
        self._expired = False
        view, error = self._latest.view, None
        try:
            with anyio.fail_after(self._patience):
                view = await anyio.to_thread.run_sync(self._look, abandon_on_cancel=True)
            self.ring.add(view)
        except TimeoutError:
            error = f"no answer within {self._patience:g} seconds"
        except CloudQError as problem:
            error = str(problem)
        except Exception as problem:
            logger.exception("looking at queues and workers")
            error = f"an unexpected {type(problem).__name__}; the dashboard's log has more"
        self._latest = Look(self._latest.number + 1, self._clock.monotonic(), view, error)
        self._changed.set()
        self._changed = asyncio.Event()
