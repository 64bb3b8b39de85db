"""From a call to what will be sent: options, routes and settings laid over each other, ids, times, headers."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from msgspec import Struct

from cloudq import ids, moments
from cloudq.canvas.plan import to_plain
from cloudq.canvas.signature import as_list
from cloudq.clock import Clock
from cloudq.conf import Conf
from cloudq.context import Request, current
from cloudq.delays import hop
from cloudq.delays.tiers import Tiers
from cloudq.errors import ImproperlyConfigured
from cloudq.message import Envelope
from cloudq.options import check_call_options
from cloudq.outgoing import IDEMPOTENCY_KEY, IGNORE_RESULT, Outgoing
from cloudq.priorities import queue_for
from cloudq.results.push import REPLY_TO, reply_queue
from cloudq.routes import compile_routes

#: Names of tasks whose plans are remembered; ``send_task`` takes names from anywhere.
_MOST: Final = 1000

_TIMED: Final = frozenset({"countdown", "eta"})


class _Plan(Struct, frozen=True):
    """What holds for all calls of one task, until a setting or the task's own options change."""

    revision: int
    defaults: Mapping[str, Any]
    #: The route's options, under the task's.
    options: Mapping[str, Any]
    #: Where calls without options go; None where each is to be asked for.
    queue: str | None


class Preparation:
    """Makes calls ready to be written. ``defaults(name)`` gives the options a registered task has of its own."""

    def __init__(
        self, conf: Conf, tiers: Tiers, defaults: Callable[[str], Mapping[str, Any]], clock: Clock
    ) -> None:
        self._conf = conf
        self._tiers = tiers
        self._defaults = defaults
        self._clock = clock
        self._routes: Any = None
        self._route = compile_routes(None)
        self._zone = moments.zone_of(conf)
        self._origin = f"{os.getpid()}@{socket.gethostname()}"
        self._plans: dict[str, _Plan] = {}

    def prepare(
        self, name: str, args: Iterable[Any], kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> Outgoing:
        """See ``Producer.prepare``."""
        plan = self._plan(name)
        merged, queue = plan.options, plan.queue
        if options:
            check_call_options(options)
            merged = {**merged, **{key: value for key, value in options.items() if value is not None}}
            queue = None
        if queue is None:
            queue = self.queue_for(merged.get("queue"), merged.get("priority"))
        now = self._clock.time()
        eta = None if _TIMED.isdisjoint(merged) else moments.due(merged, now, self._zone)
        envelope = self._envelope(name, args, kwargs, merged, now, eta)
        delay, at = 0.0, None
        if eta is not None:
            at = self._tiers.scheduled_at(eta, now, queue)
            if at is None:
                delay = self._tiers.first_delay(eta, now, queue)
            else:
                envelope = hop.may_repeat(envelope)
        get = merged.get
        return Outgoing(
            envelope,
            queue,
            delay,
            get("group_id"),
            get("dedup_id"),
            get("serializer"),
            get("compression"),
            bool(get("retry", self._conf.task_publish_retry)),
            at=at,
        )

    def _plan(self, name: str) -> _Plan:
        plan, defaults = self._plans.get(name), self._defaults(name)
        if plan is not None and plan.revision == self._conf.revision and plan.defaults == defaults:
            return plan
        conf = self._conf
        revision = conf.revision
        if self._routes is not conf.task_routes:  # they may be set at any time
            self._routes = conf.task_routes
            self._route = compile_routes(self._routes)
        options: dict[str, Any] = dict(self._route(name) or ())
        options.update({key: value for key, value in defaults.items() if value is not None})
        settled = conf.task_default_priority is None and "priority" not in options
        queue = options.get("queue") or conf.task_default_queue
        plan = _Plan(revision, defaults, options, queue if settled else None)
        if self._routes is None or isinstance(
            self._routes, Mapping
        ):  # a router may answer differently each time
            if len(self._plans) >= _MOST:
                self._plans.clear()
            self._plans[name] = plan
        return plan

    def queue_for(self, queue: str | None, priority: int | None) -> str:
        """See ``Producer.queue_for``."""
        conf, queue = self._conf, queue or self._conf.task_default_queue
        if priority is None:
            if conf.task_default_priority is None or queue not in conf.task_queue_priorities:
                return queue
            priority = conf.task_default_priority
        return queue_for(conf.task_queue_priorities, queue, priority)

    def _envelope(
        self,
        name: str,
        args: Any,
        kwargs: Any,
        merged: Mapping[str, Any],
        now: float,
        eta: float | None,
    ) -> Envelope:
        parent, get = current(), merged.get
        task_id = get("task_id") or ids.new_id()
        # fresh for each call: listeners of before_publish may add to it
        headers = dict(get("headers") or ())
        # the process that started it all is the one that waits, whoever sends the later steps
        reply_to = headers.pop(REPLY_TO, parent.headers.get(REPLY_TO) if parent else reply_queue(self._conf))
        if (key := get("idempotency_key")) is not None:
            headers[IDEMPOTENCY_KEY] = self._checked_key(key)
        if get("ignore_result"):
            headers[IGNORE_RESULT] = True
        elif reply_to:
            headers[REPLY_TO] = reply_to
        return Envelope(
            task=name,
            id=task_id,
            args=tuple(args or ()),
            kwargs=dict(kwargs or ()),
            eta=eta,
            expires=moments.moment("expires", merged["expires"], now, self._zone)
            if "expires" in merged
            else None,
            root_id=get("root_id") or _root_of(parent) or task_id,
            parent_id=get("parent_id") or (parent.id if parent else None),
            link=_plain_links(merged["link"]) if "link" in merged else (),
            link_error=_plain_links(merged["link_error"]) if "link_error" in merged else (),
            time_limit=get("time_limit"),
            soft_time_limit=get("soft_time_limit"),
            headers=headers,
            origin=self._origin,
            sent_at=now,
        )

    def _checked_key(self, key: Any) -> str:
        if not isinstance(key, str) or not key:
            raise TypeError(f"idempotency_key of a call is text, got {key!r}")
        if (self._conf.result_backend or "").startswith("disabled://"):
            raise ImproperlyConfigured(
                "idempotency_key: claims are kept in the results store, and this app has none"
                " (result_backend is disabled://)"
            )
        return key


def _plain_links(links: Any) -> tuple[Mapping[str, Any], ...]:
    return tuple(to_plain(each) for each in as_list(links)) if links else ()


def _root_of(parent: Request | None) -> str | None:
    return (parent.root_id or parent.id) if parent is not None else None
