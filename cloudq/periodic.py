"""The periodic tasks that code declares: ``@app.periodic``, ``app.add_periodic_task``, ``beat_schedule``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from cloudq.canvas.signature import Signature
from cloudq.errors import ScheduleError
from cloudq.options import CALL_OPTIONS, check_call_options
from cloudq.registry import Registry
from cloudq.schedules.entry import FIELDS, Entry, entry_from
from cloudq.task import Task

#: Beside ``message.NAME_HEADER``: the slot, in epoch seconds.
SLOT_HEADER: Final = "periodic_task_slot"
#: What ``@app.periodic`` and ``add_periodic_task`` say of the entry; the rest is options of the call.
_OF_ENTRY: Final = frozenset({"enabled", "catchup", "skip_if_running", "jitter", "timezone"})
#: Options that make no sense for something that runs again and again.
_FIXED: Final = {
    "task_id": "each run's id derives from the entry's name and the slot",
    "eta": "the schedule says when; use countdown to put each run off",
    "root_id": "nothing calls a periodic task",
    "parent_id": "nothing calls a periodic task",
    "add_to_parent": "nothing calls a periodic task",
}


def declare(entries: dict[str, Entry], entry: Entry) -> Entry:
    """Add an entry to what the app's code declares. Raises ScheduleError when the name is taken."""
    present = entries.get(entry.name)
    if present is not None and present != entry:
        raise ScheduleError(
            f"periodic task {entry.name!r} is declared twice, for {present.task} ({present.schedule}) and "
            f"{entry.task} ({entry.schedule}): give one of them another name="
        )
    entries[entry.name] = check_options(entry)
    return entry


def of_signature(
    schedule: Any, called: Signature | Task[..., Any], args: Any, kwargs: Any, more: dict[str, Any]
) -> Entry:
    """The entry for ``add_periodic_task``: a signature or a task, with what was given beside it."""
    if isinstance(called, Task):
        called = called.s()
    if not isinstance(called, Signature):
        raise ScheduleError(
            f"add_periodic_task takes a schedule and then a signature like task.s(1, 2), got {called!r}"
        )
    if called.get("subtask_type") is not None:
        raise ScheduleError(
            f"a {called['subtask_type']} cannot be periodic by itself: write a task that calls it, and schedule that"
        )
    call = called if not (args or kwargs) else called.clone(tuple(args or ()), dict(kwargs or {}))
    name = more.pop("name", None) or call.task
    return _entry(name, call.task, schedule, call.args, call.kwargs, {**call.options, **more})


def of_task(schedule: Any, task: Task[..., Any], more: dict[str, Any]) -> Entry:
    """The entry for ``@app.periodic``."""
    args, kwargs = more.pop("args", ()), more.pop("kwargs", None)
    return _entry(more.pop("name", None) or task.name, task.name, schedule, args, kwargs, more)


def _entry(name: str, task: str, schedule: Any, args: Any, kwargs: Any, more: Mapping[str, Any]) -> Entry:
    own = {key: value for key, value in more.items() if key in _OF_ENTRY}
    options = {key: value for key, value in more.items() if key not in _OF_ENTRY}
    call = {"task": task, "schedule": schedule, "args": args, "kwargs": kwargs, "options": options}
    return entry_from(name, {**call, **own})


def check_options(entry: Entry) -> Entry:
    """The entry itself. Raises ScheduleError for options that no call has, or no periodic one."""
    for name, why in _FIXED.items():
        if name in entry.options:
            raise ScheduleError(f"periodic task {entry.name!r} takes no {name}: {why}")
    try:
        check_call_options(entry.options)
    except TypeError as error:
        near = _misplaced(entry.options)
        raise ScheduleError(f"periodic task {entry.name!r}: {near or error}") from None
    return entry


def _misplaced(options: Mapping[str, Any]) -> str:
    for name in options:
        if name in FIELDS and name not in CALL_OPTIONS:
            return f"{name!r} stands beside 'options', not inside"
    return ""


def check(entry: Entry, tasks: Registry, stores_results: bool) -> Entry:
    """The entry itself, once everything is known that there is to know before it runs.

    Raises ScheduleError: arguments that do not fit the task, ``skip_if_running`` without results.
    """
    check_options(entry)
    task = tasks.get(entry.task)
    where = f"periodic task {entry.name!r}"
    if task is not None:
        try:
            task.check_arguments(entry.args, entry.kwargs)
        except TypeError as error:
            raise ScheduleError(f"{where}: {error}") from None
    if entry.skip_if_running:
        ignored = entry.options.get("ignore_result", task.ignore_result if task is not None else None)
        if ignored or not stores_results:
            raise ScheduleError(
                f"{where}: skip_if_running looks at the result of the run before, and none is stored"
            )
    return entry


def declared(
    entries: Mapping[str, Entry], beat_schedule: Any, tasks: Registry, stores_results: bool
) -> dict[str, Entry]:
    """Every entry of the app's code and settings, checked, by name. Raises ScheduleError."""
    found = dict(entries)
    if beat_schedule is None:
        beat_schedule = {}
    if not isinstance(beat_schedule, Mapping):
        raise ScheduleError(f"beat_schedule is a mapping of names to entries, got {beat_schedule!r}")
    for name, given in beat_schedule.items():
        declare(found, entry_from(name, given))
    for entry in found.values():
        check(entry, tasks, stores_results)
    return found


def decorate(
    entries: dict[str, Entry], make: Callable[[Any], Task[..., Any]], schedule: Any, more: Mapping[str, Any]
) -> Any:
    """What ``@app.periodic(schedule, ...)`` does with a task, or a function that becomes one."""
    from cloudq.schedules.reading import as_schedule

    rule = as_schedule(schedule)

    def wrap(given: Any) -> Task[..., Any]:
        task = given if isinstance(given, Task) else make(given)
        declare(entries, of_task(rule, task, dict(more)))
        return task

    return wrap
