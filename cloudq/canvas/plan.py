"""What a workflow means, as data: any signature becomes a flat list of steps.

A step is a call, or a group of flows that run side by side; a flow is again a list of steps. What
follows a group waits for all of it, so a chord is a group with steps after it, and "a group in a
chain becomes a chord" needs no rule of its own. Steps are mappings as messages carry them
(``docs/reference/protocol.md``); everything here is pure.

    chord(header, body) | last      ->  [group(header), body, last]
    group(group(a, b), c)           ->  [group(a, b, c)]

Ids (``freeze``) are derived from the workflow's own, so that planning it twice gives the same
ones: a group's n-th outcome is ``member_id(group_id, n)``, whatever flow leads to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from cloudq.canvas.signature import as_list
from cloudq.errors import ImproperlyConfigured

CHAIN: Final = "cloudq.chain"
GROUP: Final = "cloudq.group"
MAP: Final = "cloudq.map"
STARMAP: Final = "cloudq.starmap"
ACCUMULATE: Final = "cloudq.accumulate"

#: A call, or a group, as a mapping.
Step: TypeAlias = dict[str, Any]
Flow: TypeAlias = list[Step]

#: Options that say when to begin: they are for what begins, never for a chord's body.
_BEGINNING: Final = ("countdown", "eta")


@dataclass(frozen=True, slots=True)
class Rules:
    """``header_errbacks``: a chord's ``link_error`` is linked to its header too
    (``task_allow_error_cb_on_chord_header``)."""

    header_errbacks: bool = False


DEFAULT: Final = Rules()


def is_group(step: Mapping[str, Any]) -> bool:
    return step.get("task") == GROUP


# --- any signature to steps -------------------------------------------------------------------------


def steps_of(found: Any, rules: Rules = DEFAULT, path: tuple[int, ...] = ()) -> Flow:
    """The steps of a signature; fresh mappings, the signature stays as it is.

    Raises ImproperlyConfigured for what is no signature, a chord without a body, and a workflow
    that contains itself.
    """
    if not isinstance(found, Mapping) or not isinstance(found.get("task"), str) or not found["task"]:
        raise ImproperlyConfigured(f"a signature is expected, like task.s(...), got {found!r:.200}")
    if id(found) in path:
        raise ImproperlyConfigured(
            f"the workflow contains itself: {found['task']} leads back to the same signature; use clone()"
        )
    kind = found.get("subtask_type")
    reader = _READERS.get(kind)
    if reader is None:
        raise ImproperlyConfigured(
            f"a signature's subtask_type is one of {', '.join(filter(None, _READERS))}, got {kind!r}"
        )
    return reader(found, rules, (*path, id(found)))


def as_one(steps: Flow) -> Step:
    """Steps as the one signature that messages carry; ``flow_of`` reads it."""
    if len(steps) == 1:
        return steps[0]
    return {"task": CHAIN, "kwargs": {"tasks": steps, "planned": True}, "subtask_type": "chain"}


def flow_of(plain: Mapping[str, Any]) -> Flow:
    """The steps that ``as_one`` made one. Never unrolls anything: they are planned already."""
    if plain.get("task") == CHAIN:
        return [dict(each) for each in plain["kwargs"]["tasks"]]
    return [dict(plain)]


def to_plain(found: Any, rules: Rules = DEFAULT) -> Step:
    """A signature as messages carry it, planned."""
    return as_one(steps_of(found, rules))


def _call(found: Mapping[str, Any], rules: Rules, path: tuple[int, ...]) -> Flow:
    step = _step(found["task"], found.get("args"), found.get("kwargs"))
    options = dict(found.get("options") or {})
    for name in ("link", "link_error"):
        if linked := as_list(options.pop(name, None)):
            options[name] = [as_one(steps_of(each, rules, path)) for each in linked]
    step["options"] = options
    if found.get("immutable"):
        step["immutable"] = True
    return [step]


def _step(task: str, args: Any = None, kwargs: Any = None) -> Step:
    step: Step = {"task": task}
    if args:
        step["args"] = list(args)
    if kwargs:
        step["kwargs"] = dict(kwargs)
    step["options"] = {}
    return step


def _chain(found: Mapping[str, Any], rules: Rules, path: tuple[int, ...]) -> Flow:
    steps: Flow = []
    planned = found["kwargs"].get("planned")  # what is planned already has no group to unroll
    for each in found["kwargs"].get("tasks") or ():
        each = each if planned else lone(each)
        if not is_empty(each):
            steps += steps_of(each, rules, path)
    if not steps:
        return []
    options = dict(found.get("options") or {})
    _take_links(steps, options, rules, path)
    for each in as_list(options.pop("link_error", None)):
        give_errback(steps, as_one(steps_of(each, rules, path)), rules)
    if (task_id := options.pop("task_id", None)) is not None:
        steps[-1]["options"]["task_id"] = task_id
    begin(steps[0], found.get("args") or (), found["kwargs"].get("given"), options)
    return steps


def _group(found: Mapping[str, Any], rules: Rules, path: tuple[int, ...]) -> Flow:
    options = dict(found.get("options") or {})
    if options.pop("link", None) is not None:
        raise ImproperlyConfigured("a group takes no link: use a chord, whose body gets all its results")
    errbacks = [as_one(steps_of(each, rules, path)) for each in as_list(options.pop("link_error", None))]
    step = _step(GROUP)
    step["subtask_type"] = "group"
    step["options"] = {"task_id": options.pop("task_id")} if "task_id" in options else {}
    args, given = found.get("args") or (), found["kwargs"].get("given")

    def members() -> Iterator[Step]:
        for each in _header(found["kwargs"].get("tasks")):
            for flow in _flows(each, rules, path):
                for errback in errbacks:
                    give_errback(flow, errback, rules)
                begin(flow[0], args, given, options)
                yield as_one(flow)

    tasks = found["kwargs"].get("tasks")
    step["kwargs"] = {"tasks": members() if is_lazy(tasks) else list(members())}
    return [step]


def _header(tasks: Any) -> Iterable[Any]:
    if isinstance(tasks, Mapping) and tasks.get("subtask_type") == "group":
        return [tasks]
    if isinstance(tasks, Mapping | str) or not isinstance(tasks, Iterable):
        raise ImproperlyConfigured(f"a group is made of signatures, like task.s(...), got {tasks!r:.200}")
    return tasks


def _flows(member: Any, rules: Rules, path: tuple[int, ...]) -> Iterator[Flow]:
    """What a member adds to its group: a group in a group is unrolled, an empty chain is nothing."""
    steps = steps_of(member, rules, path)
    if len(steps) == 1 and is_group(steps[0]):
        yield from (flow_of(each) for each in steps[0]["kwargs"]["tasks"])
    elif steps:
        yield steps


def _chord(found: Mapping[str, Any], rules: Rules, path: tuple[int, ...]) -> Flow:
    parts = found["kwargs"]
    if parts.get("body") is None:
        raise ImproperlyConfigured("a chord needs a body: chord(header, body), or chord(header)(body)")
    header = parts.get("header")
    whole = isinstance(header, Mapping) and header.get("subtask_type") == "group"
    [head] = steps_of(header, rules, path) if whole else _group(_as_group(header), rules, path)
    body = steps_of(parts["body"], rules, path)
    options = dict(found.get("options") or {})
    _take_links(body, options, rules, path)
    for each in as_list(options.pop("link_error", None)):
        errback = as_one(steps_of(each, rules, path))
        give_errback([head, *body], errback, rules)
    if (task_id := options.pop("task_id", None)) is not None:
        (body or [head])[-1]["options"]["task_id"] = task_id
    begin(head, found.get("args") or (), {**(parts.get("kwargs") or {}), **parts.get("given", {})}, options)
    if body:
        begin(body[0], (), None, {k: v for k, v in options.items() if k not in _BEGINNING})
    return [head, *body]


def _as_group(header: Any) -> Mapping[str, Any]:
    return {"task": GROUP, "kwargs": {"tasks": _header(header)}}


def _map(found: Mapping[str, Any], rules: Rules, path: tuple[int, ...]) -> Flow:
    return _mapped(MAP, found, rules, path)


def _starmap(found: Mapping[str, Any], rules: Rules, path: tuple[int, ...]) -> Flow:
    return _mapped(STARMAP, found, rules, path)


def _mapped(name: str, found: Mapping[str, Any], rules: Rules, path: tuple[int, ...]) -> Flow:
    parts = found["kwargs"]
    [task] = _one_call(parts["task"], rules, path)
    plain = {**found, "task": name, "args": (), "kwargs": {"task": task, "it": list(parts["it"])}}
    plain["immutable"] = True  # Celery gives it no result of what runs before it
    return _call(plain, rules, path)


def _one_call(task: Any, rules: Rules, path: tuple[int, ...]) -> Flow:
    if not isinstance(task, Mapping) or task.get("subtask_type") is not None:
        raise ImproperlyConfigured(f"map, starmap and chunks take one task's signature, got {task!r:.200}")
    return steps_of(task, rules, path)


def _chunks(found: Mapping[str, Any], rules: Rules, path: tuple[int, ...]) -> Flow:
    parts = found["kwargs"]
    task, n = parts["task"], parts["n"]
    _one_call(task, rules, path)

    def members() -> Iterator[Mapping[str, Any]]:
        part: list[Any] = []
        for each in parts["it"]:
            part.append(each)
            if len(part) == n:
                yield {"task": STARMAP, "subtask_type": "xstarmap", "kwargs": {"task": task, "it": part}}
                part = []
        if part:
            yield {"task": STARMAP, "subtask_type": "xstarmap", "kwargs": {"task": task, "it": part}}

    tasks = Stream(members()) if is_lazy(parts["it"]) else list(members())
    return _group({**found, "args": (), "kwargs": {"tasks": tasks}}, rules, path)


#: By ``subtask_type``.
_READERS: Final[dict[str | None, Callable[[Mapping[str, Any], Rules, tuple[int, ...]], Flow]]] = {
    None: _call,
    "chain": _chain,
    "group": _group,
    "chord": _chord,
    "xmap": _map,
    "xstarmap": _starmap,
    "chunks": _chunks,
}


class Stream:
    """An iterable that is gone through once, as it is sent."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source

    def __iter__(self) -> Iterator[Any]:
        return self._source


