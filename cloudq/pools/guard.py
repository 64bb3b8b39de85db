"""One job, run in this thread under a watch: however it is struck, it has one end."""

from __future__ import annotations

from typing import Any, Protocol

from cloudq.pools.base import Cancelled, Died, End, Finished, Runner, TimedOut
from cloudq.pools.runners import broken
from cloudq.pools.strikes import STRIKES, Cancel, HardLimit, Stopped


class PoolWatch(Protocol):
    """A Watch with the pool's own two calls around it."""

    limit: float

    def enter(self) -> None: ...
    def leave(self) -> None: ...
    def begin(self, soft: float | None, hard: float | None) -> None: ...
    def end(self) -> None: ...


def guarded(runner: Runner, job: Any, watch: PoolWatch) -> End:
    """Run the job. Once this has returned no strike can come any more; none leaves this function.

    Only KeyboardInterrupt passes through: it is meant for the process.
    """
    ends: list[End] = []
    while True:
        try:
            return attempt(runner, job, watch, ends)
        except STRIKES as strike:  # it came between the job's end and that of leave()
            if not ends:
                ends.append(_struck(strike, watch))


def attempt(runner: Runner, job: Any, watch: PoolWatch, ends: list[End]) -> End:
    """Run the job unless it has ended already, then leave the watch."""
    try:
        if not ends:
            watch.enter()
            ends.append(Finished(runner.run(job, watch)))
    except STRIKES as strike:
        if not ends:
            ends.append(_struck(strike, watch))
    except KeyboardInterrupt:
        watch.leave()
        raise
    except BaseException as error:  # noqa: BLE001  a runner never raises; this one did
        if not ends:
            ends.append(broken(error))
    watch.leave()
    return ends[0]


def _struck(strike: BaseException, watch: PoolWatch) -> End:
    if isinstance(strike, HardLimit):
        return TimedOut(watch.limit)
    if isinstance(strike, Stopped):
        return Died("stopped with the pool")
    if isinstance(strike, Cancel):
        return Cancelled()
    return broken(strike)
