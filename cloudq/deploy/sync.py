"""``cloudq schedule sync``: make EventBridge's schedules what the app's periodic tasks say.

A plan first, then the changes. Only schedules with the app's own prefix *and* description are
touched; everything may be done twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from cloudq.app import CloudQ
from cloudq.aws.port import AwsError, Call, Operation, Port, run
from cloudq.delays.eventbridge import check_arns
from cloudq.deploy.expressible import Place, Wanted, mark, prefix, says_the_same, wanted
from cloudq.errors import ImproperlyConfigured, OperationalError, ScheduleError, Unsupported
from cloudq.schedules.entry import Entry

Kind = Literal["create", "update", "delete", "keep"]

_GONE: Final = "ResourceNotFoundException"
#: What EventBridge has for fields that were not given.
_DEFAULTS: Final[dict[str, Any]] = {
    "ScheduleExpressionTimezone": "UTC", "State": "ENABLED", "ActionAfterCompletion": "NONE", "Description": "",
}  # fmt: skip
_TARGET: Final = ("Arn", "RoleArn", "Input", "SqsParameters", "DeadLetterConfig", "RetryPolicy")


@dataclass(frozen=True, slots=True)
class Change:
    """One schedule: what becomes of it, and what differs (field, before, after)."""

    kind: Kind
    name: str
    entry: str
    params: Mapping[str, Any] | None = None
    differences: tuple[tuple[str, Any, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done. ``refused``: entries that EventBridge cannot send, with the reason."""

    group: str
    makes_group: bool
    changes: tuple[Change, ...]
    refused: tuple[tuple[str, str], ...]

    @property
    def empty(self) -> bool:
        """Is everything as it should be?"""
        return not self.makes_group and all(each.kind == "keep" for each in self.changes)


def place_of(
    app: CloudQ,
    group: str | None = None,
    role: str | None = None,
    dead: str | None = None,
    message_ids: bool = False,
) -> Place:
    """Where to, by options and settings. Raises ImproperlyConfigured, Unsupported (not on SQS)."""
    from cloudq.brokers.sqs import SqsBroker

    if not isinstance(app.broker, SqsBroker):
        raise Unsupported(
            f"EventBridge Scheduler sends to SQS, not to {app.broker.url}: run `cloudq beat` instead"
        )
    given = {"scheduler_group": group, "scheduler_role_arn": role, "scheduler_dead_letter_arn": dead}
    app.conf.update({name: value for name, value in given.items() if value is not None})
    check_arns(app.conf)
    if app.conf.scheduler_role_arn is None:
        raise ImproperlyConfigured(
            "which role is EventBridge Scheduler to send with? Set scheduler_role_arn (or --role-arn)"
        )
    return Place(
        app.conf.scheduler_role_arn, app.conf.scheduler_group, app.conf.scheduler_dead_letter_arn, message_ids
    )


def make_plan(app: CloudQ, entries: Sequence[tuple[Entry, bool]], place: Place) -> Plan:
    """Compare ``entries`` (each with: is it on?) with what is there. Changes nothing."""
    wishes: list[Wanted] = []
    refused: list[tuple[str, str]] = []
    for entry, enabled in entries:
        try:
            wishes.append(wanted(app, entry, enabled, place))
        except ScheduleError as error:
            refused.append((entry.name, str(error)))
    port = _port(app)
    present = run(port, _present(place.group, prefix(app)), app.clock)
    changes = tuple(_compare(app, wishes, present or {}))
    return Plan(place.group, present is None, changes, tuple(refused))


def apply(app: CloudQ, plan: Plan) -> Iterator[tuple[Change, OperationalError | None]]:
    """Carry the plan out, one change after the other; each with the error that it met, if any."""
    port = _port(app)
    if plan.makes_group:
        run(port, _make_group(plan.group), app.clock)
    for change in plan.changes:
        if change.kind == "keep":
            continue
        try:
            run(port, _change(plan.group, change), app.clock)
        except OperationalError as error:
            yield change, error
        else:
            yield change, None


def _port(app: CloudQ) -> Port:
    port: Port = app.broker.port  # type: ignore[attr-defined]  # place_of saw that it is SQS
    return port


# --- what is there --------------------------------------------------------------------------------


