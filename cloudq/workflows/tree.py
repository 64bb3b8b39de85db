"""A workflow with its states, as text, Graphviz or Mermaid."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from cloudq import states
from cloudq.results.record import Record
from cloudq.workflows import shape as shapes
from cloudq.workflows.shape import Records

#: Members of a group that are drawn; of the others only the states are counted.
SHOWN: Final = 20

_COLOURS: Final = {
    states.SUCCESS: "palegreen",
    states.FAILURE: "lightcoral",
    states.REVOKED: "lightgrey",
    states.REJECTED: "lightcoral",
    states.RETRY: "khaki",
    states.STARTED: "lightblue",
}


@dataclass(slots=True)
class Node:
    """A task or a group. ``parts`` are a group's flows, ``leads_to`` what a task sent by itself."""

    id: str
    label: str
    state: str = states.PENDING
    said: str = ""
    flows: list[list[Node]] | None = None
    hidden: Counter[str] = field(default_factory=Counter)
    leads_to: list[Node] = field(default_factory=list)


class Tree:
    """A workflow: ``text()``, ``dot()``, ``mermaid()``; ``str()`` is its text."""

    def __init__(self, flow: list[Node]) -> None:
        self.flow = flow

    def ids(self) -> Iterator[tuple[str, str]]:
        """(id, state) of each task that is drawn."""
        for node in _all(self.flow):
            if node.flows is None:
                yield node.id, node.state

    # --- text ---------------------------------------------------------------------------------

    def text(self) -> str:
        """Lines with indentation: steps below each other, a group's members further in."""
        return "\n".join(_lines(self.flow, ""))

    __str__ = text

    # --- pictures -----------------------------------------------------------------------------

    def dot(self) -> str:
        """Graphviz: ``dot -Tsvg``."""
        lines = ["digraph workflow {", "  rankdir=LR;", '  node [shape=box, style="rounded,filled"];']
        names: dict[int, str] = {}
        for node in _all(self.flow):
            name = names[id(node)] = f"n{len(names)}"
            text = "\\n".join(_quoted(each) for each in _title(node))
            colour = _COLOURS.get(node.state, "white")
            lines.append(f'  {name} [label="{text}", fillcolor="{colour}"];')
        lines += [f"  {names[id(a)]} -> {names[id(b)]};" for a, b in _arrows(self.flow)]
        return "\n".join([*lines, "}"])

    def mermaid(self) -> str:
        """Mermaid: a flowchart for Markdown."""
        lines = ["flowchart LR"]
        names: dict[int, str] = {}
        for node in _all(self.flow):
            name = names[id(node)] = f"n{len(names)}"
            text = "<br/>".join(each.replace('"', "#quot;") for each in _title(node))
            lines.append(f'  {name}["{text}"]:::{node.state.lower() if node.state.isalnum() else "other"}')
        lines += [f"  {names[id(a)]} --> {names[id(b)]}" for a, b in _arrows(self.flow)]
        seen = sorted({node.state for node in _all(self.flow)} & set(_COLOURS))
        lines += [f"  classDef {state.lower()} fill:{_COLOURS[state]}" for state in seen]
        return "\n".join(lines)


def tree_of(store: Records, task_id: str, shown: int = SHOWN) -> Tree:
    """The workflow of that id, with the states its records have now; one task, if nothing else is known."""
    shape = shapes.find(store, task_id) or [[task_id, ""]]
    return Tree(_Builder(store, shown).flow(shape))


def unfinished(store: Records, task_id: str) -> list[str]:
    """The ids of a workflow's tasks that have not ended, those that other tasks sent included."""
    wanted = list(shapes.ids_in(shapes.find(store, task_id) or [[task_id, ""]]))
    seen: dict[str, None] = {}
    ended: set[str] = set()
    while wanted:
        new = [each for each in dict.fromkeys(wanted) if each not in seen]
        seen.update(dict.fromkeys(new))
        wanted = []
        for n in range(0, len(new), 1000):
            for record in store.read_many(new[n : n + 1000]).values():
                if record.final:
                    ended.add(record.id)
                for child in record.children:
                    wanted += [child] if isinstance(child, str) else [each[0][0] for each in child[1]]
    return [each for each in seen if each not in ended]


