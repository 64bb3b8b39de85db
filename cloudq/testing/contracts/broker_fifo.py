"""What every broker with FIFO queues must do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cloudq.brokers.base import Message
from cloudq.errors import Unsupported
from cloudq.testing.contracts.broker_kit import BrokerKit


class FifoContract(BrokerKit):
    """Order within a group, groups beside each other, deduplication."""

    def test_a_group_comes_in_order_and_one_batch_at_a_time(self, broker: Any, fifo_queue: str) -> None:
        for n in range(3):
            broker.send(fifo_queue, [Message(f"a{n}", group_id="a", dedup_id=f"a{n}")])
        broker.send(fifo_queue, [Message("b0", group_id="b", dedup_id="b0")])

        first = broker.receive(fifo_queue, 1, 1.0, 30.0)
        rest = broker.receive(fifo_queue, 10, 1.0, 30.0)

        assert [each.body for each in first] == ["a0"]
        assert first[0].group_id == "a"
        assert [each.body for each in rest] == ["b0"]
        broker.ack(first)
        assert self.take(broker, fifo_queue)[0].body == "a1"

    def test_a_second_message_with_the_same_dedup_id_is_dropped(self, broker: Any, fifo_queue: str) -> None:
        broker.send(fifo_queue, [Message("one", group_id="g", dedup_id="same")])
        broker.send(fifo_queue, [Message("two", group_id="g", dedup_id="same")])

        [got] = self.take(broker, fifo_queue)
        broker.ack([got])

        assert got.body == "one"
        assert broker.receive(fifo_queue, 10, 0.0, 30.0) == []

    def test_a_dedup_id_is_remembered_after_its_message_is_gone(
        self, broker: Any, fifo_queue: str, advance: Callable[[float], None]
    ) -> None:
        if not self.remembers_dedup_ids:
            pytest.skip("this service forgets the ids of deleted messages")
        broker.send(fifo_queue, [Message("one", group_id="g", dedup_id="same")])
        broker.ack(self.take(broker, fifo_queue))

        broker.send(fifo_queue, [Message("two", group_id="g", dedup_id="same")])
        assert broker.receive(fifo_queue, 10, 0.0, 30.0) == []

        if self.manual_clock:
            advance(301.0)
            broker.send(fifo_queue, [Message("three", group_id="g", dedup_id="same")])
            assert [each.body for each in self.take(broker, fifo_queue)] == ["three"]

    def test_a_long_batch_of_one_group_keeps_its_order(self, broker: Any, fifo_queue: str) -> None:
        broker.send(fifo_queue, [Message(f"{n:02d}", group_id="g", dedup_id=f"{n}") for n in range(23)])
        bodies: list[str] = []
        while len(bodies) < 23 and (found := broker.receive(fifo_queue, 10, 1.0, 30.0)):
            bodies += [each.body for each in found]
            broker.ack(found)

        assert bodies == [f"{n:02d}" for n in range(23)]

    def test_a_released_message_keeps_its_place(self, broker: Any, fifo_queue: str) -> None:
        broker.send(fifo_queue, [Message(f"a{n}", group_id="a", dedup_id=f"a{n}") for n in range(3)])
        first = broker.receive(fifo_queue, 1, 1.0, 30.0)

        broker.release(first)

        again = broker.receive(fifo_queue, 1, 1.0, 30.0)
        assert [(each.body, each.receive_count) for each in again] == [("a0", 2)]

    def test_a_group_waits_for_a_member_that_comes_back(
        self, broker: Any, fifo_queue: str, advance: Callable[[float], None]
    ) -> None:
        broker.send(fifo_queue, [Message(f"a{n}", group_id="a", dedup_id=f"a{n}") for n in range(2)])
        [first] = broker.receive(fifo_queue, 1, 1.0, 30.0)

        broker.release([first], self.short)

        assert broker.receive(fifo_queue, 10, 0.0, 30.0) == []
        advance(self.short + 0.2)
        assert [each.body for each in broker.receive(fifo_queue, 1, 2.0, 30.0)] == ["a0"]

    def test_a_group_whose_holder_died_goes_on_with_the_same_message(
        self, broker: Any, fifo_queue: str, advance: Callable[[float], None]
    ) -> None:
        broker.send(fifo_queue, [Message(f"a{n}", group_id="a", dedup_id=f"a{n}") for n in range(2)])
        broker.receive(fifo_queue, 1, 1.0, self.short)

        advance(self.short + 0.2)

        again = broker.receive(fifo_queue, 1, 2.0, 30.0)
        assert [(each.body, each.receive_count) for each in again] == [("a0", 2)]

    def test_a_group_goes_on_behind_a_buried_message(self, broker: Any, fifo_queue: str) -> None:
        broker.send(fifo_queue, [Message(f"a{n}", group_id="a", dedup_id=f"a{n}") for n in range(2)])
        [first] = broker.receive(fifo_queue, 1, 1.0, 30.0)

        broker.bury(first, "unreadable")

        assert [each.body for each in broker.receive(fifo_queue, 1, 1.0, 30.0)] == ["a1"]
        [letter] = self.take(broker, broker.describe(fifo_queue).dead_letter_queue)
        assert (letter.body, letter.group_id) == ("a0", "a")

    def test_a_group_goes_on_behind_a_dead_letter(self, broker: Any, fifo_queue: str) -> None:
        queue = self.make(broker, ".fifo", max_receive_count=1)
        broker.send(queue, [Message(f"a{n}", group_id="a", dedup_id=f"a{n}") for n in range(2)])
        broker.release(broker.receive(queue, 1, 1.0, 30.0))

        assert [each.body for each in self.take(broker, queue)] == ["a1"]
        [letter] = self.take(broker, broker.describe(queue).dead_letter_queue)
        assert (letter.body, letter.group_id) == ("a0", "a")

    def test_messages_without_a_group_do_not_block_each_other(self, broker: Any, fifo_queue: str) -> None:
        broker.send(fifo_queue, [Message("one", dedup_id="1"), Message("two", dedup_id="2")])

        first = broker.receive(fifo_queue, 1, 1.0, 30.0)
        second = broker.receive(fifo_queue, 1, 1.0, 30.0)

        assert len(first) == len(second) == 1

    def test_a_delay_on_a_fifo_queue_is_refused(self, broker: Any, fifo_queue: str) -> None:
        with pytest.raises(Unsupported):
            broker.send(fifo_queue, [Message("m", delay=5.0, group_id="g", dedup_id="d")])

    def test_a_purged_group_is_free(self, broker: Any, fifo_queue: str) -> None:
        broker.send(fifo_queue, [Message(f"a{n}", group_id="a", dedup_id=f"a{n}") for n in range(2)])
        broker.receive(fifo_queue, 1, 1.0, 30.0)

        broker.purge(fifo_queue)
        broker.send(fifo_queue, [Message("new", group_id="a", dedup_id="new")])

        assert [each.body for each in self.take(broker, fifo_queue)] == ["new"]
