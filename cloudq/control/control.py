"""``app.control``: telling workers what to do, through the results store (decision 17)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from cloudq import states
from cloudq.clock import Clock
from cloudq.coordination.board import Board, Boards, Stamp
from cloudq.errors import TaskRevokedError
from cloudq.results.record import Record
from cloudq.results.store import ResultStore
from cloudq.settings import Conf

#: Signals that Celery users name; here each means: stop it as a hard limit would.
_SIGNALS: Final = ("SIGTERM", "SIGKILL", "SIGINT", "SIGQUIT", "TERM", "KILL", "INT", "QUIT")


class Control:
    """One app's remote control. Every method may be called from anywhere that reaches the results store."""

    def __init__(self, store: ResultStore, conf: Conf, clock: Clock) -> None:
        self._store = store
        self._conf = conf
        self._clock = clock
        self.boards = Boards(store.backend, conf.control_namespace, clock)

    # --- revoke -------------------------------------------------------------------------------

    def revoke(
        self, task_id: str | Iterable[str], *, terminate: bool = False, signal: str = "SIGTERM"
    ) -> dict[str, str]:
        """Have tasks not run; ``terminate`` also stops them while they run. Returns each one's state now.

        Workers learn it at their next look at the board (``control_interval``); ids are remembered
        for ``revokes_expire`` seconds. A task of which nothing is recorded, or which waits for a
        retry, is recorded REVOKED at once: whoever waits for it gets TaskRevokedError. One that has
        ended keeps its result. One that runs is left alone unless ``terminate``, as far as the
        record tells (``track_started``); otherwise it runs to its end, and the record stays REVOKED.

        ``signal`` is Celery's: every one of them stops a task as a hard time limit does.
        Raises OperationalError; the same call again is safe, and completes what was begun.
        """
        _check_signal(signal)
        wanted = _ids_of(task_id)
        if not wanted:
            return {}
        until = self._clock.time() + self._conf.revokes_expire
        self.boards.revoke(wanted, until, terminate)  # first: a record alone stops no worker
        return {each: self._record(each, terminate) for each in wanted}

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

    def _record(self, task_id: str, terminate: bool) -> str:
        error = TaskRevokedError("terminated" if terminate else "revoked")
        record = Record(task_id, states.REVOKED, error, done_at=self._clock.time())
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