class _Builder:
    def __init__(self, store: Records, shown: int) -> None:
        self._store = store
        self._shown = shown
        self._drawn: set[str] = set()
        self._records: dict[str, Record] = {}

    def flow(self, shape: list[Any]) -> list[Node]:
        wanted = list(shapes.ids_in(shape))
        self._drawn.update(wanted)
        for n in range(0, len(wanted), 1000):
            self._records.update(self._store.read_many(wanted[n : n + 1000]))
        return [self._node(each) for each in shape]

    def _node(self, part: Any) -> Node:
        if isinstance(part, dict):
            return self._group(part)
        task_id, name = part
        record = self._records.get(task_id)
        if record is None:
            return Node(task_id, name)
        said = ""
        if isinstance(record.result, BaseException):
            said = f"{type(record.result).__name__}: {record.result}"
        node = Node(task_id, name or record.name or "", record.state, said)
        for child in record.children:
            node.leads_to += self._child(child)
        return node

    def _group(self, part: dict[str, Any]) -> Node:
        node = Node(part["id"], "group", flows=[])
        assert node.flows is not None
        counted: Counter[str] = Counter()
        for flow in shapes.flows_of(part):
            end = self._end_state(flow)
            counted[end] += 1
            ill = end in states.PROPAGATE_STATES
            if len(node.flows) < self._shown or (ill and len(node.flows) < 2 * self._shown):
                node.flows.append([self._node(each) for each in flow])
            else:
                node.hidden[end] += 1
        node.state = _together(counted)
        node.label = f"group of {sum(counted.values())}"
        return node

    def _end_state(self, flow: list[Any]) -> str:
        end = flow[-1]
        if isinstance(end, dict):
            return _together(Counter(self._end_state(each) for each in shapes.flows_of(end)))
        record = self._records.get(end[0])
        return record.state if record is not None else states.PENDING

    def _child(self, child: Any) -> list[Node]:
        """What a record names as its child, unless it is drawn anyway."""
        if isinstance(child, str):
            if child in self._drawn:
                return []
            return self.flow([[child, ""]])
        (group_id, _), members = child
        flows = [[[each[0][0], ""]] for each in members if each[0][0] not in self._drawn]
        return self.flow([{"id": group_id, "flows": flows}]) if flows else []


def _together(counted: Counter[str]) -> str:
    if any(counted[each] for each in states.PROPAGATE_STATES):
        return states.FAILURE
    done = counted[states.SUCCESS] + counted[states.IGNORED]
    return states.SUCCESS if done == sum(counted.values()) else states.PENDING


def _title(node: Node) -> list[str]:
    name = node.label or "task"
    lines = [name, node.id, node.state]
    if node.hidden:
        lines.append("and " + ", ".join(f"{count} {state}" for state, count in sorted(node.hidden.items())))
    return lines


def _lines(flow: list[Node], indent: str) -> Iterator[str]:
    for node in flow:
        said = f"  {node.said}" if node.said else ""
        yield f"{indent}{node.state:<8} {node.label or 'task'} {node.id}{said}"
        for n, inner in enumerate(node.flows or ()):
            for number, line in enumerate(_lines(inner, "")):
                yield f"{indent}  {'- ' if number == 0 else '  '}{line}"
            if n == len(node.flows or ()) - 1 and node.hidden:
                more = ", ".join(f"{count} {state}" for state, count in sorted(node.hidden.items()))
                yield f"{indent}  - ... and {more}"
        for child in node.leads_to:
            yield from _lines([child], indent + "    > ")


def _all(flow: list[Node]) -> Iterator[Node]:
    for node in flow:
        yield node
        for inner in node.flows or ():
            yield from _all(inner)
        yield from _all(node.leads_to)


def _ends(node: Node) -> list[Node]:
    if node.flows:
        return [end for inner in node.flows for end in (_ends(inner[-1]) if inner else ())]
    return [node]


def _arrows(flow: list[Node]) -> Iterator[tuple[Node, Node]]:
    for before, after in itertools.pairwise(flow):
        for end in _ends(before):
            yield end, after
    for node in flow:
        for inner in node.flows or ():
            if inner:
                yield node, inner[0]
                yield from _arrows(inner)
        for child in node.leads_to:
            yield node, child
            yield from _arrows([child])


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
