"""``app.control.inspect()``: what live workers say of themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cloudq.control.broadcast import Broadcast
from cloudq.errors import OperationalError


class Inspect:
    """Questions to all live workers, or to those of ``destination``. Every method returns a mapping of
    hostname to answer; it is empty when no worker answered within ``timeout`` seconds."""

    def __init__(
        self, broadcast: Broadcast, destination: Sequence[str] | None = None, timeout: float | None = None
    ) -> None:
        self._broadcast = broadcast
        self._destination = destination
        self._timeout = timeout

    def ping(self) -> dict[str, Any]:
        """``{"ok": "pong"}`` of each."""
        answers = self._broadcast.ask("ping", {}, self._destination, self._timeout)
        return dict(answers)

    def active(self) -> dict[str, Any]:
        """Tasks that run: id, name, args, kwargs, since when (``time_start``), ``worker_pid`` ..."""
        return self._ask("active")

    def reserved(self) -> dict[str, Any]:
        """Tasks that a worker holds and has not begun."""
        return self._ask("reserved")

    def scheduled(self) -> dict[str, Any]:
        """Tasks that a worker holds for later, as a limit makes them wait: ``{"eta", "request"}``. Delays
        are kept in the queue (decision 4)."""
        return self._ask("scheduled")

    def registered(self, *attributes: str) -> dict[str, Any]:
        """Names of the tasks it knows; with ``attributes`` (``"rate_limit"``) also these."""
        return self._ask("registered", attributes=list(attributes))

    def stats(self) -> dict[str, Any]:
        """Numbers since its start, its pool, its queues, the resources it used."""
        return self._ask("stats")

    def revoked(self) -> dict[str, Any]:
        """Ids it remembers as revoked."""
        return self._ask("revoked")

    def active_queues(self) -> dict[str, Any]:
        """The queues it consumes, and whether they are paused."""
        return self._ask("active_queues")

    def conf(self) -> dict[str, Any]:
        """Its settings, without secrets."""
        return self._ask("conf")

    def query_task(self, *task_ids: str | Iterable[str]) -> dict[str, Any]:
        """Which of these it holds: id to ``["active" | "reserved", task]``."""
        flat = [each for given in task_ids for each in ([given] if isinstance(given, str) else given)]
        return self._ask("query_task", ids=flat)

    def _ask(self, do: str, **args: Any) -> dict[str, Any]:
        answers = self._broadcast.ask(do, args, self._destination, self._timeout)
        for name, answer in answers.items():
            if "error" in answer:
                raise OperationalError(f"worker {name}: {answer['error']}")
        return {name: answer["ok"] for name, answer in answers.items()}
