"""``app.control``: telling workers what to do, through the results store (decision 17)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from cloudq import states
from cloudq.clock import Clock
from cloudq.conf import Conf
from cloudq.control.broadcast import Broadcast
from cloudq.control.inspect import Inspect
from cloudq.control.roster import Roster, WorkerInfo
from cloudq.coordination.board import Board, Boards, Stamp
from cloudq.errors import TaskRevokedError
from cloudq.results.record import ASKED, Record
from cloudq.results.store import ResultStore

#: Signals that Celery users name; here each means: stop it as a hard limit would.
_SIGNALS: Final = ("SIGTERM", "SIGKILL", "SIGINT", "SIGQUIT", "TERM", "KILL", "INT", "QUIT")


class Control:
    """One app's remote control. Every method may be called from anywhere that reaches the results store."""

    def __init__(
        self,
        store: ResultStore,
        conf: Conf,
        clock: Clock,
        unschedule: Callable[[str, Iterable[int]], bool] = lambda task_id, tries: False,
    ) -> None:
        self._unschedule = unschedule
        self._store = store
        self._conf = conf
        self._clock = clock
        self.boards = Boards(store.backend, conf.control_namespace, clock)
        self.roster = Roster(store.backend, conf.control_namespace, clock)
        self._broadcast = Broadcast(store.backend, self.boards, self.roster, clock)

    # --- revoke -------------------------------------------------------------------------------

    def revoke(
        self, task_id: str | Iterable[str], *, terminate: bool = False, signal: str = "SIGTERM"
    ) -> dict[str, str]:
        """Have tasks not run; ``terminate`` also stops them while they run. Returns each one's state now.

        Workers learn it at their next look at the board (``control_interval``); ids are remembered
        for ``revokes_expire`` seconds. A task of which nothing is recorded, or which waits for a
        retry, is recorded REVOKED at once: whoever waits for it gets TaskRevokedError. One that has
        ended keeps its result. One that runs is left alone unless ``terminate``: it runs to its end, and
        that end is recorded, over the REVOKED that was written where the record could not tell
        (without ``track_started``).

        ``signal`` is Celery's: every one of them stops a task as a hard time limit does.
        Raises OperationalError; the same call again is safe, and completes what was begun.
        """
        _check_signal(signal)
        wanted = _ids_of(task_id)
        if not wanted:
            return {}
        until = self._clock.time() + self._conf.revokes_expire
        self.boards.revoke(wanted, until, terminate)  # first: a record alone stops no worker
        scheduled = self._scheduled_tries(wanted)
        found = {each: self._record(each, terminate) for each in wanted}
        for each, tries in scheduled.items():  # the board may have forgotten when EventBridge sends
            self._unschedule(each, tries)
        return found

    def _scheduled_tries(self, task_ids: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """The tries that EventBridge may have a schedule for: the first, and the retry that is recorded."""
        if self._conf.delay_tier != "scheduler":
            return {}
        records = self._store.read_many(task_ids)
        return {each: (0, records[each].retries) if each in records else (0,) for each in task_ids}

    def terminate(self, task_id: str | Iterable[str], *, signal: str = "SIGTERM") -> dict[str, str]:
        """``revoke`` with ``terminate=True``."""
        return self.revoke(task_id, terminate=True, signal=signal)

    def revoke_by_stamped_headers(
        self, headers: Mapping[str, Any], *, terminate: bool = False, signal: str = "SIGTERM"
    ) -> None:
        """Revoke every task whose message carries one of these values: ``{"tenant": ["a", "b"]}``.

        Stamps (``signature.stamp``) and plain ``headers=`` both count. Nothing is recorded before a
        worker meets such a task.
        """
        _check_signal(signal)
        if not headers:
            raise ValueError('give at least one header and value, like {"tenant": ["a"]}')
        until = self._clock.time() + self._conf.revokes_expire
        stamps = tuple(
            Stamp(name, _values_of(name, values), until, terminate) for name, values in headers.items()
        )

        def change(board: Board) -> Board:
            names = {(each.header, each.values) for each in stamps}
            kept = tuple(each for each in board.stamps if (each.header, each.values) not in names)
            return board.with_(stamps=kept + stamps)

        self.boards.change(change)

    # --- queues ---------------------------------------------------------------------------------

    def pause(self, queue: str) -> None:
        """No worker takes messages of this queue until ``resume``; those in hand are finished.

        Holds for workers that start later, too.
        """
        _check_text("queue", queue)
        now = self._clock.time()
        self.boards.change(lambda board: board.with_(paused={queue: now, **board.paused}))

    def resume(self, queue: str) -> bool:
        """Take messages of this queue again. False: it was not paused."""
        _check_text("queue", queue)
        was: list[bool] = []

        def change(board: Board) -> Board:
            was[:] = [queue in board.paused]
            return board.with_(paused={name: at for name, at in board.paused.items() if name != queue})

        self.boards.change(change)
        return was[0]

    def paused(self) -> dict[str, float]:
        """The paused queues, and since when (seconds since the epoch)."""
        return dict(self.boards.read().board.paused)

    # --- workers --------------------------------------------------------------------------------

    def workers(self) -> list[WorkerInfo]:
        """Every worker that gave a sign of life lately; ``alive(now)`` tells the lost ones. No order is sent."""
        return self.roster.all()

    def inspect(self, destination: Sequence[str] | None = None, timeout: float | None = None) -> Inspect:
        """Ask workers about themselves: ``app.control.inspect().active()``."""
        return Inspect(self._broadcast, _names(destination), timeout)

    def ping(
        self, destination: Sequence[str] | None = None, timeout: float | None = None
    ) -> list[dict[str, Any]]:
        """``[{hostname: {"ok": "pong"}}, ...]`` of those that answer."""
        return self.broadcast("ping", destination=destination, reply=True, timeout=timeout) or []

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: Sequence[str] | None = None,
        reply: bool = False,
        timeout: float | None = None,
        limit: int | None = None,
    ) -> list[dict[str, Any]] | None:
        """Have workers do something once. With ``reply`` wait for their answers, one mapping each.

        An answer is ``{hostname: {"ok": ...}}`` or ``{hostname: {"error": text}}``.
        """
        names, args = _names(destination), dict(arguments or {})
        if not reply:
            self._broadcast.send(command, args, names)
            return None
        answers = self._broadcast.ask(command, args, names, timeout, limit)
        return [{name: answer} for name, answer in answers.items()]

    def rate_limit(self, task_name: str, rate_limit: str | float | None, **options: Any) -> Any:
        """Change a task's rate limit (``"10/m"``; 0 or None: none) in workers, until they restart."""
        _check_text("task_name", task_name)
        return self.broadcast("rate_limit", {"task_name": task_name, "rate_limit": rate_limit}, **options)

    def time_limit(
        self, task_name: str, soft: float | None = None, hard: float | None = None, **options: Any
    ) -> Any:
        """Change a task's time limits (seconds; None: none) in workers, until they restart."""
        _check_text("task_name", task_name)
        for name, value in (("soft", soft), ("hard", hard)):
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int | float) or value <= 0
            ):
                raise ValueError(f"{name} is a number of seconds above 0, got {value!r}")
        if soft is not None and hard is not None and soft > hard:
            raise ValueError(f"the soft limit ({soft:g} s) is past the hard one ({hard:g} s)")
        return self.broadcast("time_limit", {"task_name": task_name, "soft": soft, "hard": hard}, **options)

    def add_consumer(self, queue: str, **options: Any) -> Any:
        """Have workers consume one more queue, until they restart."""
        _check_text("queue", queue)
        return self.broadcast("add_consumer", {"queue": queue}, **options)

    def cancel_consumer(self, queue: str, **options: Any) -> Any:
        """Have workers consume a queue no longer, until they restart."""
        _check_text("queue", queue)
        return self.broadcast("cancel_consumer", {"queue": queue}, **options)

    def pool_grow(self, n: int = 1, **options: Any) -> Any:
        """Have workers run ``n`` tasks more at once."""
        return self.broadcast("pool_grow", {"n": _positive(n)}, **options)

    def pool_shrink(self, n: int = 1, **options: Any) -> Any:
        """Have workers run ``n`` tasks fewer at once; running ones are finished."""
        return self.broadcast("pool_shrink", {"n": _positive(n)}, **options)

    def autoscale(self, max: int, min: int, **options: Any) -> Any:
        """Change the bounds of workers that were started with ``--autoscale``."""
        if _positive(min) > _positive(max):
            raise ValueError(f"autoscale: the most ({max}) is below the least ({min})")
        return self.broadcast("autoscale", {"max": max, "min": min}, **options)

    def pool_restart(self, **options: Any) -> Any:
        """Replace the processes of prefork pools, each after its task: new ones load the code anew."""
        return self.broadcast("pool_restart", **options)

    def shutdown(self, **options: Any) -> Any:
        """Stop workers, warmly, as SIGTERM does."""
        return self.broadcast("shutdown", **options)

    def _record(self, task_id: str, terminate: bool) -> str:
        error = TaskRevokedError("terminated" if terminate else "revoked")
        record = Record(
            task_id,
            states.REVOKED,
            error,
            done_at=self._clock.time(),
            extra={} if terminate else {ASKED: True},
        )
        return self._store.revoke(record, running=terminate).state


