"""The interruption watcher, against a metadata service with real tokens."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from metadata import Metadata, metadata

from cloudq.aws.port import AwsError, Call
from cloudq.clock import SYSTEM_CLOCK
from cloudq.errors import AccessDenied, ImproperlyConfigured
from cloudq.worker import imds as imds_module
from cloudq.worker.imds import Imds, MetadataUnavailable, on_ec2
from cloudq.worker.interruption import MARGIN, Interruption, Notice
from cloudq.worker.scalein import ScaleIn


@pytest.fixture
def ec2() -> Iterator[Metadata]:
    with metadata() as server:
        yield server


class Stopped:
    """As much of a worker as a watcher sees."""

    def __init__(self) -> None:
        self.stopping = False
        self.stops: list[str] = []
        self.stopped = threading.Event()

    def stop(self, why: str) -> None:
        self.stops.append(why)
        self.stopping = True
        self.stopped.set()


class Asg:
    """The Auto Scaling API as a port."""

    def __init__(self, errors: dict[str, Exception] | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.errors = errors or {}

    def call(self, call: Call) -> Any:
        self.calls.append((call.operation, dict(call.params)))
        if call.operation in self.errors:
            raise self.errors[call.operation]
        if call.operation == "DescribeAutoScalingInstances":
            return {"AutoScalingInstances": [{"InstanceId": "i-0123", "AutoScalingGroupName": "workers"}]}
        if call.operation == "DescribeLifecycleHooks":
            return {
                "LifecycleHooks": [
                    {
                        "LifecycleHookName": "drain",
                        "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
                    },
                    {
                        "LifecycleHookName": "warm",
                        "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING",
                    },
                ]
            }
        return {}


def watcher(ec2: Metadata, worker: Any, **options: Any) -> Interruption:
    return Interruption(worker, Imds(ec2.url), SYSTEM_CLOCK, every=0.01, **options)


def spot(seconds: float, action: str = "terminate") -> str:
    at = datetime.fromtimestamp(time.time() + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps({"action": action, "time": at})


# --- metadata --------------------------------------------------------------------------------------


def test_metadata_are_read_with_a_token_which_is_kept_and_renewed(ec2: Metadata) -> None:
    client = Imds(ec2.url)
    assert client.get("instance-id") == "i-0123"
    assert client.get("placement/region") == "eu-west-1"
    assert ec2.given == 1
    ec2.forget_tokens()
    assert client.get("instance-id") == "i-0123"
    assert ec2.given == 2


def test_what_is_not_there_is_none(ec2: Metadata) -> None:
    assert Imds(ec2.url).get("spot/instance-action") is None


def test_a_service_that_does_not_answer_says_so(ec2: Metadata) -> None:
    ec2.broken = 500
    with pytest.raises(MetadataUnavailable, match="HTTP 500"):
        Imds(ec2.url).get("instance-id")
    with pytest.raises(MetadataUnavailable, match="no instance metadata at"):
        Imds("http://127.0.0.1:9").get("instance-id")


def test_the_endpoint_is_where_botocore_looks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Imds().endpoint == "http://169.254.169.254"
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv6")
    assert Imds().endpoint == "http://[fd00:ec2::254]"
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1338/")
    assert Imds().endpoint == "http://127.0.0.1:1338"


def test_ec2_is_known_by_its_firmware(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imds_module, "_VENDOR", str(tmp_path / "vendor"))
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
    assert not on_ec2()
    (tmp_path / "vendor").write_text("QEMU\n")
    assert not on_ec2()
    (tmp_path / "vendor").write_text("Amazon EC2\n")
    assert on_ec2()
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert not on_ec2()


# --- notices ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [None, "InService", "Standby", "Detached"])
def test_a_machine_that_stays_is_left_alone(ec2: Metadata, state: str | None) -> None:
    if state:
        ec2.values["autoscaling/target-lifecycle-state"] = state

    assert watcher(ec2, Stopped()).look() is None


def test_a_spot_notice_says_when(ec2: Metadata) -> None:
    ec2.values["spot/instance-action"] = '{"action": "stop", "time": "2026-01-02T03:04:05Z"}'
    found = watcher(ec2, Stopped()).look()

    assert found == Notice(
        "spot interruption (stop at 2026-01-02T03:04:05Z)",
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp(),
    )


def test_a_spot_notice_that_cannot_be_read_is_still_one(ec2: Metadata) -> None:
    ec2.values["spot/instance-action"] = "<html>"

    assert watcher(ec2, Stopped()).look() == Notice("spot interruption (<html>)")


def test_a_rebalance_recommendation_is_said_once_and_stops_nothing(
    ec2: Metadata, caplog: pytest.LogCaptureFixture
) -> None:
    ec2.values["events/recommendations/rebalance"] = '{"noticeTime": "2026-01-02T03:04:05Z"}'
    watching = watcher(ec2, Stopped())

    assert [watching.look() for _ in range(3)] == [None] * 3
    assert caplog.text.count("recommends to rebalance") == 1


# --- what follows ----------------------------------------------------------------------------------


def test_a_spot_interruption_stops_the_worker_and_cuts_it_short_in_time(ec2: Metadata) -> None:
    worker = Stopped()
    watching = watcher(ec2, worker)
    watching.start()
    ec2.values["spot/instance-action"] = spot(MARGIN + 0.5)
    assert worker.stopped.wait(10)
    deadline = time.monotonic() + 10
    while len(worker.stops) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    watching.close()

    assert worker.stops[0].startswith("spot interruption (terminate at")
    assert worker.stops[1:] == ["out of time"]


def test_a_worker_that_has_finished_is_not_stopped_once_more(ec2: Metadata) -> None:
    worker = Stopped()
    watching = watcher(ec2, worker)
    ec2.values["spot/instance-action"] = spot(120)
    watching.start()
    assert worker.stopped.wait(10)
    watching.close()

    assert len(worker.stops) == 1


def test_one_that_is_stopping_already_is_only_cut_short(ec2: Metadata) -> None:
    worker = Stopped()
    worker.stopping = True
    ec2.values["spot/instance-action"] = spot(0)
    watching = watcher(ec2, worker)
    watching.start()
    assert worker.stopped.wait(10)
    watching.close()

    assert worker.stops == ["out of time"]


def test_scale_in_drains_the_worker_and_then_lets_the_group_go_on(ec2: Metadata) -> None:
    worker, asg = Stopped(), Asg()
    ec2.values["autoscaling/target-lifecycle-state"] = "Terminated"
    regions: list[str | None] = []
    watching = watcher(ec2, worker, port=lambda region: regions.append(region) or asg)
    watching.start()
    assert worker.stopped.wait(10)
    assert "CompleteLifecycleAction" not in [name for name, _ in asg.calls]
    watching.close()

    assert worker.stops == ["its Auto Scaling group terminates the instance"]
    assert regions == ["eu-west-1"]
    assert asg.calls[-1] == (
        "CompleteLifecycleAction",
        {
            "AutoScalingGroupName": "workers",
            "LifecycleHookName": "drain",
            "InstanceId": "i-0123",
            "LifecycleActionResult": "CONTINUE",
        },
    )


def test_while_tasks_run_the_group_is_asked_to_wait_on(
    ec2: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudq.worker.interruption.HEARTBEAT", 0.01)
    asg = Asg()
    ec2.values["autoscaling/target-lifecycle-state"] = "Terminated"
    watching = watcher(ec2, Stopped(), port=lambda region: asg)
    watching.start()
    deadline = time.monotonic() + 10
    while [name for name, _ in asg.calls].count("RecordLifecycleActionHeartbeat") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    watching.close()

    assert asg.calls[-1][0] == "CompleteLifecycleAction"


def test_a_hook_that_is_named_is_not_looked_for(ec2: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudq.worker.interruption.HEARTBEAT", 0.01)
    asg = Asg()
    ec2.values["autoscaling/target-lifecycle-state"] = "Terminated"
    watching = watcher(ec2, Stopped(), hook="shop:cloudq-drain", port=lambda region: asg)
    watching.start()
    deadline = time.monotonic() + 30
    while not asg.calls:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    watching.close()

    assert {name for name, _ in asg.calls} == {"RecordLifecycleActionHeartbeat", "CompleteLifecycleAction"}
    for _, params in asg.calls:
        assert params["AutoScalingGroupName"] == "shop"
        assert params["LifecycleHookName"] == "cloudq-drain"
    assert asg.calls[-1][0] == "CompleteLifecycleAction"


@pytest.mark.parametrize("text", ["", "shop", "shop:", ":drain", "shop:drain:more"])
def test_a_hook_has_a_group_and_a_name(ec2: Metadata, text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="GROUP:HOOK"):
        watcher(ec2, Stopped(), hook=text)


@pytest.mark.parametrize(
    ("operation", "error", "level"),
    [
        ("DescribeAutoScalingInstances", AccessDenied("not allowed"), "WARNING"),
        ("CompleteLifecycleAction", AccessDenied("not allowed"), "WARNING"),
        ("CompleteLifecycleAction", AwsError("ValidationError", "No active Lifecycle Action found"), "INFO"),
    ],
)
def test_what_the_group_does_not_take_is_logged(
    operation: str, error: Exception, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "cloudq.worker"):
        ScaleIn(Asg({operation: error}), "i-0123").complete()  # type: ignore[arg-type]

    (record,) = caplog.records
    assert record.levelname == level
    assert str(error) in record.getMessage()


def test_where_there_are_no_metadata_nothing_is_watched_unless_asked_for(
    ec2: Metadata, caplog: pytest.LogCaptureFixture
) -> None:
    ec2.broken = 403
    quiet = watcher(ec2, Stopped())
    quiet.start()
    quiet.close()
    assert caplog.text == ""

    worker = Stopped()
    asked_for = watcher(ec2, worker, insist=True)
    asked_for.start()
    assert "HTTP 403" in caplog.text
    ec2.values["spot/instance-action"] = spot(120)
    ec2.broken = None
    assert worker.stopped.wait(10)
    asked_for.close()
    assert caplog.text.count("trying again") == 1
