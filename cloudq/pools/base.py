"""The contract of a pool: where tasks run.

A pool knows nothing of messages: it moves a *job* to a *runner* and hands back the runner's
*reply*, or says what became of the job when there is none (``Died``, ``TimedOut``).
Implementations inherit nothing; ``cloudq.testing.contracts`` proves them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable


class Watch(Protocol):
    """How a runner tells its pool about time limits, from inside the thread that runs the job."""

    def begin(self, soft: float | None, hard: float | None) -> None:
        """User code starts now. After ``soft`` seconds raise SoftTimeLimitExceeded in it; after
        ``hard`` seconds stop it for good."""
        ...

    def end(self) -> None:
        """User code has ended: no limit may strike any more. Idempotent."""
        ...


@runtime_checkable
class RemoteWatch(Protocol):
    """A Watch in another process than the pool's: a runner reaches the job's owner through it."""

    def wanted(self, ask: bool) -> bool:
        """Is the job's work still wanted? Without ``ask``: as far as we have been told; with it the
        owner is asked, which costs a round trip to the other process."""
        ...

    def eased(self) -> None:
        """Tell the owner, who learns of it a moment later: as Owner.eased."""
        ...


class Runner(Protocol):
    """What a pool runs jobs with; one per pool, or one per child process. Never raises."""

    def run(self, job: Any, watch: Watch) -> Any:
        """Do the job and return the reply (both picklable)."""
        ...

    def close(self) -> None:
        """Give back what the runner holds. Called once, by the pool, in the process where it ran,
        after its last job (a pool owns its runner, a ready-made one too)."""
        ...


@runtime_checkable
class AsyncRunner(Runner, Protocol):
    """A runner that can do its job on an event loop; ``run`` stays for other pools."""

    async def arun(self, job: Any, watch: Watch) -> Any:
        """Do the job and return the reply. ``watch`` is used on the loop's thread."""
        ...


@dataclass(frozen=True, slots=True)
class RunnerSpec:
    """How to make the runner: ``factory(*args)``, by import path, so that it works in a spawned
    process. ``factory`` is ``"package.module:callable"``; ``args`` are picklable."""

    factory: str
    args: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The runner returned ``reply``."""

    reply: Any


@dataclass(frozen=True, slots=True)
class Died:
    """There is no reply: the process (or thread) that ran the job is gone, or what the runner made
    of the job could not be handed over. ``detail`` says how, for people: "killed by signal 11
    (SIGSEGV)", "exit code 3". ``started`` is False when the job certainly never ran."""

    detail: str
    started: bool = True


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The job outlived its hard limit (seconds) and was stopped."""

    limit: float


@dataclass(frozen=True, slots=True)
class Returned:
    """The job was never started: the pool is stopping."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """``cancel`` has stopped the job. ``started`` is False when it never ran."""

    started: bool = True


End: TypeAlias = Finished | Died | TimedOut | Returned | Cancelled


class Pool(Protocol):
    """Runs jobs, ``size`` at a time.

    Limits are upheld as far as the pool's means go: a signal interrupts blocking calls (``solo`` on
    the main thread, ``prefork``), an exception thrown into a thread does not (``threads``,
    ``solo`` elsewhere: it waits until a C call such as ``time.sleep`` returns), and a coroutine
    is reached where it awaits (``asyncio``).
    """

    @property
    def size(self) -> int:
        """How many jobs run at once."""
        ...

    def start(self, spec: RunnerSpec, runner: Runner | None = None) -> None:
        """Make ready. ``runner`` is a ready-made one for pools that stay in this process; a pool
        of processes makes its own from ``spec`` in every child and ignores it.

        Raises ImproperlyConfigured when a child cannot make its runner (with the child's error).
        """
        ...

    def submit(self, job: Any, done: Callable[[End], None]) -> None:
        """Run ``job`` as soon as a place is free; never blocks (``solo`` runs it here and now).

        ``done`` is called exactly once, from any thread, and must be quick; what it raises is
        logged. After ``stop`` the job ends as ``Returned`` here and now.
        """
        ...

    def stop(self, grace: float) -> None:
        """No new jobs. Those not started end as ``Returned`` at once; running ones get ``grace``
        seconds, then are stopped (``Died``) where the pool can. Idempotent; may be called again
        with a shorter grace from another thread."""
        ...


@dataclass(frozen=True, slots=True)
class Active:
    """A job that runs now: since when (seconds since the epoch), and in which process."""

    job: Any
    since: float
    pid: int


class Steerable(Protocol):
    """A pool whose jobs can be looked at, and stopped one by one."""

    def active(self) -> list[Active]:
        """The jobs that run now."""
        ...

    def cancel(self, job: Any, running: bool) -> bool:
        """Stop ``job`` (told by identity), which then ends as ``Cancelled``. Any thread; never blocks.

        One that waits is ended here and now, if the pool can reach it; one that runs only with
        ``running``, by the means of a hard limit: a process is killed, a coroutine is cancelled where it
        awaits, a thread gets an exception, which waits for a C call to return. A job that ends by
        itself meanwhile has the end it came to. False: it was left alone.
        """
        ...


class Restartable(Protocol):
    """A pool that can replace what its runners run in."""

    def restart(self, spec: RunnerSpec) -> None:
        """Make every runner anew, from ``spec``, each after the job it has. Never blocks."""
        ...


class Owner(Protocol):
    """Whose jobs a pool of processes runs. Both are called in the pool's thread and must be quick."""

    def wanted(self, job: Any) -> bool:
        """May what the job does still be handed in?"""
        ...

    def eased(self, job: Any) -> None:
        """The job needs nobody to keep it for us any more."""
        ...


@runtime_checkable
class Remote(Protocol):
    """A pool whose jobs run in other processes, with a RemoteWatch each."""

    def answer_to(self, owner: Owner) -> None:
        """Whom jobs ask. Without an owner every job is wanted. Called before ``start``."""
        ...

    def withdraw(self, job: Any) -> None:
        """Tell the job, if it runs, that it is not wanted any more. It goes on; what to do is its
        runner's decision. Any thread; never blocks."""
        ...


class Resizable(Protocol):
    """A pool whose size may change while it runs."""

    def resize(self, size: int) -> None:
        """Grow at once, or shrink as running jobs end. Never blocks. Raises ValueError below 1."""
        ...
