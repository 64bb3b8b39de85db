"""What follows from a final record: callbacks, the next step, the group's join.

Everything here may be done again after a crash at any point: what is sent has derived ids, markers
and records are written where nothing is yet (decisions 7 and 8).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cloudq import ids, states
from cloudq.canvas.freeze import Place, child_of, freeze, frozen_members
from cloudq.canvas.plan import Flow, Step, as_one, flow_of, give_errback, is_group, replacement, steps_of
from cloudq.context import Request
from cloudq.errors import MessageTooLarge, SerializationError, TaskError, Unsupported, ValueTooLarge
from cloudq.message import Envelope, GroupRef
from cloudq.outgoing import Outgoing
from cloudq.results import failure
from cloudq.results.push import REPLY_TO
from cloudq.results.record import Record
from cloudq.results.store import ResultStore
from cloudq.runtime.naming import label
from cloudq.serializers import tagged
from cloudq.shared import Shared
from cloudq.workflows.again import CALL
from cloudq.workflows.launch import Launcher, Setting, joined_of, put
from cloudq.workflows.members import ADDED, CAUSE, MORE
from cloudq.workflows.shelf import is_rest
from cloudq.workflows.words import AGAIN, ARRIVE, ERRBACK, REPLACED

logger = logging.getLogger("cloudq.task")

#: Errors of a message that no second try would cure.
UNSENDABLE = (
    MessageTooLarge,
    SerializationError,
    ValueTooLarge,
    Unsupported,
    TypeError,
    ValueError,  # ImproperlyConfigured among them
)
_SHORT = 2_000
#: Characters of a failed task's message that its record keeps.
_KEPT = 64 * 1024


class Follower:
    """Sends what follows; ``stored``: the record is in the store, so others may read it there.

    ``shared``: members that end a group together in this process send what follows once; None: each sends it.
    """

    def __init__(self, launcher: Launcher, store: ResultStore | None, shared: Shared | None = None) -> None:
        self._launcher = launcher
        self._store = store
        self._shared = shared

    def alone(self, envelope: Envelope) -> bool:
        """Does nothing follow, however it ends?"""
        if envelope.chain or envelope.link or envelope.link_error:
            return False
        return envelope.group is None or envelope.chord is None

    def follow(self, envelope: Envelope, record: Record, *, again: bool, stored: bool) -> None:
        """May be called any number of times. ``again``: this may have been done before."""
        setting = _setting(envelope, again)
        if record.state == states.SUCCESS:
            try:
                self._launcher.send(self._successors(envelope, record.result, setting))
            except UNSENDABLE as error:
                self._cannot_go_on(_steps(envelope), envelope, error)
        elif record.failed:
            self._launcher.send(self._errbacks(envelope, record, setting, stored))
            self._give_up(_steps(envelope), envelope, record)
        elif record.state == states.IGNORED:
            ended = TaskError(f"{envelope.task}[{envelope.id}] was ignored: it has no result")
            gone = Record(envelope.id, states.FAILURE, ended, done_at=record.done_at)
            self._give_up(_steps(envelope), envelope, gone)
        if not envelope.chain and envelope.group is not None and envelope.chord is not None:
            group, chord = envelope.group, envelope.chord
            if added := record.extra.get(MORE):
                group, chord = self._with_more(envelope, group, chord, added, setting)
            self._arrive(group, chord, setting)

    def expects(self, envelope: Envelope) -> bool:
        """Does anybody wait for this task's end, even one that leaves no result?"""
        last: Mapping[str, Any] = envelope.chain[-1] if envelope.chain else {}
        waits = is_rest(last) or bool((last.get("options") or {}).get("chord"))
        return envelope.chord is not None or waits

    # --- success ------------------------------------------------------------------------------

    def _successors(self, envelope: Envelope, result: Any, setting: Setting) -> Iterator[Outgoing]:
        given = _with_first(setting, (result,))
        for n, each in enumerate(envelope.link):
            yield from self._launcher.calls(callback(envelope, "link", n, each), given)
        if envelope.chain:
            yield from self._launcher.calls(_steps(envelope), given)

    def children(self, envelope: Envelope) -> list[Any]:
        """Ids of what follows a success, as a record names them."""
        found = [
            callback(envelope, "link", n, each)[-1]["options"]["task_id"]
            for n, each in enumerate(envelope.link)
        ]
        if envelope.chain:
            found.append(child_of(dict(envelope.chain[0])))
        return found

    # --- a task that replaces itself ----------------------------------------------------------

    def replace(self, envelope: Envelope, signature: Mapping[str, Any], *, again: bool) -> None:
        """Send what takes the task's place: its last call has the task's id, callbacks and successors."""
        steps = replacement(signature, self._launcher.rules)
        times = int(envelope.headers.get(REPLACED, 0))
        freeze(steps, ids.derived_id(envelope.id, "replace", times))
        last = steps[-1]
        last["options"]["task_id"] = envelope.id
        for name, linked in (("link", envelope.link), ("link_error", envelope.link_error)):
            if linked:
                last["options"][name] = [*(last["options"].get(name) or ()), *linked]
        for errback in envelope.link_error:
            give_errback(steps[:-1], dict(errback), self._launcher.rules)
        if envelope.chain:
            steps += _steps(envelope)
        elif envelope.group is not None:
            group = envelope.group
            chord = dict(envelope.chord) if envelope.chord is not None else None
            put(steps, group.id, group.index, group.size, chord)
        headers = {**_setting(envelope, again).headers, REPLACED: times + 1}
        headers.update(
            (each, envelope.headers[each])
            for each in ("stamps", "stamped_headers")
            if each in envelope.headers
        )
        setting = Setting(root_id=envelope.root_id, parent_id=envelope.parent_id, headers=headers)
        self._launcher.check(steps)
        self._launcher.send(self._launcher.calls(steps, setting))

    # --- members that are added to a header ---------------------------------------------------

    def added(self, request: Request) -> dict[str, Any]:
        """What a member's record says of the calls it adds to its header: their ids, and how to send them."""
        if not request.added:
            return {}
        flows = []
        for n, each in enumerate(request.added):
            steps = replacement(each, self._launcher.rules)
            freeze(steps, ids.derived_id(request.id or "", "add", n), last_id=each.options["task_id"])
            self._launcher.check(steps)
            flows.append(as_one(steps))
        ends = [flow_of(each)[-1]["options"]["task_id"] for each in flows]
        return {ADDED: ends, MORE: tagged.to_plain(flows)}

    def _with_more(
        self, envelope: Envelope, group: GroupRef, chord: Mapping[str, Any], added: Any, setting: Setting
    ) -> tuple[GroupRef, Mapping[str, Any]]:
        """Send what this member adds: its place is taken once all of that has ended too."""
        flows = tagged.from_plain(added)
        inner, size = ids.derived_id(envelope.id, "added"), len(flows) + 1
        place = {"id": group.id, "index": group.index, "size": group.size}
        then = {"task": ARRIVE, "kwargs": {"group": place, "chord": dict(chord)}}
        for n, each in enumerate(flows):
            steps = flow_of(each)
            put(steps, inner, n + 1, size, then)
            self._launcher.send(self._launcher.calls(steps, setting))
        return GroupRef(inner, 0, size), then

    def kept(self, envelope: Envelope, queue: str, state: str) -> dict[str, Any]:
        """What a failed task's record keeps, so that its workflow can be tried again from there."""
        part = envelope.chain or envelope.group is not None or envelope.root_id not in (None, envelope.id)
        if not part or state not in states.PROPAGATE_STATES or not self._launcher.remembers:
            return {}
        try:
            text = self._launcher.text_of(envelope, queue)
        except SerializationError:  # it came in another serializer: it cannot be tried again
            return {}
        return {CALL: {"queue": queue, "message": text}} if len(text) <= _KEPT else {}

    # --- failure ------------------------------------------------------------------------------

    def _errbacks(
        self, envelope: Envelope, record: Record, setting: Setting, stored: bool
    ) -> Iterator[Outgoing]:
        if not envelope.link_error:
            return
        said: dict[str, Any] = {"id": envelope.id, "task": envelope.task}
        if not stored and isinstance(record.result, BaseException):  # nobody can look it up
            said["error"] = failure.to_plain(failure.stand_in(record.result, _SHORT), lambda value: value)
        given = _with_first(setting, (envelope.id,), {ERRBACK: said})
        for n, each in enumerate(envelope.link_error):
            yield from self._launcher.calls(callback(envelope, "link_error", n, each), given)

    def _give_up(self, steps: Flow, envelope: Envelope, record: Record) -> None:
        """The steps after a failed one never run: their records say why, and who waits for them hears it."""
        for step in self._launcher.shelf.every(steps):
            if is_group(step):
                self._give_up_group(step, envelope, record)
                continue
            options = step["options"]
            self._mark(options["task_id"], envelope, record)
            if options.get("chord") is not None:
                self._arrive(_group_of(options), options["chord"], _setting(envelope, True))

    def _give_up_group(self, step: Step, envelope: Envelope, record: Record) -> None:
        own = step["options"]
        tail = own.get("group")
        place = Place(tail["id"], tail["index"]) if tail else Place(own["task_id"])
        for flow, index in frozen_members(step, place):
            if tail:
                put(flow, place.group_id, index, tail.get("size"), own.get("chord"))
            self._give_up(flow, envelope, record)

    def _mark(self, task_id: str, envelope: Envelope, record: Record) -> None:
        if self._store is None:
            return
        self._store.finish(
            Record(
                task_id,
                record.state,
                record.result,
                traceback=record.traceback,
                done_at=record.done_at,
                root_id=envelope.root_id,
                parent_id=envelope.id,
                extra={CAUSE: record.extra.get(CAUSE, envelope.id)},
            )
        )

    # --- the join -----------------------------------------------------------------------------

    def _arrive(self, group: GroupRef, chord: Mapping[str, Any], setting: Setting) -> None:
        join = self._launcher.join(group.id, group.size)
        if join.arrive(group.index):
            size = join.size
            assert size is not None
            self._once(
                group.id, setting, lambda: join.fire(lambda: self._fire(group.id, size, chord, setting))
            )

    def _once(self, group_id: str, setting: Setting, fire: Callable[[], object]) -> None:
        """Fire, unless another thread of this process does so just now, and to its end: it may read all results."""
        if self._shared is None:
            fire()
        else:  # what may have been sent before is marked so, which a first sender would not do
            self._shared.do((group_id, AGAIN in setting.headers), fire)

    def _cannot_go_on(self, steps: Flow, envelope: Envelope, error: Exception) -> None:
        """What follows can never be sent: trying again would not end. Who waits for it hears why."""
        logger.error("what follows %s cannot be sent: %s", label(envelope), error)
        gone = Record(envelope.id, states.FAILURE, error, traceback=f"{type(error).__name__}: {error}")
        self._give_up(steps, envelope, gone)

    def _fire(self, group_id: str, size: int, chord: Mapping[str, Any], setting: Setting) -> None:
        if chord.get("task") == ARRIVE:
            inner = chord["kwargs"]
            self._arrive(_group_of(inner), inner["chord"], setting)
            return
        try:
            self._launcher.fire(chord, joined_of(group_id, size, chord), setting)
        except UNSENDABLE as error:
            member = Envelope(task="group", id=group_id, root_id=setting.root_id, headers=setting.headers)
            self._cannot_go_on(self._launcher.unshelved(chord), member, error)