def is_lazy(tasks: Any) -> bool:
    """Made while they are sent, and of unknown number?"""
    return not isinstance(tasks, Mapping) and not hasattr(tasks, "__len__") and tasks is not None


def lone(found: Any) -> Any:
    """A group of one is that one, inside a chain (Celery's rule; in a chord it stays a list)."""
    if not isinstance(found, Mapping) or found.get("subtask_type") != "group":
        return found
    tasks = (found.get("kwargs") or {}).get("tasks")
    return tasks[0] if isinstance(tasks, list | tuple) and len(tasks) == 1 else found


def is_empty(found: Any) -> bool:
    """A group of none: in a chain it is left out."""
    if not isinstance(found, Mapping) or found.get("subtask_type") not in ("group", "chain"):
        return False
    tasks = (found.get("kwargs") or {}).get("tasks")
    return isinstance(tasks, list | tuple) and not tasks


# --- options ----------------------------------------------------------------------------------------


def begin(
    step: Step, args: Iterable[Any], kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
) -> None:
    """Lay arguments and options over the calls that ``step`` begins with, in place."""
    args = tuple(args)
    if not (args or kwargs or options):
        return
    if is_group(step):
        tasks = step["kwargs"]["tasks"]
        if is_lazy(tasks):
            step["kwargs"]["tasks"] = (_begun(each, args, kwargs, options) for each in tasks)
        else:
            step["kwargs"]["tasks"] = [_begun(each, args, kwargs, options) for each in tasks]
        return
    if not step.get("immutable"):
        if args:
            step["args"] = [*args, *step.get("args", ())]
        if kwargs:
            step["kwargs"] = {**step.get("kwargs", {}), **kwargs}
    own = step["options"]
    for name, value in options.items():
        if name == "headers" and own.get("headers"):
            value = {**own["headers"], **(value or {})}
        own[name] = value


