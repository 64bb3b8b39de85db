"""From a planned workflow to messages: by whoever calls it, and by each task that ends.

Only what can begin now is sent; the rest travels with it: a call carries the steps after it
(``chain``), a group's member what follows when all are there (``chord``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cloudq import ids
from cloudq.canvas.freeze import Place, chosen_ids, freeze, frozen_members, member_id, outcomes_of
from cloudq.canvas.plan import Flow, Rules, Step, as_one, flow_of, is_group, is_lazy, steps_of
from cloudq.clock import Clock
from cloudq.conf import Conf
from cloudq.context import current
from cloudq.coordination.join import Join
from cloudq.errors import ImproperlyConfigured, SendError
from cloudq.message import Envelope, GroupRef
from cloudq.outgoing import Outgoing
from cloudq.producer import Producer
from cloudq.registry import Registry
from cloudq.results.group import GroupResult
from cloudq.results.handle import AsyncResult, Results
from cloudq.results.lazy import LazyResults
from cloudq.results.store import ResultStore
from cloudq.workflows import members as membership
from cloudq.workflows.check import Check
from cloudq.workflows.shape import remember, shape_of
from cloudq.workflows.shelf import Shelf
from cloudq.workflows.words import ERRBACK, JOINED

#: Calls that are held in memory at once.
CHUNK: Final = 1000

Node = AsyncResult[Any] | GroupResult[Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """What the calls of one launch have in common. ``first`` goes before their arguments."""

    root_id: str | None = None
    parent_id: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    first: tuple[Any, ...] = ()
    joined: Mapping[str, Any] | None = None


class Launcher:
    """Sends workflows. ``check`` refuses what could not run, before anything is sent."""

    def __init__(
        self, producer: Producer, store: ResultStore | None, conf: Conf, clock: Clock, check: Check
    ) -> None:
        self._producer = producer
        self._store = store
        self._conf = conf
        self._clock = clock
        self._check = check
        self.shelf = Shelf(store)

    @property
    def remembers(self) -> bool:
        """Is kept what drawing, cancelling and retrying a workflow needs?"""
        return bool(self._conf.task_remember_workflows)

    @property
    def rules(self) -> Rules:
        return Rules(header_errbacks=self._conf.task_allow_error_cb_on_chord_header)

    # --- called by the user -------------------------------------------------------------------

    def launch(self, found: Mapping[str, Any], source: Results) -> Node | None:
        """Send a signature of any kind; the result of its end. None for an empty chain, as in Celery.

        Raises ImproperlyConfigured, NotRegistered, TypeError and Unsupported before anything is sent.
        """
        steps = self.frozen(found)
        if not steps:
            return None
        self._check.steps(steps, self._store)
        running = current()
        begins = (running.root_id or running.id) if running else steps[0]["options"]["task_id"]
        setting = Setting(root_id=begins, parent_id=running.id if running else None)
        if is_group(steps[0]) and is_lazy(steps[0]["kwargs"]["tasks"]):
            return self._stream(steps, setting, source)
        node = result_of(steps, source)
        self._remember(steps, shape_of(steps))
        self.send(self.calls([steps[0], *self.shelf.rest(steps[1:])], setting))
        return node

    def frozen(self, found: Mapping[str, Any]) -> Flow:
        """The steps with their ids; the same ids again for a signature that was frozen."""
        steps = steps_of(found, self.rules)
        if steps:
            seed = (found.get("kwargs") or {}).get("seed") if found.get("subtask_type") else None
            seed = str(seed or ids.new_id())
            freeze(steps, seed, last_id=seed, stream=True)
        return steps

    def _remember(self, steps: Flow, shape: list[Any]) -> None:
        if self._store is None or not self.remembers:
            return
        if len(shape) == 1 and isinstance(shape[0], list):
            return  # one call: its record says everything
        began, ends = steps[0]["options"]["task_id"], steps[-1]["options"]["task_id"]
        remember(self._store, began, ends, shape)

    def frozen_result(self, found: Mapping[str, Any], source: Results) -> Node | None:
        """The result that a frozen signature will have."""
        steps = self.frozen(found)
        return result_of(steps, source) if steps else None

    def check(self, steps: Flow) -> None:
        """Raises what ``launch`` would, before anything is sent."""
        self._check.steps(steps, self._store)

    def send(self, calls: Iterable[Outgoing]) -> None:
        """Publish, a thousand at a time. Raises SendError; positions are those of ``calls``."""
        remaining = iter(calls)
        done = 0
        while chunk := list(itertools.islice(remaining, CHUNK)):
            try:
                self._producer.send(chunk)
            except SendError as error:
                failures = {done + n: each for n, each in error.failures.items()}
                raise SendError(failures, {done + n: each for n, each in error.sent.items()}) from error
            done += len(chunk)

    # --- calls --------------------------------------------------------------------------------

    def calls(self, steps: Flow, setting: Setting) -> Iterator[Outgoing]:
        """The calls with which these steps begin."""
        step, *rest = self.shelf.fetch(steps)
        if is_group(step):
            yield from self._group_calls(step, rest, setting)
        else:
            yield self._call(step, rest, setting)

    def _call(self, step: Step, rest: Flow, setting: Setting) -> Outgoing:
        options = dict(step.get("options") or {})
        place, chord = options.pop("group", None), options.pop("chord", None)
        args = list(step.get("args") or ())
        takes = not step.get("immutable")
        if takes:
            args = [*setting.first, *args]
        headers = {**(options.get("headers") or {}), **setting.headers}
        if setting.joined is not None:
            headers[JOINED] = {**setting.joined, "give": takes}
        if not takes:
            headers.pop(ERRBACK, None)
        options["headers"] = headers
        options.setdefault("root_id", setting.root_id)
        options.setdefault("parent_id", setting.parent_id)
        call = self._producer.prepare(step["task"], args, step.get("kwargs"), options)
        group = GroupRef(place["id"], place["index"], place.get("size")) if place else None
        return call.with_(envelope=call.envelope.with_(group=group, chord=chord, chain=tuple(rest)))

    def _group_calls(self, step: Step, rest: Flow, setting: Setting) -> Iterator[Outgoing]:
        own = step["options"]
        size = outcomes_of(step)
        place, chord = Place(own["task_id"]), None
        if "group" in own:  # the end of a flow that is itself a member
            place, chord = Place(own["group"]["id"], own["group"]["index"]), own.get("chord")
        elif rest:
            chord = self.shelf.then(own["task_id"], continuation(rest, step))
        if size == 0 and rest:
            yield from self.calls(rest, empty(own["task_id"], setting))
            return
        total = own["group"].get("size") if "group" in own else size
        for flow, index in frozen_members(step, place):
            put(flow, place.group_id, index, total, chord)
            if len(flow) > 1:
                flow = [flow[0], *self.shelf.rest(flow[1:])]
            yield from self.calls(flow, setting)

    # --- members that are made as they are sent -----------------------------------------------

    def _stream(self, steps: Flow, setting: Setting, source: Results) -> Node:
        step, rest = steps[0], steps[1:]
        group_id = step["options"]["task_id"]
        tasks = iter(step["kwargs"]["tasks"])
        begun = list(itertools.islice(tasks, CHUNK))
        if len(begun) < CHUNK:  # few enough to know them all: then their number is known
            step["kwargs"] = {"tasks": begun}
            freeze([step], group_id, last_id=group_id)
            self._check.members(begun)
            all_known = result_of(steps, source)
            self._remember(steps, shape_of(steps))
            self.send(self.calls([step, *self.shelf.rest(rest)], setting))
            return all_known
        step["kwargs"] = {"tasks": itertools.chain(begun, tasks)}
        chord = None
        if rest:
            rest_sent = self.shelf.rest(rest)
            chord = self.shelf.then(group_id, {**continuation(rest_sent, None), "open": True})
        results = LazyResults(lambda place: source.handle(member_id(group_id, place)))
        names: set[str] = set()
        chosen: dict[str, str] = {}
        count = 0
        members = frozen_members(step, Place(group_id))
        while chunk := list(itertools.islice(members, CHUNK)):
            flows = [flow for flow, _ in chunk]
            self._check.members(flow_head for flow in flows for flow_head in flow)
            chosen.update(chosen_ids(flows, group_id, count))
            count += sum(outcomes_of(flow[-1]) for flow in flows)
            names.update(flow[0]["task"] for flow in flows)
            for flow, index in chunk:
                plain = len(flow) == 1 and index == len(results) and not is_group(flow[0])
                derived = plain and flow[0]["options"]["task_id"] == member_id(group_id, index)
                results.add(None if derived else result_of(flow, source))
                put(flow, group_id, index, None, chord)
            self.send(call for flow in flows for call in self.calls(flow, setting))
        node: Node = GroupResult(group_id, results, None, source)
        alike = {"id": group_id, "size": count, "task": " or ".join(sorted(names)[:3])}
        self._remember(steps, [alike, *shape_of(rest)])
        if rest:
            self._close(group_id, count, chosen, rest_sent, setting)
            node = result_of(rest, source, node)
        return node

    def _close(
        self, group_id: str, size: int, chosen: Mapping[str, str], rest: Flow, setting: Setting
    ) -> None:
        assert self._store is not None  # checked before the first was sent
        membership.save_chosen(self._store, group_id, chosen)
        join = self.join(group_id, None)
        if join.close(size):
            join.fire(lambda: self.fire(as_one(rest), joined_of(group_id, size, {"open": True}), setting))

    # --- joins --------------------------------------------------------------------------------

    def join(self, group_id: str, size: int | None) -> Join:
        """The join of a group."""
        if self._store is None:
            raise ImproperlyConfigured("a chord needs a results store (result_backend is disabled://)")
        return Join(self._store.backend, membership.quoted(group_id), size, self._clock)

    def resend(self, envelope: Envelope, queue: str) -> Outgoing:
        """A call that was sent before."""
        return self._producer.resend(envelope, queue, None)

    def text_of(self, envelope: Envelope, queue: str) -> str:
        """A call's message. Raises SerializationError."""
        return self._producer.text_of(envelope, queue)

    def unshelved(self, chord: Mapping[str, Any]) -> Flow:
        """The steps that follow a group."""
        steps = self.shelf.fetch(flow_of(chord))
        return flow_of(steps[0]) if len(steps) == 1 else steps

    def fire(self, chord: Mapping[str, Any], joined: Mapping[str, Any], setting: Setting) -> None:
        """Send what follows a group that is complete."""
        self.send(
            self.calls(
                self.unshelved(chord), replace(setting, parent_id=joined["id"], first=(), joined=joined)
            )
        )