def _setting(envelope: Envelope, again: bool) -> Setting:
    headers: dict[str, Any] = {REPLY_TO: envelope.headers.get(REPLY_TO)}
    if again:
        headers[AGAIN] = True
    return Setting(root_id=envelope.root_id or envelope.id, parent_id=envelope.id, headers=headers)


def _with_first(
    setting: Setting, first: tuple[Any, ...], headers: Mapping[str, Any] | None = None
) -> Setting:
    merged = {**setting.headers, **(headers or {})}
    return Setting(root_id=setting.root_id, parent_id=setting.parent_id, headers=merged, first=first)


def _group_of(options: Mapping[str, Any]) -> GroupRef:
    found = options["group"]
    return GroupRef(found["id"], found["index"], found.get("size"))


def callback(envelope: Envelope, kind: str, index: int, signature: Mapping[str, Any]) -> Flow:
    """The steps of a callback, with the ids they always have: their own, or derived ones."""
    steps = steps_of(signature)
    seed = ids.derived_id(envelope.id, kind, index)
    freeze(steps, seed, last_id=seed)
    return steps


def _steps(envelope: Envelope) -> Flow:
    return [dict(each) for each in envelope.chain]


def named(child: Any) -> Any:
    """A task's child as its record names it: an id, or a group with its members'."""
    if not hasattr(child, "as_tuple"):
        return child
    plain = child.as_tuple()
    return plain if plain[1] is not None else child.id
