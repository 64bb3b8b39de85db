"""ETAs by their tier: the queue's own delay, hops, EventBridge Scheduler (decision 4, issue 6)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aws_fakes import FrozenClock, ScriptedPort, aws_error, takes_all
from hypothesis import given
from hypothesis import strategies as st

from cloudq import CloudQ
from cloudq.backends.sqlite import SqliteBackend
from cloudq.brokers.sqs import SqsBroker
from cloudq.delays.eventbridge import MAX_INPUT, MIN_LEAD, at_expression, escaped, schedule_name
from cloudq.delays.hop import HOPS
from cloudq.errors import (
    ImproperlyConfigured,
    MessageTooLarge,
    OperationalError,
    SendError,
    ServiceUnavailable,
    Unsupported,
)

ROLE = "arn:aws:iam::123456789012:role/cloudq-scheduler"
DEAD = "arn:aws:sqs:us-east-1:123456789012:schedules-dlq"
DAY = 86_400.0


class Scene:
    def __init__(self, **settings: Any) -> None:
        self.clock = FrozenClock()
        self.schedules: dict[str, Mapping[str, Any]] = {}
        self.port = ScriptedPort(
            SendMessage={"MessageId": "m"},
            SendMessageBatch=takes_all,
            CreateSchedule=self._create,
            GetSchedule=lambda call: self.schedules[call.params["Name"]],
            DeleteSchedule=self._delete,
        )
        settings = {"delay_tier": "scheduler", "scheduler_role_arn": ROLE, **settings}
        self.app = CloudQ(
            "x",
            broker=SqsBroker(self.port, clock=self.clock),
            backend=SqliteBackend(None, self.clock),
            clock=self.clock,
            **settings,
        )
        self.sent: list[str] = []
        self.app.hooks.on("task_sent", lambda envelope, **_: self.sent.append(envelope.id))

    def _create(self, call: Any) -> dict[str, Any]:
        if call.params["Name"] in self.schedules:
            raise aws_error("ConflictException", "Schedule already exists")
        self.schedules[call.params["Name"]] = call.params
        return {"ScheduleArn": "arn"}

    def _delete(self, call: Any) -> dict[str, Any]:
        if self.schedules.pop(call.params["Name"], None) is None:
            raise aws_error("ResourceNotFoundException")
        return {}

    @property
    def made(self) -> list[Mapping[str, Any]]:
        return self.port.made("CreateSchedule")


@pytest.fixture
def scene() -> Iterator[Scene]:
    found = Scene()
    yield found
    found.app.close()


def validate(params: Mapping[str, Any], operation: str = "CreateSchedule") -> None:
    """As botocore's own model of the service has it."""
    import botocore.session
    from botocore.validate import ParamValidator

    shape = (
        botocore.session.get_session().get_service_model("scheduler").operation_model(operation).input_shape
    )
    report = ParamValidator().validate(params, shape)
    assert not report.has_errors(), report.generate_report()


# --- which tier -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tier", "queue", "countdown", "delay", "scheduled"),
    [
        ("hop", "q", 0, None, False),
        ("hop", "q", 900, 900, False),
        ("hop", "q", 901, 900, False),
        ("hop", "q", 10 * DAY, 900, False),
        ("scheduler", "q", 0, None, False),
        ("scheduler", "q", -5, None, False),
        ("scheduler", "q", 900, 900, False),
        ("scheduler", "q", 901, None, True),
        ("scheduler", "q", 3650 * DAY, None, True),
        ("scheduler", "q.fifo", 0, None, False),
        ("scheduler", "q.fifo", 1, None, True),
        ("scheduler", "q.fifo", 10 * DAY, None, True),
    ],
)
def test_each_delay_takes_its_tier(
    tier: str, queue: str, countdown: float, delay: int | None, scheduled: bool
) -> None:
    scene = Scene(delay_tier=tier)

    scene.app.send_task("t", queue=queue, countdown=countdown)

    assert len(scene.made) == scheduled
    assert [each.get("DelaySeconds") for each in scene.port.made("SendMessage")] == (
        [] if scheduled else [delay]
    )
    assert len(scene.sent) == 1


def test_on_fifo_without_the_scheduler_the_error_names_it() -> None:
    with pytest.raises(Unsupported, match="delay_tier to scheduler"):
        Scene(delay_tier="hop").app.send_task("t", queue="q.fifo", countdown=1)


