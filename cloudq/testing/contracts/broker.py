"""What every broker must do."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import pytest

from cloudq.brokers.base import (
    BURIED_AT,
    DETAIL,
    ORIGIN,
    PACKED,
    REASON,
    Message,
    QueueSpec,
)
from cloudq.errors import MessageTooLarge, NoDeadLetterQueue, QueueNotFound, Unsupported
from cloudq.testing.contracts.broker_fifo import FifoContract

_DAY: Final = 86_400.0


class BrokerContract(FifoContract):
    """Give fixtures ``broker`` (with QueueAdmin) and, on a manual clock, ``advance``; see BrokerKit."""

    # --- sending and receiving ----------------------------------------------------------------

    def test_a_message_comes_back_as_it_was_sent(self, broker: Any, queue: str) -> None:
        before = time.time() - 5
        [message_id] = broker.send(queue, [Message('{"a": "ü€𝄞"}', attributes={"one": "1", "two": "zwei"})])

        [got] = self.take(broker, queue)

        assert (got.body, got.message_id, got.queue) == ('{"a": "ü€𝄞"}', message_id, queue)
        assert dict(got.attributes) == {"one": "1", "two": "zwei"}
        assert got.receive_count == 1
        assert got.receipt
        assert got.invisible_until == pytest.approx(got.received_at + 30, abs=1.5)
        assert got.sent_at >= before or got.sent_at < 1e9  # a manual clock may stand anywhere

    def test_many_messages_keep_their_ids_in_order(self, broker: Any, queue: str) -> None:
        ids = broker.send(queue, [Message(f"m{n}") for n in range(23)])

        got = {each.body: each.message_id for each in self.take(broker, queue, 23)}

        assert len(set(ids)) == 23
        assert [got[f"m{n}"] for n in range(23)] == ids

    def test_a_receive_gives_no_more_than_asked(self, broker: Any, queue: str) -> None:
        broker.send(queue, [Message(f"m{n}") for n in range(8)])

        assert 1 <= len(broker.receive(queue, 3, 1.0, 30.0)) <= 3

    def test_a_receive_may_ask_for_more_than_one_call_gives(self, broker: Any, queue: str) -> None:
        broker.send(queue, [Message(f"m{n}") for n in range(12)])

        got = broker.receive(queue, 50, 2.0, 30.0)

        assert 1 <= len(got) <= broker.capabilities.max_batch

    def test_an_empty_queue_gives_nothing_at_once(self, broker: Any, queue: str) -> None:
        assert broker.receive(queue, 10, 0.0, 30.0) == []

    def test_a_waiting_receive_is_woken_by_a_send(self, broker: Any, queue: str) -> None:
        timer = threading.Timer(0.2, lambda: broker.send(queue, [Message("late")]))
        timer.start()
        started = time.monotonic()

        got = broker.receive(queue, 10, 10.0, 30.0)

        timer.join()
        assert [each.body for each in got] == ["late"]
        assert time.monotonic() - started < 5.0

    def test_a_waiting_receive_is_woken_when_a_message_is_due(
        self, broker: Any, queue: str, advance: Callable[[float], None]
    ) -> None:
        broker.send(queue, [Message("due", delay=self.short)])
        timer = threading.Timer(0.2, advance, (self.short + 0.2,))
        timer.start()
        started = time.monotonic()

        got = broker.receive(queue, 10, 10.0, 30.0)

        timer.join()
        assert [each.body for each in got] == ["due"]
        assert time.monotonic() - started < 5.0

    def test_a_waiting_receive_is_woken_by_a_release(self, broker: Any, queue: str) -> None:
        broker.send(queue, [Message("m")])
        held = self.take(broker, queue)
        timer = threading.Timer(0.2, broker.release, (held,))
        timer.start()
        started = time.monotonic()

        got = broker.receive(queue, 10, 10.0, 30.0)

        timer.join()
        assert [each.receive_count for each in got] == [2]
        assert time.monotonic() - started < 5.0

    def test_an_escaped_control_character_survives(self, broker: Any, queue: str) -> None:
        broker.send(queue, [Message('{"zero": "\\u0000", "last": "\\uffff"}')])

        assert self.take(broker, queue)[0].body == '{"zero": "\\u0000", "last": "\\uffff"}'

    def test_sending_nothing_sends_nothing(self, broker: Any, queue: str) -> None:
        assert broker.send(queue, []) == []

    def test_racing_receivers_never_get_the_same_message(self, broker: Any, queue: str) -> None:
        broker.send(queue, [Message(f"m{n}") for n in range(40)])
        got: list[str] = []

        def receive() -> None:
            while found := broker.receive(queue, 3, 0.0, 60.0):
                got.extend(each.message_id for each in found)

        threads = [threading.Thread(target=receive) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        got += [each.message_id for each in self.take(broker, queue, 40 - len(got))] if len(got) < 40 else []
        assert len(got) == len(set(got)) == 40

    def test_racing_senders_and_receivers_lose_nothing(self, broker: Any, queue: str) -> None:
        got: list[str] = []
        done = threading.Event()

        def send(sender: int) -> None:
            for n in range(5):
                broker.send(queue, [Message(f"{sender}:{n}:{k}") for k in range(4)])

        def receive() -> None:
            while not done.is_set():
                found = broker.receive(queue, 10, 0.0, 60.0)
                got.extend(each.body for each in found)
                broker.ack(found)

        senders = [threading.Thread(target=send, args=(n,)) for n in range(3)]
        receivers = [threading.Thread(target=receive) for _ in range(3)]
        for each in senders + receivers:
            each.start()
        for each in senders:
            each.join()
        until = time.monotonic() + 20.0
        while len(got) < 60 and time.monotonic() < until:
            time.sleep(0.01)
        done.set()
        for each in receivers:
            each.join()
        sent = {f"{s}:{n}:{k}" for s in range(3) for n in range(5) for k in range(4)}
        assert (sent - set(got), len(got) - len(sent)) == (set(), 0)  # none missing, none twice

    # --- limits -------------------------------------------------------------------------------

    def test_a_message_over_the_limit_is_refused_before_any_is_sent(self, broker: Any, queue: str) -> None:
        limit = broker.capabilities.max_body
        with pytest.raises(MessageTooLarge):
            broker.send(queue, [Message("small"), Message("ü" * (limit // 2 + 1))])

        assert broker.receive(queue, 10, 0.0, 5.0) == []

    def test_attributes_count_against_the_limit(self, broker: Any, queue: str) -> None:
        body = "x" * (broker.capabilities.max_body - 50)
        with pytest.raises(MessageTooLarge):
            broker.send(queue, [Message(body, attributes={"name": "v" * 50})])

        assert broker.receive(queue, 10, 0.0, 5.0) == []

    def test_a_message_at_the_limit_passes(self, broker: Any, queue: str) -> None:
        body = "x" * broker.capabilities.max_body
        broker.send(queue, [Message(body)])

        assert self.take(broker, queue)[0].body == body

    def test_large_messages_are_split_into_batches(self, broker: Any, queue: str) -> None:
        body = "y" * (broker.capabilities.max_body // 3)
        broker.send(queue, [Message(body) for _ in range(5)])

        assert len(self.take(broker, queue, 5)) == 5

    def test_a_delay_over_the_limit_is_refused(self, broker: Any, queue: str) -> None:
        with pytest.raises(Unsupported):
            broker.send(queue, [Message("good"), Message("m", delay=broker.capabilities.max_delay + 1)])

        assert broker.receive(queue, 10, 0.0, 5.0) == []

    # --- time ---------------------------------------------------------------------------------

    def test_a_delayed_message_is_not_early(
        self, broker: Any, queue: str, advance: Callable[[float], None]
    ) -> None:
        broker.send(queue, [Message("later", delay=self.short)])
        assert broker.receive(queue, 10, 0.0, 30.0) == []

        advance(self.short + 0.2)

        assert [each.body for each in self.take(broker, queue)] == ["later"]

    def test_an_unsettled_message_comes_again(
        self, broker: Any, queue: str, advance: Callable[[float], None]
    ) -> None:
        broker.send(queue, [Message("m")])
        [first] = self.take(broker, queue, invisible=self.short)
        assert broker.receive(queue, 10, 0.0, 30.0) == []

        advance(self.short + 0.2)
        [second] = self.take(broker, queue)

        assert second.message_id == first.message_id
        assert second.receive_count == 2
        assert second.receipt != first.receipt
        assert second.first_received_at == pytest.approx(first.first_received_at, abs=0.01)

    def test_an_extended_message_stays_away(
        self, broker: Any, queue: str, advance: Callable[[float], None]
    ) -> None:
        broker.send(queue, [Message("m")])
        [got] = self.take(broker, queue, invisible=self.short)

        assert broker.extend([got], 30.0) == []
        advance(self.short + 0.2)

        assert broker.receive(queue, 10, 0.0, 30.0) == []

    def test_a_released_message_is_there_at_once(self, broker: Any, queue: str) -> None:
        broker.send(queue, [Message("m")])
        [got] = self.take(broker, queue)

        assert broker.release([got]) == []

        assert [each.receive_count for each in self.take(broker, queue)] == [2]

    def test_a_release_with_delay_waits(
        self, broker: Any, queue: str, advance: Callable[[float], None]
    ) -> None:
        broker.send(queue, [Message("m")])
        [got] = self.take(broker, queue)

        broker.release([got], self.short)

        assert broker.receive(queue, 10, 0.0, 30.0) == []
        advance(self.short + 0.2)
        assert len(self.take(broker, queue)) == 1

    def test_more_than_ten_are_extended_and_released_at_once(
        self, broker: Any, queue: str, advance: Callable[[float], None]
    ) -> None:
        broker.send(queue, [Message(f"m{n}") for n in range(12)])
        got = self.take(broker, queue, 12, invisible=max(2.0, 2 * self.short))

        assert broker.extend(got, 60.0) == []
        advance(max(2.0, 2 * self.short) + 0.2)
        assert broker.receive(queue, 10, 0.0, 30.0) == []

        assert broker.release(got) == []
        assert len(self.take(broker, queue, 12)) == 12

    def test_a_delay_longer_than_the_retention_is_kept(
        self, broker: Any, advance: Callable[[float], None]
    ) -> None:
        if not self.manual_clock or broker.capabilities.max_delay < 10 * _DAY:
            pytest.skip("needs a manual clock and a delay of days")
        queue = self.make(broker)
        broker.send(queue, [Message("in ten days", delay=10 * _DAY)])

        advance(10 * _DAY + 1)

        assert [each.body for each in self.take(broker, queue)] == ["in ten days"]

    def test_a_message_nobody_takes_is_dropped_after_the_retention(
        self, broker: Any, advance: Callable[[float], None]
    ) -> None:
        if not self.manual_clock:
            pytest.skip("needs a manual clock")
        queue = self.make(broker, retention=_DAY)
        broker.send(queue, [Message("old")])
        advance(_DAY - 60)
        broker.send(queue, [Message("young")])

        advance(120)

        assert [each.body for each in broker.receive(queue, 10, 0.0, 30.0)] == ["young"]

    # --- settling -----------------------------------------------------------------------------

    def test_an_acknowledged_message_is_gone(
        self, broker: Any, queue: str, advance: Callable[[float], None]
    ) -> None:
        broker.send(queue, [Message(f"m{n}") for n in range(12)])
        got = self.take(broker, queue, 12, invisible=self.short)

        assert broker.ack(got) == []

        advance(self.short + 0.2)
        assert broker.receive(queue, 10, 0.0, 30.0) == []

    def test_a_stale_receipt_extends_nothing(
        self, broker: Any, queue: str, advance: Callable[[float], None]
    ) -> None:
        if not self.knows_stale_receipts:
            pytest.skip("this service accepts stale receipts")
        broker.send(queue, [Message("m")])
        [first] = self.take(broker, queue, invisible=self.short)
        advance(self.short + 0.2)
        [second] = self.take(broker, queue)
        broker.ack([second])

        [refused] = broker.extend([first], 30.0)

        assert refused.lost
        assert refused.delivery == first

    def test_the_former_holder_cannot_take_a_message_from_the_present_one(
        self, broker: Any, queue: str, advance: Callable[[float], None]
    ) -> None:
        if not self.fences_former_holders:
            pytest.skip("this service accepts a former holder's receipt")
        broker.send(queue, [Message("m")])
        [first] = self.take(broker, queue, invisible=self.short)
        advance(self.short + 0.2)
        [second] = self.take(broker, queue)

        assert [each.lost for each in broker.extend([first], 0.0)] == [True]
        assert [each.lost for each in broker.release([first])] == [True]

        assert broker.receive(queue, 10, 0.0, 30.0) == []
        assert broker.extend([second], 30.0) == []

    def test_deliveries_of_two_queues_are_settled_in_one_call(
        self, broker: Any, queue: str, advance: Callable[[float], None]
    ) -> None:
        other = self.make(broker)
        broker.send(queue, [Message("a")])
        broker.send(other, [Message("b")])
        got = self.take(broker, queue, invisible=self.short) + self.take(broker, other, invisible=self.short)

        assert broker.ack(got) == []

        advance(self.short + 0.2)
        assert broker.receive(queue, 10, 0.0, 30.0) == broker.receive(other, 10, 0.0, 30.0) == []

    def test_settling_nothing_is_no_error(self, broker: Any) -> None:
        assert broker.ack([]) == broker.release([]) == broker.extend([], 30.0) == []

    def test_acknowledging_a_stale_receipt_harms_nobody(self, broker: Any, queue: str) -> None:
        broker.send(queue, [Message("m")])
        [got] = self.take(broker, queue)
        broker.ack([got])

        assert all(each.lost for each in broker.ack([got]))

    def test_a_message_received_too_often_is_a_dead_letter(self, broker: Any) -> None:
        queue = self.make(broker, max_receive_count=2)
        [message_id] = broker.send(queue, [Message("poison")])
        for _ in range(2):
            broker.release(self.take(broker, queue))

        assert broker.receive(queue, 10, 0.0, 30.0) == []
        dead = broker.describe(queue).dead_letter_queue
        [letter] = self.take(broker, dead)
        assert (letter.body, letter.message_id) == ("poison", message_id)

    def test_a_buried_message_says_why(
        self, broker: Any, queue: str, advance: Callable[[float], None]
    ) -> None:
        broker.send(queue, [Message("junk", attributes={"mine": "1"})])
        [got] = self.take(broker, queue, invisible=self.short)

        broker.bury(got, "unknown_task", "no task is called x")

        dead = broker.describe(queue).dead_letter_queue
        [letter] = self.take(broker, dead)
        assert letter.body == "junk"
        assert letter.attributes["mine"] == "1"
        assert letter.attributes[REASON] == "unknown_task"
        assert letter.attributes[DETAIL] == "no task is called x"
        assert letter.attributes[ORIGIN] == queue
        assert letter.attributes[BURIED_AT].startswith(("19", "20"))
        advance(self.short + 0.2)
        assert broker.receive(queue, 10, 0.0, 30.0) == []

    @pytest.mark.parametrize("count", [6, 7, 10])
    def test_a_buried_message_keeps_all_its_attributes(self, broker: Any, queue: str, count: int) -> None:
        """As they are, or packed as JSON where they would not fit beside the four that bury adds."""
        own = {f"name{n}": f"wört {n}" for n in range(count)}
        broker.send(queue, [Message("junk", attributes=own)])
        [got] = self.take(broker, queue)

        broker.bury(got, "unreadable")

        [letter] = self.take(broker, broker.describe(queue).dead_letter_queue)
        found = dict(letter.attributes)
        found.update(json.loads(found.pop(PACKED, "{}")))
        assert {name: found.get(name) for name in own} == own
        assert found[REASON] == "unreadable"

    def test_burying_without_a_dead_letter_queue_says_so(self, broker: Any, queue: str) -> None:
        dead = broker.describe(queue).dead_letter_queue
        broker.send(dead, [Message("m")])
        [got] = self.take(broker, dead)

        with pytest.raises(NoDeadLetterQueue):
            broker.bury(got, "why")

    # --- looking ------------------------------------------------------------------------------

    def test_a_queue_is_described(self, broker: Any) -> None:
        queue = self.make(broker, visibility_timeout=45.0, max_receive_count=7)

        info = broker.describe(queue)

        assert (info.name, info.fifo, info.visibility_timeout, info.max_receive_count) == (
            queue,
            False,
            45.0,
            7,
        )
        assert info.dead_letter_queue

    def test_depth_counts_ready_held_and_delayed(self, broker: Any, queue: str) -> None:
        broker.send(queue, [Message("a"), Message("b"), Message("c", delay=30.0)])
        self.take(broker, queue)

        depth = broker.depth(queue)

        assert (depth.visible, depth.in_flight, depth.delayed, depth.total) == (1, 1, 1, 3)

    def test_purge_empties_a_queue(self, broker: Any, queue: str) -> None:
        broker.send(queue, [Message("a"), Message("b"), Message("c")])
        self.take(broker, queue)

        broker.purge(queue)

        assert broker.receive(queue, 10, 0.0, 30.0) == []
        assert broker.depth(queue).total == 0

    def test_a_missing_queue_is_named_in_the_error(self, broker: Any) -> None:
        if self.creates_queues:
            pytest.skip("this broker makes queues on first use")
        with pytest.raises(QueueNotFound, match="no-such-queue"):
            broker.send("no-such-queue", [Message("m")])
        with pytest.raises(QueueNotFound, match="no-such-queue"):
            broker.receive("no-such-queue", 1, 0.0, 30.0)

    def test_creating_a_queue_again_changes_nothing(self, broker: Any, queue: str) -> None:
        assert broker.create_queue(QueueSpec(queue)) == []
        assert queue in list(broker.list_queues())

    def test_a_deleted_queue_is_gone(self, broker: Any, queue: str) -> None:
        broker.delete_queue(queue)

        assert queue not in list(broker.list_queues())

    def test_close_may_be_called_twice(self, broker: Any) -> None:
        broker.close()
        broker.close()

    def test_close_wakes_a_waiting_receive(self, spare_broker: Any) -> None:
        queue = self.make(spare_broker)
        timer = threading.Timer(0.2, spare_broker.close)
        timer.start()
        started = time.monotonic()

        assert spare_broker.receive(queue, 10, 15.0, 30.0) == []

        timer.join()
        assert time.monotonic() - started < 5.0
