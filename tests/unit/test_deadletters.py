"""Dead letters: looked at without harm, sent back, deleted."""

from collections.abc import Iterator

import pytest

from cloudq.brokers.base import Message
from cloudq.brokers.sqlite import SqliteBroker
from cloudq.control.deadletters import DeadLetters, Filter, parse_age
from cloudq.errors import NoDeadLetterQueue
from cloudq.testing.clock import JumpingClock


@pytest.fixture
def broker() -> Iterator[SqliteBroker]:
    broker = SqliteBroker(None, JumpingClock(), max_receive_count=1)
    yield broker
    broker.close()


def bury(broker: SqliteBroker, body: str, reason: str, queue: str = "q", **more: str) -> str:
    [message_id] = broker.send(queue, [Message(body, attributes=more)])
    [delivery] = broker.receive(queue, 1, 0.0, 30.0)
    broker.bury(delivery, reason, f"because of {reason}")
    return message_id


def test_peek_shows_and_leaves(broker: SqliteBroker) -> None:
    for n in range(12):
        bury(broker, f'{{"task": "t{n % 2}", "id": "T{n}"}}', "unknown_task")
    letters = DeadLetters(broker, "q")

    found = letters.peek(50)

    assert {each.task_id for each in found} == {f"T{n}" for n in range(12)}
    assert {(each.reason, each.detail, each.origin) for each in found} == {
        ("unknown_task", "because of unknown_task", "q")
    }
    assert broker.depth("q-dlq").visible == 12
    assert len(letters.peek(5)) == 5
    assert broker.depth("q-dlq").visible == 12


def test_filters(broker: SqliteBroker) -> None:
    bury(broker, '{"task": "a", "id": "T1"}', "unknown_task")
    bury(broker, "garbage", "undecodable")
    letters = DeadLetters(broker, "q")

    assert [each.task for each in letters.peek(9, Filter(task="a"))] == ["a"]
    assert [each.body for each in letters.peek(9, Filter(reason="undecodable"))] == ["garbage"]
    assert [each.task for each in letters.peek(9, Filter(message_ids=frozenset({"T1"})))] == ["a"]
    assert letters.peek(9, Filter(task="a", reason="undecodable")) == []


def test_redrive_sends_back_clean(broker: SqliteBroker) -> None:
    bury(broker, '{"task": "a"}', "unknown_task", mine="1")
    bury(broker, "garbage", "undecodable")

    assert DeadLetters(broker, "q").redrive(Filter(task="a")) == 1

    [back] = broker.receive("q", 10, 0.0, 30.0)
    assert (back.body, dict(back.attributes), back.receive_count) == (
        '{"task": "a"}',
        {"mine": "1", "cloudq-redrives": "1"},
        1,
    )
    assert broker.depth("q-dlq").visible == 1


def test_redrive_edits_and_redirects(broker: SqliteBroker) -> None:
    bury(broker, '{"task": "old"}', "unknown_task")

    DeadLetters(broker, "q").redrive(to="other", edit=lambda body: body.replace("old", "new"))

    assert broker.receive("other", 1, 0.0, 30.0)[0].body == '{"task": "new"}'


def test_a_failed_edit_loses_nothing(broker: SqliteBroker) -> None:
    bury(broker, "x", "undecodable")
    with pytest.raises(ZeroDivisionError):
        DeadLetters(broker, "q").redrive(edit=lambda body: str(1 / 0))

    assert broker.depth("q-dlq").visible == 1


def test_purge_deletes_some_or_all(broker: SqliteBroker) -> None:
    bury(broker, '{"task": "a"}', "unknown_task")
    bury(broker, '{"task": "b"}', "unknown_task")
    letters = DeadLetters(broker, "q")

    assert letters.purge(Filter(task="a")) == 1
    assert broker.depth("q-dlq").total == 1
    assert letters.purge() is None
    assert broker.depth("q-dlq").total == 0


def test_a_message_the_broker_moved_is_explained(broker: SqliteBroker) -> None:
    broker.send("q", [Message('{"task": "poison"}')])
    broker.release(broker.receive("q", 1, 0.0, 30.0))
    assert broker.receive("q", 1, 0.0, 30.0) == []

    [letter] = DeadLetters(broker, "q").peek(1)

    assert letter.reason == "received_too_often"
    assert "without being settled" in letter.detail


def test_fifo_letters_go_back_into_their_group(broker: SqliteBroker) -> None:
    broker.send("q.fifo", [Message("{}", group_id="g", dedup_id="d")])
    broker.bury(broker.receive("q.fifo", 1, 0.0, 30.0)[0], "why")

    assert DeadLetters(broker, "q.fifo").redrive() == 1
    assert broker.receive("q.fifo", 1, 0.0, 30.0)[0].group_id == "g"


def test_a_queue_without_dead_letters_says_so(broker: SqliteBroker) -> None:
    with pytest.raises(NoDeadLetterQueue, match="cloudq queues create"):
        DeadLetters(broker, "q-dlq")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("15m", 900), ("2h", 7200), ("1.5d", 129_600), ("3 s", 3)]
)
def test_ages(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "5w", "-1"])
def test_bad_ages(text: str) -> None:
    with pytest.raises(ValueError, match="15m"):
        parse_age(text)