def test_an_eta_in_the_past_runs_now(scene: Scene) -> None:
    scene.app.send_task("t", eta=datetime(2020, 1, 1, tzinfo=UTC))

    assert scene.made == []
    assert "DelaySeconds" not in scene.port.made("SendMessage")[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"eta": 1_800_000_000_000.0}, "seconds are expected, not milliseconds"),
        ({"countdown": float("inf")}, "beyond the year 9999"),
        ({"countdown": float("nan")}, "countdown is a number"),
        ({"eta": float("nan")}, "beyond"),
        ({"eta": datetime(2200, 1, 2, tzinfo=UTC)}, "2199"),
        ({"countdown": 300 * 365 * DAY}, "2199"),
    ],
)
def test_an_eta_that_nobody_can_keep_is_refused_at_the_call(
    scene: Scene, options: dict[str, Any], says: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        scene.app.send_task("t", **options)
    assert scene.port.calls == []


def test_hops_have_no_horizon_of_their_own() -> None:
    scene = Scene(delay_tier="hop")

    scene.app.send_task("t", eta=datetime(2500, 1, 1, tzinfo=UTC))

    assert scene.port.made("SendMessage")[0]["DelaySeconds"] == 900


# --- the schedule -----------------------------------------------------------------------------------


def test_the_schedule_sends_the_very_message_once_and_deletes_itself(scene: Scene) -> None:
    scene.app.conf.update(scheduler_group="cloudq", scheduler_dead_letter_arn=DEAD)

    result = scene.app.send_task("t", (1,), eta=scene.clock.time() + DAY, expires=2 * DAY)

    [made] = scene.made
    validate(made)
    due = datetime.fromtimestamp(scene.clock.time() + DAY, UTC)
    assert made["Name"] == schedule_name(result.id, 0)
    assert made["GroupName"] == "cloudq"
    assert made["ScheduleExpression"] == f"at({due:%Y-%m-%dT%H:%M:%S})"
    assert made["ActionAfterCompletion"] == "DELETE"
    assert made["FlexibleTimeWindow"] == {"Mode": "OFF"}
    target = made["Target"]
    assert target["Arn"] == "arn:aws:sqs:us-east-1:123456789012:cloudq"
    assert (target["RoleArn"], target["DeadLetterConfig"]) == (ROLE, {"Arn": DEAD})
    assert "SqsParameters" not in target
    message = json.loads(target["Input"])
    assert (message["id"], message["args"], message["headers"][HOPS]) == (result.id, [1], 1)
    assert scene.app.codec.decode(target["Input"], "cloudq", "m").eta == scene.clock.time() + DAY


def test_on_fifo_the_group_goes_with_it(scene: Scene) -> None:
    scene.app.send_task("t", queue="q.fifo", countdown=60, group_id="customer-1")
    lone = scene.app.send_task("t", queue="q.fifo", countdown=60)
    odd = scene.app.send_task("t", queue="q.fifo", countdown=60, task_id="ein Name mit ü")

    groups = [made["Target"]["SqsParameters"]["MessageGroupId"] for made in scene.made]
    assert groups[:2] == ["customer-1", lone.id]
    assert len(groups[2]) == 64
    assert odd.id == "ein Name mit ü"
    for made in scene.made:
        validate(made)


@given(st.floats(0, 6e9), st.floats(1.7e9, 2e9))
def test_a_schedule_is_never_early_and_at_most_the_lead_late(due: float, now: float) -> None:
    expression = at_expression(due, now)

    moment = datetime.strptime(expression, "at(%Y-%m-%dT%H:%M:%S)").replace(tzinfo=UTC).timestamp()
    assert due <= moment < max(due, now + MIN_LEAD) + 1
    assert moment >= now + MIN_LEAD


@given(st.text(), st.sampled_from(["<aws.scheduler.execution-id>", "<aws.scheduler.", "<aws", "<"]))
def test_what_looks_like_eventbridges_own_words_arrives_as_it_was_written(text: str, word: str) -> None:
    body = json.dumps({"args": [f"{text}{word}{text}"]}, ensure_ascii=False)

    assert "<aws.scheduler." not in escaped(body)
    assert json.loads(escaped(body)) == json.loads(body)


def test_a_signed_message_verifies_after_its_schedule_has_fired() -> None:
    scene = Scene(security_keys={"k": "0123456789abcdef"}, security_required=True)

    scene.app.send_task("t", ("<aws.scheduler.scheduled-time>",), countdown=DAY)

    body = scene.made[0]["Target"]["Input"]
    assert "<aws.scheduler." not in body
    assert scene.app.codec.decode(body, "cloudq", "m").args == ("<aws.scheduler.scheduled-time>",)


def test_a_message_over_a_schedules_size_is_refused_with_the_ways_out(scene: Scene) -> None:
    with pytest.raises(MessageTooLarge, match=r"EventBridge schedule takes 262144.*broker_large_messages"):
        scene.app.send_task("t", ("x" * MAX_INPUT,), countdown=DAY)
    assert scene.made == []
    scene.app.send_task("t", ("x" * MAX_INPUT,), countdown=60)


def test_with_a_place_for_large_messages_it_goes_there(tmp_path: Any) -> None:
    scene = Scene(broker_large_messages=f"file:///{tmp_path}")

    scene.app.send_task("t", ("x" * MAX_INPUT,), countdown=DAY)

    assert len(scene.made[0]["Target"]["Input"]) < 2000
    assert '"ref"' in scene.made[0]["Target"]["Input"]


# --- sent twice, refused, taken back ----------------------------------------------------------------


def test_the_same_call_again_finds_its_schedule(scene: Scene) -> None:
    eta = scene.clock.time() + DAY
    scene.app.send_task("t", task_id="a", eta=eta)
    scene.app.send_task("t", task_id="a", eta=eta)

    assert len(scene.schedules) == 1
    assert scene.sent == ["a", "a"]


def test_another_time_for_the_same_task_is_refused(scene: Scene) -> None:
    scene.app.send_task("t", task_id="a", countdown=DAY)

    with pytest.raises(ValueError, match="scheduled already"):
        scene.app.send_task("t", task_id="a", countdown=2 * DAY)


def test_a_schedule_that_fired_between_two_calls_is_no_error(scene: Scene) -> None:
    scene.port.replies["CreateSchedule"] = [aws_error("ConflictException")]
    scene.port.replies["GetSchedule"] = [aws_error("ResourceNotFoundException")]

    scene.app.send_task("t", countdown=DAY)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("ResourceNotFoundException", "no schedule group 'default'"),
        ("ServiceQuotaExceededException", "quota"),
        ("ValidationException", "refused the schedule"),
    ],
)
def test_what_eventbridge_says_is_said_with_the_fix(scene: Scene, code: str, says: str) -> None:
    scene.port.replies["CreateSchedule"] = [aws_error(code, "text of AWS")]

    with pytest.raises(OperationalError, match=says) as caught:
        scene.app.send_task("t", queue="q.fifo", countdown=5)
    assert "text of AWS" in str(caught.value)
    assert scene.sent == []


