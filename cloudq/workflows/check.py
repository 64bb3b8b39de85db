"""What a workflow must be before its first call is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cloudq.canvas.plan import Flow, flow_of, is_group, is_lazy
from cloudq.conf import Conf
from cloudq.errors import ImproperlyConfigured, NotRegistered, Unsupported
from cloudq.options import check_call_options
from cloudq.results.store import ResultStore
from cloudq.routes import compile_routes

#: Options of a planned call that only plans have.
_PLANNED = ("group", "chord")


class Check:
    """Refuses, with the nearest right thing named. ``missing(name)`` says why a task is not known, or None."""

    def __init__(self, conf: Conf, missing: Callable[[str], str | None]) -> None:
        self._conf = conf
        self._missing = missing

    def steps(self, steps: Flow, store: ResultStore | None) -> None:
        """Raises ImproperlyConfigured, Unsupported, NotRegistered, TypeError."""
        for n, step in enumerate(steps):
            if not is_group(step):
                self._call(step)
                continue
            if n + 1 < len(steps):
                joinable(store)
            if not is_lazy(step["kwargs"]["tasks"]):
                for each in step["kwargs"]["tasks"]:
                    self.steps(flow_of(each), store)

    def members(self, members: Iterable[Mapping[str, Any]]) -> None:
        """Members of a group that were made as it was sent."""
        for each in members:
            for step in flow_of(each):
                if not is_group(step):
                    self._call(step)

    def links(self, options: Mapping[str, Any]) -> None:
        """The callbacks and errbacks among a call's options."""
        for name in ("link", "link_error"):
            found = options.get(name)
            for each in found if isinstance(found, list | tuple) else [found] if found else ():
                self._link(name, each)

    def _call(self, step: Mapping[str, Any]) -> None:
        options = step.get("options") or {}
        check_call_options(name for name in options if name not in _PLANNED)
        self.links(options)

    def _link(self, name: str, found: Any) -> None:
        if not isinstance(found, Mapping):
            raise ImproperlyConfigured(f"{name} takes signatures, like task.s(...), got {found!r:.200}")
        if found.get("subtask_type") is not None:
            for each in (found.get("kwargs") or {}).get("tasks") or ():
                self._link(name, each)
            return
        task = str(found.get("task"))
        addressed = (found.get("options") or {}).get("queue") or compile_routes(self._conf.task_routes)(task)
        if not addressed and (reason := self._missing(task)) is not None:
            raise NotRegistered(
                f"{name}: {reason} If another service runs it, say where: .set(queue=...) or a route."
            )


def joinable(store: ResultStore | None) -> None:
    """Can groups be joined on this store? Raises ImproperlyConfigured, Unsupported."""
    if store is None:
        raise ImproperlyConfigured(
            "a chord needs a results store, and this app has none (result_backend is disabled://)"
        )
    if not store.backend.capabilities.conditional:
        raise Unsupported(
            f"a chord needs a store with conditional writes, and {store.backend.url} has none: use dynamodb://, "
            "s3://, gs://, azureblob:// or sqlite://"
        )
