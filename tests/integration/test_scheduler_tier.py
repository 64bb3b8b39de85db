"""EventBridge Scheduler for real: moto keeps schedules, ministack fires them into SQS (issue 6)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from worker_processes import eventually

from cloudq import CloudQ
from cloudq.aws.factory import make_port
from cloudq.aws.port import AwsError, Call
from cloudq.backends.open import open_backend
from cloudq.brokers.base import BrokerCapabilities, QueueSpec
from cloudq.brokers.sqs import SqsBroker
from cloudq.delays.eventbridge import schedule_name
from cloudq.execution.call import NoWatch

ROLE = "arn:aws:iam::000000000000:role/scheduler"


def make_app(url: str, unique: str, **settings: Any) -> CloudQ:
    """An app whose standard queues delay for two seconds at most, so that a test need not wait for 15 minutes."""
    broker = SqsBroker(make_port(endpoint_url=url), capabilities=BrokerCapabilities(max_delay=2.0))
    app = CloudQ(
        unique,
        broker=broker,
        backend=f"dynamodb://{unique}?endpoint_url={url}",
        delay_tier="scheduler",
        scheduler_role_arn=ROLE,
        task_default_queue=unique,
        **settings,
    )
    for queue in (unique, f"{unique}.fifo"):
        broker.create_queue(QueueSpec(queue, 30.0))
    return app


@pytest.fixture(params=["moto", "ministack"])
def app(request: pytest.FixtureRequest, unique: str) -> Iterator[CloudQ]:
    url = request.getfixturevalue(f"{request.param}_url")
    with make_app(url, unique) as app:
        yield app


def schedule(app: CloudQ, task_id: str) -> Any:
    params = {"Name": schedule_name(task_id, 0), "GroupName": app.conf.scheduler_group}
    try:
        return app.broker.port.call(Call("scheduler", "GetSchedule", params))  # type: ignore[attr-defined]
    except AwsError as error:
        assert error.code == "ResourceNotFoundException"
        return None


def test_a_schedule_is_made_found_again_and_deleted(app: CloudQ) -> None:
    eta = time.time() + 86_400
    result = app.send_task("t", eta=eta)
    app.send_task("t", eta=eta, task_id=result.id)

    made = schedule(app, result.id)
    assert made["Target"]["Arn"].endswith(f":{app.conf.task_default_queue}")
    assert made["ActionAfterCompletion"] == "DELETE"
    with pytest.raises(ValueError, match="scheduled already"):
        app.send_task("t", eta=eta + 3600, task_id=result.id)

    assert app.producer.unschedule(result.id)
    assert schedule(app, result.id) is None
    assert not app.producer.unschedule(result.id)


@pytest.mark.slow
def test_delayed_tasks_arrive_on_both_kinds_of_queue_on_time_and_a_revoked_one_does_not(
    ministack_url: str, unique: str
) -> None:
    ran: dict[str, float] = {}
    with make_app(ministack_url, unique) as app:
        table = open_backend(f"dynamodb://{unique}?endpoint_url={ministack_url}")
        table.create_table()  # type: ignore[attr-defined]

        @app.task(name="t", bind=True)
        def t(self: Any) -> None:
            ran[self.request.id] = time.time()

        begun = time.time()
        on_time = [app.send_task("t", countdown=6, queue=queue) for queue in (unique, f"{unique}.fifo")]
        revoked = app.send_task("t", countdown=6)
        expired = app.send_task("t", countdown=6, expires=5.5)
        revoked.revoke()
        lifecycle = app.lifecycle("w")

        def work() -> bool:
            for queue in (unique, f"{unique}.fifo"):
                for delivery in app.broker.receive(queue, 10, 0, 30):
                    lifecycle.run(delivery, NoWatch())
                    app.broker.ack([delivery])
            time.sleep(0.2)
            return set(ran) >= {each.id for each in on_time} and expired.state == "REVOKED"

        eventually("both have run, the third has expired", work, timeout=40)

        assert all(begun + 6 <= ran[each.id] <= begun + 6 + 65 for each in on_time)
        assert set(ran) == {each.id for each in on_time}
        assert revoked.state == "REVOKED"
        eventually("the schedules deleted themselves", lambda: not any(schedule(app, e.id) for e in on_time))
        table.delete_table()  # type: ignore[attr-defined]
        table.close()
