"""Giving every call of a workflow its id, and every outcome of a group its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cloudq import ids
from cloudq.canvas.plan import Flow, Step, as_one, flow_of, is_group, is_lazy


def member_id(group_id: str, index: int) -> str:
    """The id of a group's outcome ``index``, unless the user has chosen one."""
    return ids.derived_id(group_id, "member", index)


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a group: where a flow's outcome goes."""

    group_id: str
    index: int = 0


def freeze(
    steps: Flow,
    seed: str,
    place: Place | None = None,
    last_id: str | None = None,
    *,
    stream: bool = False,
) -> int:
    """Give all of them ids, in place, where they have none; returns how many outcomes the flow has.

    ``seed`` is an id that is this flow's own: the ids are derived from it. The outcomes' ids are
    those of ``place``; ``last_id`` is the id that the last step is to have. With ``stream`` a generator
    in the first step is left alone: its members get their ids as they come (``frozen_members``).
    """
    outcomes = 0
    for n, step in enumerate(steps):
        last = n + 1 == len(steps)
        own = step["options"] = dict(step.get("options") or {})
        if is_group(step):
            own.setdefault("task_id", last_id if last and last_id else ids.derived_id(seed, "step", n))
            target = place if last and place else Place(own["task_id"])
            if stream and n == 0 and is_lazy(step["kwargs"]["tasks"]):
                continue
            members = [flow for flow, _ in frozen_members(step, target)]
            outcomes = sum(_outcomes(each) for each in members)
            kwargs = {"tasks": [as_one(each) for each in members], "outcomes": outcomes}
            if chosen := chosen_ids(members, target.group_id, target.index):
                kwargs["chosen"] = chosen
            step["kwargs"] = kwargs
        else:
            if last and place:
                made = member_id(place.group_id, place.index)
            else:
                made = last_id if last and last_id else ids.derived_id(seed, "step", n)
            own.setdefault("task_id", made)
            outcomes = 1
    return outcomes


def frozen_members(step: Step, place: Place) -> Iterator[tuple[Flow, int]]:
    """The members' flows with their ids, one by one, each with the index of its first outcome."""
    index = place.index
    frozen = "outcomes" in step["kwargs"]
    for n, each in enumerate(step["kwargs"]["tasks"]):
        flow = flow_of(each)
        if frozen:
            count = _outcomes(flow)
        else:
            single = len(flow) == 1 and not is_group(flow[0])  # its id is that of its place
            seed = "" if single else ids.derived_id(step["options"]["task_id"], "flow", n)
            count = freeze(flow, seed, Place(place.group_id, index))
        yield flow, index
        index += count


def _outcomes(flow: Flow) -> int:
    return outcomes_of(flow[-1])


def outcomes_of(step: Mapping[str, Any]) -> int:
    """How many results a step ends in."""
    if not is_group(step):
        return 1
    known = step["kwargs"].get("outcomes")
    if known is not None:
        return int(known)
    return sum(outcomes_of(flow_of(each)[-1]) for each in step["kwargs"]["tasks"])


def chosen_ids(flows: Iterable[Flow], group_id: str, first: int = 0) -> dict[str, str]:
    """Outcomes that have not the id of their place, because the user chose one: ``{index: id}``."""
    found: dict[str, str] = {}
    index = first
    for flow in flows:
        step = flow[-1]
        if is_group(step):
            members = [flow_of(each) for each in step["kwargs"]["tasks"]]
            found.update(chosen_ids(members, group_id, index))
            index += outcomes_of(step)
            continue
        if step["options"]["task_id"] != member_id(group_id, index):
            found[str(index)] = step["options"]["task_id"]
        index += 1
    return found


def child_of(step: Step) -> Any:
    """A step as a record's ``children`` name it: an id, or a group with its members'."""
    task_id = step["options"]["task_id"]
    if "child" in (step.get("kwargs") or {}) and "key" in step["kwargs"]:  # a page: it says whose it is
        return step["kwargs"]["child"]
    if not is_group(step) or "tasks" not in step["kwargs"]:
        return task_id
    place = step["options"].get("group")
    target = Place(place["id"], place["index"]) if place else Place(task_id)
    members = [flow[-1] for flow, _ in frozen_members(step, target)]
    return [[task_id, None], [_child_tuple(each) for each in members]]


def _child_tuple(step: Step) -> Any:
    found = child_of(step)
    return [[found, None], None] if isinstance(found, str) else found