def launcher_of(
    producer: Producer, store: ResultStore | None, conf: Conf, clock: Clock, registry: Registry
) -> Launcher:
    """A launcher whose checks know the tasks of ``registry``."""
    return Launcher(producer, store, conf, clock, Check(conf, registry.missing))


def empty(group_id: str, setting: Setting) -> Setting:
    """What follows a group of none."""
    return replace(setting, first=(), joined=joined_of(group_id, 0, {}))


def continuation(rest: Flow, step: Step | None) -> Step:
    """What follows a group, as its members carry it; with the ids that the user chose for some of them."""
    found = dict(as_one(rest))
    if step is not None:
        for name, said in (("ids", "chosen"), ("open", "open")):
            if step["kwargs"].get(said):
                found[name] = step["kwargs"][said]
    return found


def joined_of(group_id: str, size: int, chord: Mapping[str, Any]) -> dict[str, Any]:
    """How the calls that follow a group say which results they want."""
    found: dict[str, Any] = {"id": group_id, "size": size}
    for name in ("ids", "open"):
        if chord.get(name):
            found[name] = chord[name]
    return found


def put(flow: Flow, group_id: str, index: int, size: int | None, chord: Step | None) -> None:
    """Give the end of a flow its place in a group, in place."""
    options = flow[-1]["options"]
    options["group"] = {"id": group_id, "index": index, "size": size}
    if chord is not None:
        options["chord"] = chord


def result_of(steps: Flow, source: Results, parent: Node | None = None) -> Node:
    """The result of the last step; its parents are those of the steps before."""
    node = parent
    for step in steps:
        task_id = step["options"]["task_id"]
        if is_group(step):
            flows = (flow for flow, _ in frozen_members(step, Place(task_id)))
            node = GroupResult(task_id, [result_of(flow, source) for flow in flows], node, source)
        else:
            node = source.handle(task_id)
            node.parent = parent
        parent = node
    assert node is not None
    return node
