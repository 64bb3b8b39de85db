"""cloudq doctor: what it finds in apps that do and do not fit together."""

from pathlib import Path

from cloudq import CloudQ
from cloudq.brokers.base import BrokerCapabilities, Message
from cloudq.brokers.sqlite import SqliteBroker
from cloudq.cli.doctor import FAIL, OK, WARN, examine
from cloudq.clock import SYSTEM_CLOCK


def findings(app: CloudQ, *queues: str) -> list[tuple[str, str, str]]:
    return [(each.level, each.what, each.detail) for each in examine(app, list(queues), loaded=True)]


def test_a_sound_app_is_all_ok() -> None:
    app = CloudQ("x", broker="memory://", backend="memory://")
    app.task(name="t")(lambda: None)

    assert {level for level, _, _ in findings(app, "cloudq")} == {OK}


def test_an_app_without_tasks_and_dead_letters_are_warned_of() -> None:
    app = CloudQ("x", broker="memory://", backend="memory://")
    app.broker.send("cloudq", [Message("junk")])
    app.broker.bury(app.broker.receive("cloudq", 1, 0.0, 30.0)[0], "undecodable")

    warned = [detail for level, _, detail in findings(app, "cloudq") if level == WARN]
    assert any("0 tasks" in each for each in warned)
    assert any("1 dead letters" in each and "cloudq dlq list cloudq" in each for each in warned)


def test_retries_beyond_the_receipts_of_a_fifo_queue_are_warned_of() -> None:
    app = CloudQ("x", broker="memory://", backend="memory://")
    app.task(name="patient", queue="orders.fifo", max_retries=9)(lambda: None)
    app.task(name="quick", queue="orders.fifo", max_retries=2)(lambda: None)

    warned = [detail for level, _, detail in findings(app, "orders.fifo") if level == WARN]
    assert ["patient" in each for each in warned] == [True]


def test_disabled_results_are_warned_of_and_a_bad_url_fails() -> None:
    app = CloudQ("x", broker="memory://", backend="disabled://")
    assert any(level == WARN and what == "results" for level, what, _ in findings(app, "cloudq"))

    app = CloudQ("x", broker="sqqs://", backend="memory://")
    assert any(
        level == FAIL and "did you mean 'sqs'" in detail for level, _, detail in findings(app, "cloudq")
    )


def test_the_place_of_large_messages_is_looked_at(tmp_path: Path) -> None:
    app = CloudQ(
        "x", broker="memory://", backend="memory://", broker_large_messages=f"file:///{tmp_path}/large"
    )
    assert (OK, "large messages", f"file:///{tmp_path}/large/messages/: readable") in findings(app, "cloudq")
    assert not [each for each in findings(app, "cloudq") if each[:2] == (WARN, "large messages")]

    (tmp_path / "file").write_text("")
    app = CloudQ(
        "x", broker="memory://", backend="memory://", broker_large_messages=f"file:///{tmp_path}/file"
    )
    assert [each[0] for each in findings(app, "cloudq") if each[1] == "large messages"] == [FAIL]


def test_a_place_that_other_machines_do_not_find_is_warned_of() -> None:
    class Cloud(SqliteBroker):
        def __init__(self) -> None:
            super().__init__(None, SYSTEM_CLOCK)
            self.capabilities = BrokerCapabilities(reach="cloud")

    app = CloudQ("x", broker=Cloud(), backend="memory://", broker_large_messages="memory://")
    assert (WARN, "large messages") in {each[:2] for each in findings(app, "cloudq")}


def test_periodic_tasks_are_counted_and_those_that_nobody_can_send_are_warned_of() -> None:
    app = CloudQ("x", broker="memory://", backend="disabled://")
    app.periodic(60)(app.task(name="known")(lambda: None))
    app.conf.beat_schedule = {"other": {"task": "elsewhere", "schedule": 60}}

    found = [(level, detail) for level, what, detail in findings(app, "cloudq") if what == "periodic tasks"]
    assert (OK, "2 declared") in found
    assert [detail for level, detail in found if level == WARN and "elsewhere" in detail]
    assert [detail for level, detail in found if level == WARN and "needs a results store" in detail]

    app.conf.beat_schedule = {"bad": {"task": "t", "schedule": "never"}}
    assert (FAIL, "periodic tasks") in {(level, what) for level, what, _ in findings(app, "cloudq")}