def _ids_of(task_id: str | Iterable[str]) -> list[str]:
    found: Any = task_id
    if isinstance(task_id, str):
        found = [task_id]
    elif not isinstance(task_id, Iterable):
        raise TypeError(f"revoke takes a task's id or several, got {task_id!r}")
    found = list(found)
    for each in found:
        if not isinstance(each, str) or not each:
            raise TypeError(f"revoke takes a task's id or several, got {each!r}")
    return list(dict.fromkeys(found))


def _names(destination: Sequence[str] | None) -> list[str] | None:
    if destination is None:
        return None
    if isinstance(destination, str):
        raise TypeError(f"destination is a list of workers' hostnames, got the text {destination!r}")
    return list(destination)


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{name} is a name, got {value!r}")


def _positive(n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n is a whole number from 1, got {n!r}")
    return n


def _values_of(name: str, values: Any) -> tuple[Any, ...]:
    found = tuple(values) if isinstance(values, list | tuple | set | frozenset) else (values,)
    for each in found:
        if not isinstance(each, str | int | float | bool):
            raise TypeError(f"header {name}: its values are texts or numbers, got {each!r}")
    if not found:
        raise ValueError(f"header {name}: give at least one value")
    return found


def _check_signal(signal: str) -> None:
    if signal not in _SIGNALS:
        raise ValueError(
            f"signal is one of {', '.join(_SIGNALS[:4])}, got {signal!r}: a running task is stopped as by a "
            "hard time limit, whichever it is"
        )