def _present(group: str, begins: str) -> Operation[dict[str, Mapping[str, Any]] | None]:
    """The schedules with our prefix, whole, by name; None when there is no such group."""
    try:
        yield Call("scheduler", "GetScheduleGroup", {"Name": group})
    except AwsError as error:
        if error.code != _GONE:
            raise
        return None
    found: dict[str, Mapping[str, Any]] = {}
    params: dict[str, Any] = {"GroupName": group, "NamePrefix": begins, "MaxResults": 100}
    while True:
        page = yield Call("scheduler", "ListSchedules", params)
        for each in page.get("Schedules", []):
            # ministack lists without regard to the prefix; elsewhere this costs nothing
            if each["Name"].startswith(begins):
                schedule = yield from _get(group, each["Name"])
                if schedule is not None:
                    found[each["Name"]] = schedule
        if not page.get("NextToken"):
            return found
        params = {**params, "NextToken": page["NextToken"]}


def _get(group: str, name: str) -> Operation[Mapping[str, Any] | None]:
    try:
        return (yield Call("scheduler", "GetSchedule", {"GroupName": group, "Name": name}))
    except AwsError as error:
        if error.code != _GONE:
            raise
        return None


# --- what differs ---------------------------------------------------------------------------------


def _compare(
    app: CloudQ, wishes: Sequence[Wanted], present: Mapping[str, Mapping[str, Any]]
) -> Iterator[Change]:
    ours = {
        name: each for name, each in present.items() if str(each.get("Description", "")).startswith(mark(app))
    }
    for wish in wishes:
        there = present.get(wish.name)
        if there is None:
            yield Change("create", wish.name, wish.entry, wish.params)
        elif wish.name not in ours:
            raise ImproperlyConfigured(
                f"there is a schedule {wish.name!r} that `cloudq schedule sync` of {app.main} did not make "
                f"(description: {there.get('Description')!r}): rename the periodic task, or delete that schedule"
            )
        else:
            differences = tuple(_differences(app, wish, there))
            kind: Kind = "update" if differences else "keep"
            yield Change(kind, wish.name, wish.entry, wish.params, differences)
    names = {wish.name for wish in wishes}
    for name, each in ours.items():
        if name not in names:
            yield Change("delete", name, str(each["Description"]).removeprefix(mark(app)))


def _differences(app: CloudQ, wish: Wanted, there: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    fields = (
        "Description",
        "ScheduleExpression",
        "ScheduleExpressionTimezone",
        "State",
        "FlexibleTimeWindow",
    )
    for name in (*fields, "ActionAfterCompletion"):
        before, after = there.get(name) or _DEFAULTS.get(name), wish.params[name]
        if before != after:
            yield name, before, after
    target, target_there = wish.params["Target"], there.get("Target", {})
    for name in _TARGET:
        before, after = target_there.get(name) or None, target.get(name)
        if before == after or (name == "Input" and says_the_same(app, wish.queue, before, after)):
            continue
        yield f"Target.{name}", before, after
    starts, every = wish.expression.starts, wish.expression.every
    if starts is not None and every is not None:
        before = there.get("StartDate")
        phase = None if before is None else (_seconds(before) - starts) % every
        if phase is None or min(phase, every - phase) > 1e-3:
            yield "StartDate", before, wish.params["StartDate"]


def _seconds(moment: Any) -> float:
    if isinstance(moment, datetime):
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    return float(moment)


# --- doing it -------------------------------------------------------------------------------------


def _make_group(group: str) -> Operation[None]:
    try:
        yield Call("scheduler", "CreateScheduleGroup", {"Name": group})
    except AwsError as error:
        if error.code != "ConflictException":  # somebody else just made it
            raise


def _change(group: str, change: Change) -> Operation[None]:
    if change.kind == "delete":
        try:
            yield Call("scheduler", "DeleteSchedule", {"GroupName": group, "Name": change.name})
        except AwsError as error:
            if error.code != _GONE:
                raise
        return
    assert change.params is not None
    params = {**change.params, "GroupName": group}
    operation = "CreateSchedule" if change.kind == "create" else "UpdateSchedule"
    try:
        yield Call("scheduler", operation, params)
    except AwsError as error:
        # The answer to an earlier try was lost, or somebody else syncs: what counts is how it is now.
        if operation == "CreateSchedule" and error.code == "ConflictException":
            yield Call("scheduler", "UpdateSchedule", params)
        elif operation == "UpdateSchedule" and error.code == _GONE:
            yield Call("scheduler", "CreateSchedule", params)
        else:
            raise
