"""Where a function's tasks run: threads for plain functions, one event loop for ``async def``."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from cloudq.pools.base import End, RunnerSpec

if TYPE_CHECKING:
    from cloudq.aws_lambda.job import Job
    from cloudq.aws_lambda.runner import LambdaRunner
    from cloudq.pools.asyncio import AsyncioPool
    from cloudq.pools.threads import ThreadsPool

#: Memory for which Lambda gives one whole vCPU, MB (Lambda Developer Guide, "Configure Lambda
#: function memory").
MB_PER_VCPU: Final = 1769
#: Coroutines at once.
COROUTINES: Final = 100
#: Seconds that a job may outlive its hard limit before its thread is given up.
_PATIENCE: Final = 0.1

_NO_SPEC: Final = RunnerSpec("")


def vcpus() -> int:
    """Whole vCPUs of this function, at least one."""
    try:
        memory = int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", ""))
    except ValueError:
        return os.cpu_count() or 1
    return max(1, memory // MB_PER_VCPU)


class Pools:
    """Both pools, opened when first needed and kept between invocations."""

    def __init__(self, runner: LambdaRunner, concurrency: int, coroutines: int) -> None:
        self.concurrency = concurrency
        self.coroutines = coroutines
        self._runner = runner
        self._threads: ThreadsPool | None = None
        self._loop: AsyncioPool | None = None

    def open_threads(self) -> ThreadsPool:
        """The pool of threads."""
        if self._threads is None:
            from cloudq.pools.threads import ThreadsPool

            self._threads = ThreadsPool(self.concurrency, patience=_PATIENCE)
            self._threads.start(_NO_SPEC, self._runner)
        return self._threads

    def _open_loop(self) -> AsyncioPool:
        if self._loop is None:
            from cloudq.pools.asyncio import AsyncioPool  # asyncio costs 30 ms of a cold start

            self._loop = AsyncioPool(self.coroutines, patience=_PATIENCE)
            self._loop.start(_NO_SPEC, self._runner)
        return self._loop

    def submit(self, job: Job, done: Callable[[End], None]) -> None:
        """Run the job as soon as a place is free."""
        (self._open_loop() if job.on_loop else self.open_threads()).submit(job, done)

    def cancel(self, job: Job) -> bool:
        """Stop a job that runs, as ``Steerable.cancel`` does; was it reached?"""
        pool = self._loop if job.on_loop else self._threads
        return pool is not None and pool.cancel(job, running=True)

    def renew(self) -> None:
        """Begin the next invocation with new pools: something in these will not end."""
        old = [pool for pool in (self._threads, self._loop) if pool is not None]
        self._threads = self._loop = None
        for pool in old:
            threading.Thread(target=pool.stop, args=(0.0,), name="cloudq-lambda-stop", daemon=True).start()

    def close(self) -> None:
        """Stop both."""
        for pool in (self._threads, self._loop):
            if pool is not None:
                pool.stop(0.0)
        self._threads = self._loop = None
