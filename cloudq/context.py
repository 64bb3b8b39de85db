"""The running task: one ContextVar, set while user code runs and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, eq=False)
class Request:
    """What a task may know about its own run: ``self.request``. Names follow Celery.

    Times are seconds since the epoch, limits are seconds.
    """

    id: str | None = None
    task: str | None = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    retries: int = 0
    eta: float | None = None
    expires: float | None = None
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    chord: Mapping[str, Any] | None = None
    chain: tuple[Mapping[str, Any], ...] = ()
    callbacks: tuple[Mapping[str, Any], ...] = ()
    errbacks: tuple[Mapping[str, Any], ...] = ()
    headers: Mapping[str, Any] = field(default_factory=dict)
    #: (hard, soft)
    timelimit: tuple[float | None, float | None] = (None, None)
    origin: str | None = None
    hostname: str | None = None
    #: ``{"queue": ..., "message_id": ..., "group_id": ..., "redelivered": bool}``
    delivery_info: Mapping[str, Any] = field(default_factory=dict)
    #: How often the message was received, this time included; above 1 after a crash.
    receive_count: int = 1
    first_received_at: float | None = None
    ignore_result: bool = False
    is_eager: bool = False
    #: True when nobody queued this run: the function was simply called.
    called_directly: bool = True
    #: Results of the tasks that this run has sent: AsyncResult objects.
    children: list[Any] = field(default_factory=list)

    #: Names of the durable steps that this run has come by.
    steps: set[str] = field(default_factory=set)
    #: Signatures that the run adds to the header it is a member of.
    added: list[Any] = field(default_factory=list)

    @property
    def stamps(self) -> Mapping[str, Any]:
        """The stamps of this call, by name (``signature.stamp``)."""
        found = self.headers.get("stamps")
        return found if isinstance(found, Mapping) else {}

    @property
    def stamped_headers(self) -> list[str]:
        """The names of the stamps."""
        return sorted(self.stamps)

    @property
    def attempt(self) -> int:
        """Which try this is, from 1: retries count, redeliveries do not."""
        return self.retries + 1

    def get(self, name: str, default: Any = None) -> Any:
        """Attribute, or header of that name, or ``default`` (Celery's spelling)."""
        return getattr(self, name, self.headers.get(name, default))


_current: ContextVar[Request | None] = ContextVar("cloudq_request", default=None)


def current() -> Request | None:
    """The request of the task that runs here, or None outside of tasks."""
    return _current.get()


#: What ``running`` does, for who does it with every task: ``token = enter(request)``, and at last ``leave(token)``.
enter, leave = _current.set, _current.reset


class running:  # noqa: N801  read as a word: ``with running(request)``
    """Make ``request`` the current one for the block."""

    __slots__ = ("_request", "_token")

    def __init__(self, request: Request) -> None:
        self._request = request

    def __enter__(self) -> Request:
        self._token = _current.set(self._request)
        return self._request

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)
