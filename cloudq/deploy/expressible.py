"""Periodic tasks as EventBridge schedules: what each would look like, or why there can be none."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cloudq.app import CloudQ
from cloudq.brokers.base import is_fifo
from cloudq.delays.eventbridge import MAX_INPUT, escaped, input_size
from cloudq.delays.hop import HOPS
from cloudq.errors import MessageError, ScheduleError
from cloudq.ids import derived_id
from cloudq.message import NAME_HEADER
from cloudq.moments import zone_of
from cloudq.results.push import REPLY_TO
from cloudq.schedules.entry import GRACE, Entry
from cloudq.schedules.translation import Expression, translate

#: EventBridge puts the slot's time here (user guide, "Adding context attributes"): the same for each attempt.
SLOT: Final = "<aws.scheduler.scheduled-time>"
#: Seconds and tries that EventBridge goes on for, its own defaults: said, so that plans can be compared.
_RETRY: Final = (86_400, 185)
#: Stands for the id while the message is written.
_ID: Final = "cloudq-id-of-a-periodic-task"
#: FIFO: SQS drops a message of the same content within five minutes.
_DEDUP: Final = 300.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where schedules are made, and what they send with."""

    role_arn: str
    group: str
    dead_letter_arn: str | None = None
    #: Leave ids out, so that SQS's message ids are taken: signed and encrypted messages, and emulators that know no ``SLOT``.
    message_ids: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """A schedule as it is to be: the parameters of CreateSchedule but the group's name."""

    entry: str
    params: dict[str, Any]
    expression: Expression
    queue: str

    @property
    def name(self) -> str:
        """The schedule's name."""
        return str(self.params["Name"])


def prefix(app: CloudQ) -> str:
    """What the names of this app's schedules begin with."""
    return f"cloudq-beat-{_hash(app.main, app.conf.control_namespace)[:10]}-"


def mark(app: CloudQ) -> str:
    """What the descriptions of this app's schedules begin with."""
    return f"cloudq schedule sync of {app.main}: "


def _hash(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def schedule_name(app: CloudQ, name: str) -> str:
    """The name of an entry's schedule: readable, within 64 characters, and no other entry's."""
    shown = re.sub(r"[^0-9a-zA-Z_.-]+", "-", name)[:30].strip("-") or "entry"
    return f"{prefix(app)}{shown}-{_hash(name)[:8]}"


def refusal(app: CloudQ, entry: Entry) -> str | None:
    """Why EventBridge Scheduler cannot send this entry as cloudq would, or None: it can."""
    try:
        _check(entry)
        translate(entry.schedule, entry.timezone or zone_of(app.conf), app.clock.time())
    except ScheduleError as error:
        return str(error)
    return None


def _check(entry: Entry) -> None:
    if entry.skip_if_running:
        raise ScheduleError(
            "skip_if_running: EventBridge Scheduler does not know whether the run before has ended"
        )
    if entry.jitter % 60 or not entry.jitter <= 86_400:
        raise ScheduleError(
            f"jitter={entry.jitter:g}: EventBridge Scheduler's flexible window is 1 to 1440 whole minutes"
        )
    for name, why in (
        ("countdown", "put the schedule itself off"),
        ("dedup_id", "every run would have the same one"),
        ("idempotency_key", "every run would have the same one"),
    ):
        if entry.options.get(name) is not None:
            raise ScheduleError(f"the option {name}: {why}")
    expires = entry.options.get("expires")
    if isinstance(expires, int | float):
        raise ScheduleError(
            f"the option expires={expires:g}: EventBridge Scheduler sends the same text each time"
        )


def wanted(app: CloudQ, entry: Entry, enabled: bool, place: Place) -> Wanted:
    """The schedule of an entry. Raises ScheduleError saying why there can be none."""
    _check(entry)
    now = app.clock.time()
    expression = translate(entry.schedule, entry.timezone or zone_of(app.conf), now)
    queue, body, group_id = _message(app, entry, place, expression)
    target: dict[str, Any] = {
        "Arn": app.broker.queue_arn(queue),  # type: ignore[attr-defined]  # checked by the caller: it is SQS
        "RoleArn": place.role_arn,
        "Input": body,
        "RetryPolicy": {
            "MaximumEventAgeInSeconds": int(GRACE) if entry.catchup == "skip" else _RETRY[0],
            "MaximumRetryAttempts": _RETRY[1],
        },
    }
    if is_fifo(queue):
        target["SqsParameters"] = {"MessageGroupId": group_id or _hash(entry.name)[:32]}
    if place.dead_letter_arn:
        target["DeadLetterConfig"] = {"Arn": place.dead_letter_arn}
    minutes = int(entry.jitter // 60)
    params: dict[str, Any] = {
        "Name": schedule_name(app, entry.name),
        "Description": f"{mark(app)}{entry.name}"[:512],
        "ScheduleExpression": expression.text,
        "ScheduleExpressionTimezone": expression.timezone,
        "State": "ENABLED" if enabled else "DISABLED",
        "FlexibleTimeWindow": {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": minutes}
        if minutes
        else {"Mode": "OFF"},
        "ActionAfterCompletion": "NONE",
        "Target": target,
    }
    if expression.starts is not None:
        params["StartDate"] = datetime.fromtimestamp(expression.starts, UTC)
    return Wanted(entry.name, params, expression, queue)


def says_the_same(app: CloudQ, queue: str, before: Any, after: str) -> bool:
    """Two texts of a schedule that differ in nothing but when they were signed, or how they were encrypted, with the
    same keys."""
    if not app.codec.binds or not isinstance(before, str):
        return False
    try:
        one, other = (app.codec.decode(each, queue, "", sent_at=0.0) for each in (before, after))
    except MessageError:
        return False
    return one == other and _keys(before) == _keys(after)


def _keys(text: str) -> tuple[str | None, str | None]:
    """Which keys signed and encrypted a message that was read already."""
    document = json.loads(text)
    signer = document.get("signature", {}).get("key")
    inner = json.loads(document["signed"]) if "signed" in document else document
    return signer, inner.get("encrypted", {}).get("key")


def _message(app: CloudQ, entry: Entry, place: Place, expression: Expression) -> tuple[str, str, str | None]:
    """Queue, body and order group of each run."""
    headers = {**(entry.options.get("headers") or {}), NAME_HEADER: entry.name, HOPS: 1}
    options = {**entry.options, "task_id": _ID, "headers": headers}
    call = app.producer.prepare(entry.task, entry.args, entry.kwargs, options)
    plain = place.message_ids or app.codec.binds
    if plain and is_fifo(call.queue) and (expression.every or 0) < _DEDUP:
        raise ScheduleError(
            "signed or encrypted messages, or those without an id of their own, are the same at each run, and the FIFO queue "
            f"{call.queue} drops what comes twice within five minutes: use a standard queue"
        )
    kept = {name: value for name, value in call.envelope.headers.items() if name != REPLY_TO}
    envelope = call.envelope.with_(
        id="" if plain else _ID, root_id=None, parent_id=None, sent_at=None, origin=None, headers=kept
    )
    text = app.codec.write(envelope, serializer=call.serializer, compression=call.compression)
    body = escaped(app.codec.seal(text, call.queue) if plain else text)
    if not plain:
        body = body.replace(_ID, f"{derived_id('eventbridge', app.main, entry.name)}-{SLOT}")
    if (size := input_size(body)) > MAX_INPUT:
        raise ScheduleError(f"its message has {size} bytes, an EventBridge schedule holds {MAX_INPUT}")
    return call.queue, body, call.group_id
