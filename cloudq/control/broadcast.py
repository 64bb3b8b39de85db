"""Orders to workers, and their answers: put on the board, done once by each, answered under the order's id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import quote, unquote

import msgspec

from cloudq import ids
from cloudq.backends.base import ResultBackend
from cloudq.clock import Clock
from cloudq.control.roster import Roster, WorkerInfo
from cloudq.coordination import cas
from cloudq.coordination.board import Boards, Order

#: How long an order stays on the board at least, seconds: a worker that is slow, or throttled, still finds it.
STAYS: Final = 60.0
#: Between two looks for answers, seconds: in the cloud, and on this machine.
ASK_EVERY: Final = (0.5, 0.05)

Answers = dict[str, dict[str, Any]]


class Answering:
    """Where workers leave what an order led to."""

    def __init__(self, store: ResultBackend, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def give(self, order: Order, hostname: str, answer: dict[str, Any]) -> None:
        """One worker's answer: ``{"ok": ...}`` or ``{"error": text}``. Twice is once."""
        value = msgspec.json.encode(answer, enc_hook=repr)
        self._store.write(_folder(order.id) + quote(hostname, safe=""), value, expires_at=order.until + STAYS)

    def collect(self, order_id: str, known: Answers) -> Answers:
        """What has come in so far; ``known`` is not read again."""
        folder = _folder(order_id)
        names = {key: unquote(key.removeprefix(folder)) for key in self._store.keys(folder)}
        wanted = [key for key, name in names.items() if name not in known]
        found = {
            names[key]: cas.decode(dict, key, entry.value)
            for key, entry in self._store.read_many(wanted).items()
        }
        return {**known, **found}


class Broadcast:
    """Gives orders and waits for answers."""

    def __init__(self, store: ResultBackend, boards: Boards, roster: Roster, clock: Clock) -> None:
        self._boards = boards
        self._roster = roster
        self._clock = clock
        self._answers = Answering(store, clock)
        self._ask_every = ASK_EVERY[0 if store.capabilities.reach == "cloud" else 1]

    def send(self, do: str, args: dict[str, Any], to: Sequence[str] | None, stays: float = STAYS) -> Order:
        """Put an order on the board."""
        now = self._clock.time()
        order = Order(ids.new_id(), do, args, now, now + max(STAYS, stays), None if to is None else tuple(to))

        def add(board: Any) -> Any:
            if any(each.id == order.id for each in board.orders):
                return board
            return board.with_(orders=(*board.orders, order))

        self._boards.change(add)
        return order

    def ask(
        self,
        do: str,
        args: dict[str, Any],
        to: Sequence[str] | None = None,
        timeout: float | None = None,
        limit: int | None = None,
    ) -> Answers:
        """The answers of live workers (or of those named), by hostname, within ``timeout`` seconds.

        Returns as soon as all of them (or ``limit``) have answered; empty, and at once, when none
        lives. Default timeout: two of their looks at the board, and a little.
        """
        expected = self._roster.alive(to)
        if not expected:
            return {}
        wait = patience(expected) if timeout is None else timeout
        names = None if to is None else [each.hostname for each in expected]
        order = self.send(do, args, names, wait)
        deadline = self._clock.monotonic() + wait
        enough = len(expected) if limit is None else min(limit, len(expected))
        answers: Answers = {}
        while True:
            answers = self._answers.collect(order.id, answers)
            rest = deadline - self._clock.monotonic()
            if len(answers) >= enough or rest <= 0:
                return dict(sorted(answers.items()))
            self._clock.sleep(min(self._ask_every, rest))


def patience(workers: Iterable[WorkerInfo]) -> float:
    """How long to wait for these: two of their looks at the board, and two seconds."""
    return 2.0 * max(each.looks_every for each in workers) + 2.0


def _folder(order_id: str) -> str:
    return f"answers/{quote(order_id, safe='')}/"