def _begun(member: Step, args: Any, kwargs: Any, options: Mapping[str, Any]) -> Step:
    flow = flow_of(member)
    begin(flow[0], args, kwargs, options)
    return as_one(flow)


def _take_links(steps: Flow, options: dict[str, Any], rules: Rules, path: tuple[int, ...]) -> None:
    """``link`` belongs to the last step."""
    links = [as_one(steps_of(each, rules, path)) for each in as_list(options.pop("link", None))]
    if not links:
        return
    if is_group(steps[-1]):
        raise ImproperlyConfigured("a workflow that ends in a group takes no link: add the callback with |")
    steps[-1]["options"]["link"] = [*as_list(steps[-1]["options"].get("link")), *links]


def give_errback(steps: Flow, errback: Step, rules: Rules) -> None:
    """Link it to every call; to those of a header only if the rules say so, or if it is a chord itself."""
    for n, step in enumerate(steps):
        if not is_group(step):
            step["options"]["link_error"] = [*as_list(step["options"].get("link_error")), errback]
            continue
        header = n + 1 < len(steps)
        tasks = step["kwargs"]["tasks"]
        given = (_with_errback(each, errback, rules, header) for each in tasks)
        step["kwargs"]["tasks"] = given if is_lazy(tasks) else list(given)


def _with_errback(member: Step, errback: Step, rules: Rules, header: bool) -> Step:
    flow = flow_of(member)
    if not header or rules.header_errbacks or any(is_group(each) for each in flow[:-1]):
        give_errback(flow, errback, rules)
    return as_one(flow)


def replacement(found: Any, rules: Rules = DEFAULT) -> Flow:
    """The steps that take a task's place: they end in one call, as a group's results are gathered.

    Raises ImproperlyConfigured for an empty chain.
    """
    steps = steps_of(found, rules)
    if not steps:
        raise ImproperlyConfigured("a task cannot be replaced by an empty chain")
    for step in steps:
        if is_group(step):
            step["kwargs"]["tasks"] = list(step["kwargs"]["tasks"])  # it may be sent more than once
    if is_group(steps[-1]):
        gather = _step(ACCUMULATE, (), {"index": 0})
        steps.append(gather)
    return steps
