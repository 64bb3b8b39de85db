"""What a workflow looked like when it was sent: for drawing, cancelling and retrying it by its id.

One document in the results store, written once: ``[[id, task], ...]`` for calls, and for groups
``{"id", "size", "task"}`` where the members are like each other, ``{"id", "flows"}`` where not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol

from cloudq import ids
from cloudq.canvas.freeze import Place, frozen_members, member_id
from cloudq.canvas.plan import Flow, Step, is_group
from cloudq.results.membership import Membership
from cloudq.results.record import Record
from cloudq.results.store import ResultStore

_PREFIX: Final = "workflow:"


def remember(store: ResultStore, root_id: str, end_id: str, shape: list[Any]) -> None:
    """Keep it, as long as results are kept; to be found by the id that it ends with and the one it began with."""
    store.save_group(Membership(_PREFIX + root_id, shape))
    if root_id not in (end_id, _began(end_id)):
        store.save_group(Membership(_PREFIX + end_id, [root_id]))


class Records(Protocol):
    """What drawing needs of a results store."""

    def read(self, task_id: str) -> Record | None: ...
    def read_many(self, task_ids: Iterable[str]) -> dict[str, Record]: ...
    def read_group(self, group_id: str) -> Membership | None: ...


def find(store: Records, task_id: str) -> list[Any] | None:
    """The shape of the workflow that ends or begins with that id, or that its task is part of."""
    for each in (task_id, _began(task_id)):
        found = store.read_group(_PREFIX + each)
        if found is not None:
            members = list(found.members)
            if len(members) == 1 and isinstance(members[0], str):
                return find(store, members[0]) if members[0] != task_id else None
            return members
    record = store.read(task_id)
    if record is not None and record.root_id and record.root_id != task_id:
        found = store.read_group(_PREFIX + record.root_id)
        return list(found.members) if found is not None else None
    return None


def _began(end_id: str) -> str:
    """The id of the first step of a workflow whose ids are derived from its end's."""
    return ids.derived_id(end_id, "step", 0)


def shape_of(steps: Flow) -> list[Any]:
    """The shape of planned steps."""
    return [_group(each) if is_group(each) else _call(each) for each in steps]


def _call(step: Step) -> list[str]:
    return [step["options"]["task_id"], step["task"]]


def _group(step: Step) -> dict[str, Any]:
    group_id = step["options"]["task_id"]
    flows = [flow for flow, _ in frozen_members(step, Place(group_id))]
    return {"id": group_id, **members_of(flows, group_id)}


def members_of(flows: list[Flow], group_id: str) -> dict[str, Any]:
    """A group's members: their number where they are alike, each of them where they are not."""
    names = {flow[0]["task"] for flow in flows}
    alike = len(names) == 1 and all(
        len(flow) == 1 and not is_group(flow[0]) and flow[0]["options"]["task_id"] == member_id(group_id, n)
        for n, flow in enumerate(flows)
    )
    if alike and flows:
        return {"size": len(flows), "task": names.pop()}
    return {"flows": [shape_of(flow) for flow in flows]}


def flows_of(group: dict[str, Any]) -> Iterator[list[Any]]:
    """The flows of a group in a shape."""
    if "size" in group:
        for n in range(int(group["size"])):
            yield [[member_id(group["id"], n), group["task"]]]
        return
    yield from group.get("flows", ())


def ids_in(shape: list[Any]) -> Iterator[str]:
    """The ids of all its tasks."""
    for each in shape:
        if isinstance(each, dict):
            for flow in flows_of(each):
                yield from ids_in(flow)
        else:
            yield each[0]