def test_while_eventbridge_is_away_it_is_tried_again(scene: Scene) -> None:
    scene.port.replies["CreateSchedule"] = [ServiceUnavailable("away"), ServiceUnavailable("away"), {}]

    scene.app.send_task("t", countdown=DAY)

    assert len(scene.made) == 3
    assert len(scene.clock.slept) == 2


def test_of_many_calls_each_refused_one_is_named_and_the_others_are_made(scene: Scene) -> None:
    from cloudq import Signature

    calls = [Signature("t", (n,), options={"countdown": DAY, "task_id": str(n)}) for n in range(20)]
    calls.append(Signature("t", (20,), options={"task_id": "20"}))

    def create(call: Any) -> dict[str, Any]:
        if call.params["Name"] == schedule_name("7", 0):
            raise aws_error("ValidationException")
        return {}

    scene.port.replies["CreateSchedule"] = [create]
    with pytest.raises(SendError) as caught:
        scene.app.send_many(calls)

    assert list(caught.value.failures) == [7]
    assert sorted(scene.sent, key=int) == [str(n) for n in range(21) if n != 7]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"scheduler_role_arn": None}, "scheduler_role_arn is not set"),
        ({"scheduler_role_arn": "cloudq"}, "is no such ARN"),
        ({"scheduler_dead_letter_arn": "arn:aws:sqs:us-east-1:123456789012:x.fifo"}, "standard queue"),
        ({"scheduler_group": "a b"}, "1 to 64"),
        ({"delay_tier": "eventbridge"}, "hop or scheduler"),
    ],
)
def test_a_tier_that_cannot_work_is_an_error_at_the_call(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=says):
        Scene(**settings).app.send_task("t", countdown=DAY)


