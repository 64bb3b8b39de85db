"""``cloudq schedule sync``: a plan first, exactly what was planned, and nobody else's schedules touched."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aws_fakes import FrozenClock, ScriptedPort, aws_error

from cloudq import CloudQ, crontab
from cloudq.aws.port import Call
from cloudq.backends.sqlite import SqliteBackend
from cloudq.beat.on_lambda import make_ticker
from cloudq.beat.ticker import Ticker
from cloudq.brokers.sqs import SqsBroker
from cloudq.deploy.expressible import SLOT, mark, prefix, refusal, schedule_name
from cloudq.deploy.sync import Plan, apply, make_plan, place_of
from cloudq.errors import ImproperlyConfigured, ServiceUnavailable, Unsupported
from cloudq.message import NAME_HEADER
from cloudq.periodic import declared
from cloudq.security import keyfile

ROLE = "arn:aws:iam::123456789012:role/cloudq-scheduler"
DEAD = "arn:aws:sqs:us-east-1:123456789012:schedules-dlq"


class Account:
    """EventBridge Scheduler as its API reference has it, in a dict."""

    def __init__(self) -> None:
        self.groups = {"default"}
        self.schedules: dict[str, dict[str, Any]] = {}
        self.clock = FrozenClock()
        self.port = ScriptedPort(
            SendMessage={"MessageId": "m"},
            **{name: getattr(self, name) for name in (
                "GetScheduleGroup", "CreateScheduleGroup", "ListSchedules", "GetSchedule", "CreateSchedule",
                "UpdateSchedule", "DeleteSchedule",
            )},
        )  # fmt: skip

    def GetScheduleGroup(self, call: Call) -> Mapping[str, Any]:
        if call.params["Name"] not in self.groups:
            raise aws_error("ResourceNotFoundException")
        return {}

    def CreateScheduleGroup(self, call: Call) -> Mapping[str, Any]:
        self.groups.add(call.params["Name"])
        return {}

    def ListSchedules(self, call: Call) -> Mapping[str, Any]:
        """Pages of two."""
        found = sorted(name for name in self.schedules if name.startswith(call.params["NamePrefix"]))
        start = int(call.params.get("NextToken", 0))
        page = {"Schedules": [{"Name": name} for name in found[start : start + 2]]}
        return page if start + 2 >= len(found) else {**page, "NextToken": str(start + 2)}

    def GetSchedule(self, call: Call) -> Mapping[str, Any]:
        if call.params["Name"] not in self.schedules:
            raise aws_error("ResourceNotFoundException")
        return self.schedules[call.params["Name"]]

    def CreateSchedule(self, call: Call) -> Mapping[str, Any]:
        if call.params["GroupName"] not in self.groups:
            raise aws_error("ResourceNotFoundException")
        if call.params["Name"] in self.schedules:
            raise aws_error("ConflictException")
        self.schedules[call.params["Name"]] = dict(call.params)
        return {}

    def UpdateSchedule(self, call: Call) -> Mapping[str, Any]:
        if call.params["Name"] not in self.schedules:
            raise aws_error("ResourceNotFoundException")
        self.schedules[call.params["Name"]] = dict(call.params)
        return {}

    def DeleteSchedule(self, call: Call) -> Mapping[str, Any]:
        if self.schedules.pop(call.params["Name"], None) is None:
            raise aws_error("ResourceNotFoundException")
        return {}

    def app(self, **settings: Any) -> CloudQ:
        schedule = settings.pop("beat_schedule", {})
        app = CloudQ(
            settings.pop("main", "shop"),
            broker=SqsBroker(self.port, clock=self.clock),
            backend=SqliteBackend(None, self.clock),
            clock=self.clock,
            **{"scheduler_role_arn": ROLE, **settings},
        )
        app.conf.beat_schedule = schedule

        @app.task(name="work")
        def work(x: int = 0) -> int:
            return x

        return app

    def plan(self, app: CloudQ, **options: Any) -> Plan:
        entries = declared(app.periodic_entries, app.conf.beat_schedule, app.tasks, True)
        return make_plan(app, [(each, each.enabled) for each in entries.values()], place_of(app, **options))

    def sync(self, app: CloudQ, **options: Any) -> list[tuple[str, str]]:
        done = list(apply(app, self.plan(app, **options)))
        assert [error for _, error in done if error] == []
        return sorted((change.kind, change.entry) for change, _ in done)


@pytest.fixture
def account() -> Iterator[Account]:
    return Account()


def work(schedule: Any = 300, **more: Any) -> dict[str, Any]:
    return {"task": "work", "schedule": schedule, **more}


def validate(params: Mapping[str, Any]) -> None:
    import botocore.session
    from botocore.validate import ParamValidator

    model = botocore.session.get_session().get_service_model("scheduler").operation_model("CreateSchedule")
    report = ParamValidator().validate(params, model.input_shape)
    assert not report.has_errors(), report.generate_report()


def test_a_plan_changes_nothing(account: Account) -> None:
    plan = account.plan(account.app(beat_schedule={"a": work()}), group="shop")

    assert (plan.makes_group, [(each.kind, each.entry) for each in plan.changes]) == (True, [("create", "a")])
    assert account.schedules == {}
    assert account.groups == {"default"}


def test_each_entry_becomes_a_schedule_with_all_it_says(account: Account) -> None:
    app = account.app(
        beat_schedule={
            "nightly report": work(
                crontab(0, 9, day_of_week="mon-fri", tz="Europe/Berlin"),
                args=[1],
                options={"queue": "orders.fifo", "group_id": "reports"},
                jitter=300,
                catchup="skip",
            ),
            "paused": work(enabled=False),
        },
        scheduler_dead_letter_arn=DEAD,
    )

    account.sync(app, group="shop")

    for made in account.schedules.values():
        validate(made)
        assert len(made["Name"]) <= 64
    report, paused = (account.schedules[schedule_name(app, name)] for name in ("nightly report", "paused"))
    assert account.groups == {"default", "shop"}
    assert report["GroupName"] == "shop"
    assert (report["ScheduleExpression"], report["ScheduleExpressionTimezone"]) == (
        "cron(0 9 ? * MON-FRI *)",
        "Europe/Berlin",
    )
    assert report["FlexibleTimeWindow"] == {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 5}
    assert report["ActionAfterCompletion"] == "NONE"
    target = report["Target"]
    assert target["Arn"] == "arn:aws:sqs:us-east-1:123456789012:orders.fifo"
    assert target["RoleArn"] == ROLE
    assert target["SqsParameters"] == {"MessageGroupId": "reports"}
    assert target["DeadLetterConfig"] == {"Arn": DEAD}
    assert target["RetryPolicy"]["MaximumEventAgeInSeconds"] == 90
    assert (report["State"], paused["State"]) == ("ENABLED", "DISABLED")
    assert paused["ScheduleExpression"] == "rate(5 minutes)"
    assert paused["StartDate"].timestamp() == account.clock.time() + 300
    assert "SqsParameters" not in paused["Target"]


def test_the_message_carries_an_id_of_its_slot_that_eventbridge_fills_in(account: Account) -> None:
    app = account.app(beat_schedule={"a": work(args=[f"text {SLOT}"], options={"headers": {"tenant": 1}})})
    account.sync(app)
    [made] = account.schedules.values()
    text = made["Target"]["Input"]

    assert text.count(SLOT) == 1
    first, second = (
        app.codec.decode(text.replace(SLOT, slot), "cloudq", "message-id")
        for slot in ("2027-01-01T00:00:00Z", "2027-01-01T00:05:00Z")
    )
    assert first.args == (f"text {SLOT}",)
    assert first.id != second.id
    assert first.id.endswith("-2027-01-01T00:00:00Z")
    assert first.headers[NAME_HEADER] == "a"
    assert first.headers["tenant"] == 1
    assert (first.sent_at, first.expires) == (None, None)


def test_signed_messages_take_sqs_ids_and_verify(account: Account) -> None:
    app = account.app(
        beat_schedule={"a": work()}, security_keys={"k": "0123456789abcdef"}, security_required=True
    )
    account.sync(app)
    [made] = account.schedules.values()

    assert SLOT not in made["Target"]["Input"]
    assert app.codec.decode(made["Target"]["Input"], "cloudq", "message-id").id == "message-id"
    fifo = account.plan(
        account.app(beat_schedule={"a": work(60, options={"queue": "q.fifo"})}), message_ids=True
    )
    assert "five minutes" in fifo.refused[0][1]


KEY = base64.b64encode(bytes(32)).decode()
BOUND: dict[str, dict[str, Any]] = {
    "signed": {"security_keys": {"k": "0123456789abcdef"}, "security_required": True},
    "encrypted": {"security_encryption_keys": {"e": KEY}},
    "both": {
        "security_keys": {"k": "0123456789abcdef"},
        "security_encryption_keys": {"e": KEY},
        "security_required": True,
    },
}


@pytest.mark.parametrize("how", BOUND)
def test_what_is_signed_or_encrypted_is_read_at_each_run_and_synced_once(account: Account, how: str) -> None:
    app = account.app(beat_schedule={"a": work()}, **BOUND[how])
    account.sync(app)
    [made] = account.schedules.values()

    for run in ("M1", "M2"):
        found = app.codec.decode(made["Target"]["Input"], "cloudq", run)
        assert (found.id, found.task) == (run, "work")
        assert found.headers[NAME_HEADER] == "a"
    account.clock.now += 3_600.0
    assert account.plan(app).empty
    changed = account.plan(account.app(beat_schedule={"a": work(args=[7])}, **BOUND[how]))
    assert [name for each in changed.changes for name, _, _ in each.differences] == ["Target.Input"]


def test_a_rotated_key_writes_the_schedules_anew(account: Account) -> None:
    before = {"security_keys": {"k": "0123456789abcdef"}}
    account.sync(account.app(beat_schedule={"a": work()}, **before))
    after = {"security_keys": {"k2": "0123456789abcdef2", "k": {"secret": "0123456789abcdef", "use": "read"}}}
    [change] = account.plan(account.app(beat_schedule={"a": work()}, **after)).changes
    assert change.kind == "update"


def test_keys_of_a_file_sign_schedules_as_well(account: Account, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keyfile.new_key(path, "signing", 0.0)
    app = account.app(beat_schedule={"a": work()}, security_key_file=str(path), security_required=True)
    account.sync(app)
    [made] = account.schedules.values()
    assert app.codec.decode(made["Target"]["Input"], "cloudq", "M").id == "M"


def test_a_second_sync_finds_nothing_to_do_also_much_later(account: Account) -> None:
    schedule = {"a": work(), "b": work("0 9 * * *"), "c": work(420, jitter=60)}
    account.sync(account.app(beat_schedule=schedule))
    account.clock.now += 86_400 * 3 + 77

    plan = account.plan(account.app(beat_schedule=schedule))

    assert plan.empty
    assert [each.kind for each in plan.changes] == ["keep"] * 3
    assert account.sync(account.app(beat_schedule=schedule)) == []


def test_what_changed_is_updated_and_the_plan_says_what(account: Account) -> None:
    account.sync(account.app(beat_schedule={"a": work(), "b": work("0 9 * * *"), "c": work("0 1 * * *")}))
    changed = account.app(
        beat_schedule={
            "a": work(600),
            "b": work("0 9 * * *", args=[5]),
            "c": work("0 1 * * *", enabled=False),
        }
    )

    plan = account.plan(changed)

    fields = {change.entry: [field for field, _, _ in change.differences] for change in plan.changes}
    assert fields == {"a": ["ScheduleExpression", "StartDate"], "b": ["Target.Input"], "c": ["State"]}
    list(apply(changed, plan))
    assert account.plan(changed).empty


def test_an_anchor_that_moves_is_a_change(account: Account) -> None:
    account.sync(account.app(beat_schedule={"a": work({"every": 3600})}))
    moved = account.app(beat_schedule={"a": work({"every": 3600, "anchor": "2026-01-01T00:30:00+00:00"})})

    [change] = account.plan(moved).changes

    assert [field for field, _, _ in change.differences] == ["StartDate"]


def test_what_is_gone_is_removed_and_foreign_schedules_are_left_alone(account: Account) -> None:
    app = account.app(beat_schedule={name: work() for name in "abcde"})
    account.sync(app)
    other = account.app(main="other", beat_schedule={"a": work()})
    account.sync(other)
    foreign = {"Name": f"{prefix(app)}by-hand-12345678", "Description": "made by hand", "Target": {}}
    account.schedules[foreign["Name"]] = foreign
    account.schedules["cloudq-0123-0"] = {"Name": "cloudq-0123-0", "Description": "cloudq: task x"}
    before = set(account.schedules)

    done = account.sync(account.app(beat_schedule={"a": work()}))

    assert done == [("delete", name) for name in "bcde"]
    assert before - set(account.schedules) == {schedule_name(app, name) for name in "bcde"}


def test_a_name_that_somebody_else_took_is_an_error_and_nothing_is_overwritten(account: Account) -> None:
    app = account.app(beat_schedule={"a": work()})
    account.schedules[schedule_name(app, "a")] = {"Name": schedule_name(app, "a"), "Description": "by hand"}

    with pytest.raises(ImproperlyConfigured, match="did not make"):
        account.plan(app)


def test_what_cannot_be_said_is_refused_and_the_rest_is_synced(account: Account) -> None:
    app = account.app(
        beat_schedule={
            "ok": work(),
            "seconds": work(10),
            "skip": work(skip_if_running=True),
            "jitter": work(jitter=45),
            "expires": work(options={"expires": 60}),
            "countdown": work(options={"countdown": 60}),
            "sun": work({"solar": {"event": "sunset", "lat": 1, "lon": 1}}),
            "gap": work(crontab(30, 2, tz="Europe/Berlin")),
            "large": work(args=["x" * 270_000]),
        }
    )
    plan = account.plan(app)

    assert [change.entry for change in plan.changes] == ["ok"]
    reasons = dict(plan.refused)
    for name, says in {
        "seconds": "whole minutes",
        "skip": "skip_if_running",
        "jitter": "1 to 1440",
        "expires": "same text each time",
        "countdown": "put the schedule itself off",
        "sun": "nothing like solar",
        "gap": "skips",
        "large": "holds 262144",
    }.items():
        assert says in reasons[name]


def test_beat_leaves_to_eventbridge_what_it_can_send(account: Account) -> None:
    schedule = {"minutes": work(60), "seconds": work(10)}
    app = account.app(beat_schedule=schedule, schedule_sync=True)
    ticker = Ticker(app)
    ticker.tick()
    account.clock.now += 60

    assert {each.name for each in ticker.tick().sent} == {"seconds"}
    assert refusal(app, declared({}, schedule, app.tasks, True)["minutes"]) is None
    both = Ticker(account.app(beat_schedule=schedule))
    both.tick()
    account.clock.now += 60
    assert {each.name for each in both.tick().sent} == {"minutes", "seconds"}


def test_dying_after_any_call_and_syncing_again_ends_the_same(account: Account) -> None:
    old = {name: work() for name in "abc"}
    new = {"b": work(600), "c": work(), "d": work("0 9 * * *"), "e": work(60)}
    reference = Account()
    reference.sync(reference.app(beat_schedule=old), group="g")
    reference.sync(reference.app(beat_schedule=new), group="g")
    for step in range(1, 40):
        crashed = Account()
        crashed.sync(crashed.app(beat_schedule=old), group="g")
        count = len(crashed.port.calls)
        call, died = crashed.port.call, False

        def dying(
            each: Call, call: Any = call, count: int = count, step: int = step, account: Account = crashed
        ) -> Any:
            answer = call(each)
            if len(account.port.calls) == count + step:
                raise KeyboardInterrupt
            return answer

        crashed.port.call = dying  # type: ignore[method-assign]
        try:
            crashed.sync(crashed.app(beat_schedule=new), group="g")
        except KeyboardInterrupt:
            died = True
        crashed.port.call = call  # type: ignore[method-assign]
        crashed.sync(crashed.app(beat_schedule=new), group="g")
        assert crashed.schedules == reference.schedules
        if not died:
            break
    assert not died
    assert step > 8


def test_a_change_that_fails_is_told_and_the_others_are_made(account: Account) -> None:
    app = account.app(beat_schedule={name: work() for name in "abc"})
    bad = schedule_name(app, "b")

    def create(call: Call) -> Mapping[str, Any]:
        if call.params["Name"] == bad:
            raise ServiceUnavailable("away on purpose")
        return account.CreateSchedule(call)

    account.port.replies["CreateSchedule"] = [create]
    done = {change.entry: error for change, error in apply(app, account.plan(app))}

    assert done["a"] is None
    assert "on purpose" in str(done["b"])
    assert done["c"] is None


@pytest.mark.parametrize("there", ["create", "update"])
def test_somebody_who_syncs_at_the_same_time_does_no_harm(account: Account, there: str) -> None:
    app = account.app(beat_schedule={"a": work()})
    if there == "update":
        account.sync(app)
        app = account.app(beat_schedule={"a": work(600)})
    plan = account.plan(app)
    if there == "create":
        account.sync(app)
    else:
        account.schedules.clear()

    assert [error for _, error in apply(app, plan)] == [None]
    assert account.plan(app).empty


@pytest.mark.parametrize(
    ("settings", "options", "says"),
    [
        ({"scheduler_role_arn": None}, {}, "which role"),
        ({}, {"role": "admin"}, "no such ARN"),
        ({}, {"group": "a/b"}, "1 to 64"),
        ({}, {"dead": "queue"}, "standard queue"),
    ],
)
def test_options_that_cannot_be_are_refused(
    account: Account, settings: dict[str, Any], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=says):
        place_of(account.app(**settings), **options)


def test_it_needs_sqs() -> None:
    with pytest.raises(Unsupported, match="cloudq beat"):
        place_of(CloudQ("x", broker="memory://", scheduler_role_arn=ROLE))


def test_descriptions_and_names_tell_apps_and_entries_apart(account: Account) -> None:
    app, other = account.app(), account.app(control_namespace="staging")

    names = {
        schedule_name(each, name)
        for each in (app, other)
        for name in ("a", "A", "a b", "a-b", "ü" * 80, "x" * 80)
    }

    assert len(names) == 12
    assert all(0 < len(name) <= 64 for name in names)
    assert mark(app) == "cloudq schedule sync of shop: "


# --- the ticker in Lambda -----------------------------------------------------------------------------


class Context:
    def __init__(self, milliseconds: float) -> None:
        self.left = milliseconds

    def get_remaining_time_in_millis(self) -> float:
        return self.left


def test_the_handler_sends_what_is_due_once_however_often_it_is_invoked(account: Account) -> None:
    app = account.app(beat_schedule={"a": work(60, catchup="all"), "b": work(600)})
    one, two = make_ticker(app), make_ticker(app)
    assert one({}, Context(60_000)) == {"sent": []}
    account.clock.now += 125

    answer, again = one({}, Context(60_000)), two({}, Context(60_000))

    start = account.clock.now - 125
    assert [(each["name"], each["slot"]) for each in answer["sent"]] == [
        ("a", start + 60),
        ("a", start + 120),
    ]
    assert again == {"sent": []}
    assert json.loads(json.dumps(answer)) == answer
    bodies = [json.loads(each["MessageBody"]) for each in account.port.made("SendMessage")]
    assert [each["id"] for each in bodies] == [each["task_id"] for each in answer["sent"]]


def test_an_invocation_that_runs_out_of_time_leaves_the_rest_to_the_next(account: Account) -> None:
    app = account.app(beat_schedule={"a": work(60)})
    handler = make_ticker(app)
    handler({}, Context(60_000))
    account.clock.now += 60

    assert handler({}, Context(4_000)) == {"sent": []}
    assert len(handler({}, Context(60_000))["sent"]) == 1


def test_an_error_of_the_store_fails_the_invocation_so_that_lambda_tries_again(account: Account) -> None:
    class Away:
        capabilities = SqliteBackend(None, account.clock).capabilities
        url = "away://"

        def read(self, key: str) -> None:
            raise ServiceUnavailable("away on purpose")

    app = account.app()
    app._given_backend = Away()  # type: ignore[assignment]
    with pytest.raises(ServiceUnavailable):
        make_ticker(app)({}, Context(60_000))


def test_the_thin_handler_loads_the_app_of_cloudq_app(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import importlib.util
    from pathlib import Path

    (tmp_path / "ticked_app.py").write_text(
        f"from cloudq import CloudQ\napp = CloudQ('t', broker='memory://', backend='sqlite:///{tmp_path}/t.db')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CLOUDQ_APP", "ticked_app:app")
    path = Path(__file__).parents[2] / "handlers" / "beat.py"
    spec = importlib.util.spec_from_file_location("beat_handler", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    assert module.handler({}, None) == {"sent": []}