def test_on_another_broker_long_delays_hop_and_fifo_has_none() -> None:
    app = CloudQ(
        "x", broker="memory://", backend="memory://", delay_tier="scheduler", scheduler_role_arn=ROLE
    )

    with app:
        sent = app.send_task("t", countdown=300 * DAY)
        sent.revoke()
        assert app.broker.depth("cloudq").delayed == 1
        with pytest.raises(Unsupported, match="set delay_tier to hop"):
            app.send_task("t", queue="q.fifo", countdown=5)


def test_when_the_schedule_cannot_be_deleted_the_task_is_revoked_all_the_same_and_the_error_is_seen(
    scene: Scene,
) -> None:
    result = scene.app.send_task("t", countdown=DAY)
    scene.port.replies["DeleteSchedule"] = [aws_error("ValidationException", "no")]

    with pytest.raises(OperationalError):
        result.revoke()
    assert result.state == "REVOKED"


def test_revoking_deletes_the_schedule_of_the_present_try(scene: Scene) -> None:
    result = scene.app.send_task("t", countdown=DAY)
    scene.app.control.revoke(result.id)
    assert scene.schedules == {}
    assert result.state == "REVOKED"

    again = scene.app.send_task("t", countdown=DAY)
    scene.schedules.clear()
    call = scene.app.producer.resend(
        scene.app.codec.decode(scene.made[-1]["Target"]["Input"], "cloudq", "m").with_(retries=2),
        "cloudq",
        scene.clock.time() + DAY,
    )
    scene.app.producer.send([call])
    assert list(scene.schedules) == [schedule_name(again.id, 2)]
    scene.app.update_state(again.id, "RETRY", retries=2)
    scene.app.control.revoke(again.id)
    assert scene.schedules == {}


def test_revoking_what_is_not_scheduled_is_no_error(scene: Scene) -> None:
    scene.app.control.revoke("unknown")

    assert scene.app.producer.unschedule("unknown") is False
    assert Scene(delay_tier="hop").app.producer.unschedule("unknown") is False


# --- on arrival -------------------------------------------------------------------------------------


def test_what_expired_meanwhile_is_not_run_on_arrival(scene: Scene) -> None:
    from cloudq.brokers.base import Delivery
    from cloudq.execution.call import NoWatch

    ran: list[int] = []

    @scene.app.task(name="t")
    def t() -> None:
        ran.append(1)

    kept = scene.app.send_task("t", countdown=DAY, expires=DAY + 60)
    late = scene.app.send_task("t", countdown=DAY, expires=DAY - 60)
    bodies = [made["Target"]["Input"] for made in scene.made]
    scene.clock.now += DAY + 1
    lifecycle = scene.app.lifecycle("w")
    now = scene.clock.now
    for number, body in enumerate([*bodies, bodies[0]]):  # EventBridge may deliver twice
        delivery = Delivery("cloudq", str(number), body, "r", 1, now, now, now, now + 30)
        lifecycle.run(delivery, NoWatch())

    assert ran == [1]
    assert (kept.state, late.state) == ("SUCCESS", "REVOKED")


def test_a_datetime_without_zone_is_in_the_apps_zone() -> None:
    scene = Scene(timezone="Asia/Tokyo")
    local = datetime.fromtimestamp(scene.clock.time(), UTC) + timedelta(days=3, hours=9)

    scene.app.send_task("t", eta=local.replace(tzinfo=None))

    [made] = scene.made
    assert made["ScheduleExpression"] == f"at({local - timedelta(hours=9):%Y-%m-%dT%H:%M:%S})"


# --- doctor -------------------------------------------------------------------------------------------


def test_doctor_looks_at_the_group_and_at_fifo_queues(scene: Scene) -> None:
    from cloudq.cli.doctor_time import delays

    scene.port.replies["GetScheduleGroup"] = [{}]
    attributes = {"a.fifo": "true", "b.fifo": "false"}
    scene.port.replies["GetQueueAttributes"] = [
        lambda call: {
            "Attributes": {
                "ContentBasedDeduplication": attributes[call.params["QueueUrl"].rpartition("/")[2]]
            }
        }
    ]
    found = list(delays(scene.app, ["q", "a.fifo", "b.fifo"]))
    assert [(level, what) for level, what, _ in found] == [("ok", "delays"), ("FAIL", "queue b.fifo")]

    scene.port.replies["GetScheduleGroup"] = [aws_error("ResourceNotFoundException")]
    assert [level for level, _, _ in delays(scene.app, [])] == ["FAIL"]
    assert [level for level, _, _ in delays(Scene(scheduler_role_arn=None).app, [])] == ["FAIL"]
    assert list(delays(Scene(delay_tier="hop").app, ["a.fifo"])) == []
