"""Large messages from call to result: what is kept where, when it goes, and what forgers get."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cloudq import CloudQ, Task
from cloudq.brokers.base import Delivery, Message
from cloudq.brokers.claimcheck import ClaimCheck, EntryPlace, ref_of
from cloudq.control.deadletters import DeadLetters
from cloudq.errors import (
    ImproperlyConfigured,
    MessageTooLarge,
    PayloadMissing,
    SendError,
    ServiceUnavailable,
    SignatureInvalid,
    Unsupported,
)
from cloudq.execution.call import NoWatch
from cloudq.message import PayloadRef
from cloudq.pools.base import Died
from cloudq.runtime.verdict import Ack, Bury, Release
from cloudq.serializers.peek import peek
from cloudq.testing.clock import JumpingClock
from cloudq.worker.commands import Commands
from cloudq.worker.disposal import Disposal

BIG = "x" * 3000


class Bench:
    """An app on memory whose messages over 2,000 bytes are kept elsewhere, and a hand-driven worker."""

    def __init__(self, **settings: Any) -> None:
        self.clock = JumpingClock()
        self.app = CloudQ(
            "bench",
            broker="memory://",
            backend="memory://",
            clock=self.clock,
            **{"broker_large_messages": "memory://", "broker_large_messages_over": 2000, **settings},
        )
        self.lifecycle = self.app.lifecycle("w1")
        self.ran: list[Any] = []

        @self.app.task(name="keep")
        def keep(value: str) -> int:
            self.ran.append(value)
            return len(value)

        @self.app.task(name="again", bind=True, max_retries=1, default_retry_delay=5)
        def again(task: Task[..., Any], value: str) -> int:
            if task.request.retries == 0:
                raise task.retry()
            return len(value)

        self.keep, self.again = keep, again

    @property
    def claims(self) -> ClaimCheck:
        assert self.app.claims is not None
        return self.app.claims

    @property
    def place(self) -> EntryPlace:
        [place] = self.claims._places
        assert isinstance(place, EntryPlace)
        return place

    def kept(self) -> list[str]:
        """The names of all texts there are."""
        for each in list(self.claims._removals):
            each.result(5)
        return list(self.place._backend.keys("messages/"))

    def receive(self, queue: str = "cloudq") -> list[Delivery]:
        return self.app.broker.receive(queue, 10, 0.0, 30.0)

    def step(self) -> list[Any]:
        """Receive once, run, carry out as a worker does; the verdicts."""
        verdicts = []
        for delivery in self.receive():
            verdict = self.lifecycle.run(delivery, NoWatch())
            verdicts.append(verdict)
            if isinstance(verdict, Ack):
                self.acknowledge(delivery)
            elif isinstance(verdict, Bury):
                self.app.broker.bury(delivery, verdict.reason, verdict.detail)
            elif isinstance(verdict, Release):
                self.app.broker.release([delivery], verdict.delay)
        return verdicts

    def acknowledge(self, delivery: Delivery) -> None:
        self.app.broker.ack([delivery])
        self.claims.forget([delivery.body])


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.app.close()


def test_a_large_message_runs_like_any_other_and_leaves_nothing_behind(bench: Bench) -> None:
    result = bench.keep.delay(BIG)
    small = bench.keep.delay("small")
    assert len(bench.kept()) == 1

    assert bench.step() == [Ack(), Ack()]
    assert result.get(timeout=0) == 3000
    assert small.get(timeout=0) == 5
    assert bench.kept() == []


def test_the_message_names_task_and_id_and_points_to_the_rest(bench: Bench) -> None:
    result = bench.keep.delay(BIG)
    [delivery] = bench.receive()
    body = json.loads(delivery.body)
    assert set(body) == {"v", "id", "task", "ref"}
    assert (body["v"], body["id"], body["task"]) == (1, result.id, "keep")
    ref = ref_of(delivery.body)
    assert ref is not None
    assert json.loads(bench.claims.load(ref))["args"] == [BIG]


def test_headers_travel_with_the_message_where_they_are_short_and_open(bench: Bench) -> None:
    """By them it may be revoked, without a look at what lies elsewhere."""
    key = base64.b64encode(bytes(32)).decode()
    closed = Bench(security_encryption_keys={"k": key})
    for one, headers, told in (
        (bench, {"tenant": "acme"}, {"tenant": "acme"}),
        (bench, {"long": BIG * 3}, {}),
        (closed, {"tenant": "acme"}, {}),
    ):
        one.keep.apply_async((BIG,), headers=headers)
        [delivery] = one.receive()
        assert dict(peek(delivery.body, "M").headers) == told
        assert one.lifecycle.run(delivery, NoWatch()) == Ack()
        one.acknowledge(delivery)
    assert closed.ran == [BIG]


def test_an_encrypted_message_that_is_kept_elsewhere_is_encrypted_there_too() -> None:
    key = base64.b64encode(bytes(range(32))).decode()
    closed = Bench(security_encryption_keys={"k": key})
    try:
        closed.keep.delay("the secret " * 20_000)
        name = closed.kept()[0].removeprefix("messages/")
        text = closed.place.get(name, 1 << 20)
        assert text is not None
        assert b"the secret" not in text
        assert b'"encrypted"' in text
        assert closed.step() == [Ack()]
        closed.keep.delay("the secret " * 20_000)
        name = closed.kept()[0].removeprefix("messages/")
        document = json.loads(closed.place.get(name, 1 << 20) or b"")
        data = bytearray(base64.b64decode(document["encrypted"]["data"]))
        data[1000] ^= 1
        document["encrypted"]["data"] = base64.b64encode(bytes(data)).decode()
        changed = json.dumps(document, separators=(",", ":")).encode()
        closed.place.put(name, changed, closed.app.clock.time() + 100.0)
        [delivery] = closed.receive()
        ref = PayloadRef(closed.place.base + name, len(changed), hashlib.sha256(changed).hexdigest())
        told = {
            **json.loads(delivery.body),
            "ref": ref.plain(),
        }  # by somebody who may send and write, without keys
        closed.app.broker.ack([delivery])
        closed.app.broker.send("cloudq", [Message(json.dumps(told))])
        [verdict] = closed.step()
        assert isinstance(verdict, Bury)
        assert verdict.reason == "decryption_failed"
    finally:
        closed.app.close()


def test_a_look_at_a_large_task_in_hand_does_not_fetch_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.keep.delay(BIG)
    [delivery] = bench.receive()
    monkeypatch.setattr(bench.place, "get", lambda *args: pytest.fail("it was fetched"))
    worker = SimpleNamespace(app=bench.app, conf=bench.app.conf, hostname="w1")
    shown = Commands.describe(SimpleNamespace(_worker=worker), delivery)  # type: ignore[arg-type]
    assert shown["name"] == "keep"
    assert "bytes, kept in memory://" in shown["args"]


def test_compression_comes_first(bench: Bench) -> None:
    bench.keep.apply_async((BIG,), compression="gzip")
    assert len(bench.kept()) == 1  # under task_compression_threshold
    bench.keep.apply_async(("y" * 100_000,), compression="gzip")
    assert len(bench.kept()) == 1


def test_without_a_place_the_call_says_which_setting_it_needs() -> None:
    bench = Bench(broker_large_messages=None, broker_large_messages_over=None)
    with pytest.raises(MessageTooLarge, match="keep has .* takes 1048576. Set broker_large_messages"):
        bench.keep.delay("x" * 1_100_000)
    with pytest.raises(MessageTooLarge):  # and nothing of a batch is sent
        bench.app.send_many([bench.keep.s("a"), bench.keep.s("x" * 1_100_000)])
    assert bench.app.broker.depth("cloudq").total == 0
    assert bench.keep.delay("x" * 1_000_000).id


def test_more_than_the_largest_is_refused_before_anything_is_sent() -> None:
    bench = Bench(broker_large_messages_max=5000)
    with pytest.raises(MessageTooLarge, match="broker_large_messages_max is 5000"):
        bench.app.send_many([bench.keep.s(BIG), bench.keep.s("x" * 6000)])
    assert bench.kept() == []
    assert bench.app.broker.depth("cloudq").total == 0


def test_a_batch_uploads_side_by_side_and_keeps_its_order(bench: Bench) -> None:
    values = [f"{n}" + (BIG if n % 2 else "") for n in range(40)]
    bench.app.send_many([bench.keep.s(value) for value in values])
    assert len(bench.kept()) == 20
    while bench.step():
        pass
    assert bench.ran == values
    assert bench.kept() == []


def test_a_retry_has_a_text_of_its_own(bench: Bench) -> None:
    """The message of the first try is acknowledged, and its text removed, after the second was sent."""
    result = bench.again.delay(BIG)
    [first] = bench.receive()
    assert bench.lifecycle.run(first, NoWatch()) == Ack()
    assert len(bench.kept()) == 2
    bench.acknowledge(first)
    assert len(bench.kept()) == 1
    bench.clock.advance(6)
    assert bench.step() == [Ack()]
    assert result.get(timeout=0) == 3000
    assert bench.kept() == []


def test_a_message_given_back_keeps_its_text(bench: Bench) -> None:
    bench.keep.delay(BIG)
    [delivery] = bench.receive()
    bench.app.broker.release([delivery])
    assert bench.step() == [Ack()]
    assert bench.ran == [BIG]


def test_a_worker_that_dies_after_the_acknowledgement_leaves_an_orphan_and_nothing_else(bench: Bench) -> None:
    bench.keep.delay(BIG)
    [delivery] = bench.receive()
    bench.lifecycle.run(delivery, NoWatch())
    bench.app.broker.ack([delivery])
    assert len(bench.kept()) == 1
    bench.clock.advance(31 * 86400)
    assert bench.kept() == []  # expired


def test_a_sender_that_dies_before_sending_leaves_an_orphan_and_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.app.broker, "send", die)
    with pytest.raises(KeyboardInterrupt):
        bench.keep.delay(BIG)
    assert len(bench.kept()) == 1
    assert bench.app.broker.depth("cloudq").total == 0


def test_a_copy_of_a_message_that_was_settled_is_dropped(bench: Bench) -> None:
    """A send whose reply was lost is sent again, with the same reference."""
    bench.keep.delay(BIG)
    [first] = bench.receive()
    bench.app.broker.send("cloudq", [Message(first.body)])
    assert bench.lifecycle.run(first, NoWatch()) == Ack()
    bench.acknowledge(first)
    assert bench.kept() == []
    assert bench.step() == [Ack()]
    assert bench.ran == [BIG]
    assert bench.app.broker.depth("cloudq-dlq").total == 0


def test_a_copy_of_an_earlier_try_is_dropped(bench: Bench) -> None:
    bench.again.delay(BIG)
    [first] = bench.receive()
    bench.app.broker.send("cloudq", [Message(first.body)])
    assert bench.lifecycle.run(first, NoWatch()) == Ack()
    bench.acknowledge(first)
    assert bench.step() == [Ack()]
    bench.clock.advance(6)
    assert bench.step() == [Ack()]


def test_a_text_that_is_gone_without_a_record_is_buried(bench: Bench) -> None:
    bench.keep.delay(BIG)
    [delivery] = bench.receive()
    bench.claims.forget([delivery.body])
    assert bench.kept() == []
    bench.app.broker.release([delivery])
    [verdict] = bench.step()
    assert isinstance(verdict, Bury)
    assert verdict.reason == "payload_missing"
    assert "is not there" in verdict.detail
    assert bench.app.broker.depth("cloudq-dlq").total == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"uri": "s3://elsewhere/messages/0"}, "payload_refused"),
        ({"size": 10_000_000_000}, "payload_refused"),
        ({"sha256": "0" * 64}, "payload_damaged"),
        ({"size": 3}, "payload_damaged"),
        ({"size": -1}, "undecodable"),
        ({"sha256": "F" * 64}, "undecodable"),
        ({"uri": 7}, "undecodable"),
    ],
)
def test_a_forged_reference_is_buried_with_the_reason(
    bench: Bench, change: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.keep.delay(BIG)
    [delivery] = bench.receive()
    body = json.loads(delivery.body)
    body["ref"].update(change)
    if reason != "payload_damaged":
        monkeypatch.setattr(bench.place, "get", lambda *args: pytest.fail("it was fetched"))
    verdict = bench.lifecycle.run(delivery.with_(body=json.dumps(body)), NoWatch())
    assert isinstance(verdict, Bury)
    assert verdict.reason == reason
    assert bench.ran == []


@pytest.mark.parametrize(
    "text",
    [
        "not JSON",
        "[]",
        '{"task": "other", "args": []}',
        '{"task": "keep", "id": "another", "args": ["x"]}',
        '{"signed": "x", "signature": {}}',
    ],
)
def test_a_text_that_is_not_the_announced_message_is_buried(bench: Bench, text: str) -> None:
    ref = bench.claims.store(text)
    body = json.dumps({"task": "keep", "id": "T", "ref": ref.plain()})
    bench.app.broker.send("cloudq", [Message(body)])
    [verdict] = bench.step()
    assert isinstance(verdict, Bury)
    assert verdict.reason == "undecodable"
    assert bench.ran == []


def test_a_reference_to_a_reference_is_not_followed(bench: Bench) -> None:
    inner = bench.claims.store('{"task": "keep", "args": ["x"]}')
    outer = bench.claims.store(json.dumps({"task": "keep", "ref": inner.plain()}))
    bench.app.broker.send("cloudq", [Message(json.dumps({"task": "keep", "ref": outer.plain()}))])
    [verdict] = bench.step()
    assert isinstance(verdict, Bury)
    assert "points on" in verdict.detail


def test_the_smallest_large_message_of_another_language(bench: Bench) -> None:
    ref = bench.claims.store('{"task": "keep", "args": ["hello"]}')
    bench.app.broker.send("cloudq", [Message(json.dumps({"task": "keep", "ref": ref.plain()}))])
    [delivery] = bench.receive()
    bench.app.broker.release([delivery])
    assert bench.step() == [Ack()]
    assert bench.app.AsyncResult(delivery.message_id).get(timeout=0) == 5
    assert bench.kept() == []


def test_an_app_without_a_place_buries_and_names_the_setting(bench: Bench) -> None:
    bench.keep.delay(BIG)
    [delivery] = bench.receive()
    other = Bench(broker_large_messages=None, broker_large_messages_over=None)
    verdict = other.lifecycle.run(delivery, NoWatch())
    assert isinstance(verdict, Bury)
    assert verdict.reason == "payload_refused"
    assert "set broker_large_messages" in verdict.detail


def test_an_outage_gives_the_message_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.keep.delay(BIG)
    tries: list[int] = []

    def away(*args: Any) -> Any:
        tries.append(1)
        raise ServiceUnavailable("S3: 503")

    with monkeypatch.context() as patch:
        patch.setattr(bench.place, "get", away)
        assert bench.step() == [Release(30.0)]
    assert len(tries) > 10  # for worker_settle_timeout it is waited out where it is
    bench.clock.advance(31)
    assert bench.step() == [Ack()]
    assert bench.ran == [BIG]


def test_sending_waits_out_an_outage_of_the_place(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    put, fails = bench.place.put, iter([True, True])

    def flaky(*args: Any) -> None:
        if next(fails, False):
            raise ServiceUnavailable("S3: 503")
        put(*args)

    monkeypatch.setattr(bench.place, "put", flaky)
    bench.keep.delay(BIG)
    assert bench.step() == [Ack()]


def test_what_cannot_be_kept_is_not_sent_and_the_rest_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: Any) -> None:
        raise ServiceUnavailable("S3: 503")

    monkeypatch.setattr(bench.place, "put", away)
    with pytest.raises(ServiceUnavailable, match="503"):
        bench.keep.delay(BIG)
    with pytest.raises(SendError) as caught:
        bench.app.send_many([bench.keep.s("a"), bench.keep.s(BIG), bench.keep.s("c")])
    assert list(caught.value.failures) == [1]
    bench.step()
    assert bench.ran == ["a", "c"]


def test_a_removal_that_fails_is_left_to_the_lifecycle_rule(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*args: Any) -> None:
        raise ServiceUnavailable("S3: 503")

    monkeypatch.setattr(bench.place, "remove", away)
    bench.keep.delay(BIG)
    assert bench.step() == [Ack()]
    assert len(bench.kept()) == 1
    assert "left to the lifecycle rule" in caplog.text


def test_early_acknowledgement_removes_the_text_once_it_was_read() -> None:
    bench = Bench(task_acks_late=False)
    bench.keep.delay(BIG)
    assert bench.step() == [Ack(already=True)]
    assert bench.ran == [BIG]
    assert bench.kept() == []


def test_what_was_not_acknowledged_keeps_its_text(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's own part: refused acknowledgements may mean that the message comes again."""
    from cloudq.brokers.base import Refused
    from cloudq.runtime.heartbeat import Leases

    bench.app.send_many([bench.keep.s(BIG), bench.keep.s(BIG)])
    first, second = bench.receive()
    ack = bench.app.broker.ack

    def half(deliveries: list[Delivery]) -> list[Refused]:
        ack([each for each in deliveries if each is not second])
        return [
            Refused(each, "ReceiptHandleIsInvalid", "stale", True) for each in deliveries if each is second
        ]

    monkeypatch.setattr(bench.app.broker, "ack", half)
    leases = Leases(bench.app.broker, bench.clock, lambda delivery: None)
    leases.add([first, second])
    disposal = Disposal(bench.app.broker, leases, bench.claims.forget)
    disposal._ack("cloudq", [first, second])
    kept = ref_of(second.body)
    assert kept is not None
    assert bench.kept() == ["messages/" + kept.uri.removeprefix(bench.claims.url)]


def test_a_lost_process_is_judged_with_the_whole_message(bench: Bench) -> None:
    result = bench.keep.apply_async((BIG,), link_error=bench.keep.s())
    [delivery] = bench.receive()
    verdict = bench.lifecycle.lost(delivery.with_(receive_count=5), Died("killed by SIGKILL"))
    assert isinstance(verdict, Bury)
    assert verdict.reason == "worker_lost"
    assert result.failed()
    assert len(bench.kept()) == 1


def test_signatures_cover_the_reference() -> None:
    bench = Bench(security_keys={"k": "0123456789abcdef"}, security_required=True)
    bench.keep.delay(BIG)
    [delivery] = bench.receive()
    outer = json.loads(delivery.body)
    assert json.loads(outer["signed"])["ref"]["uri"].startswith("memory://")
    forged = bench.claims.store('{"task": "keep", "args": ["evil"]}')
    inner = {**json.loads(outer["signed"]), "ref": forged.plain()}
    for body in (json.dumps(inner), json.dumps({**outer, "signed": json.dumps(inner)})):
        verdict = bench.lifecycle.run(delivery.with_(body=body), NoWatch())
        assert isinstance(verdict, Bury)
        assert verdict.reason == SignatureInvalid.reason
    assert bench.lifecycle.run(delivery, NoWatch()) == Ack()
    bench.acknowledge(delivery)
    assert bench.ran == [BIG]
    assert len(bench.kept()) == 1


def test_pickled_arguments_elsewhere_are_vouched_for_by_the_signature() -> None:
    bench = Bench(
        security_keys={"k": "0123456789abcdef"}, task_serializer="pickle", accept_content=["pickle", "json"]
    )
    bench.keep.delay(BIG)
    assert bench.step() == [Ack()]
    assert bench.ran == [BIG]


def test_a_text_that_waits_long_is_kept_longer(bench: Bench) -> None:
    soon = bench.claims.store("soon")
    later = bench.claims.store("later", due=bench.clock.time() + 60 * 86400)
    bench.clock.advance(61 * 86400)
    assert bench.claims.load(later) == "later"
    with pytest.raises(PayloadMissing):
        bench.claims.load(soon)


def test_a_large_task_that_waits_for_weeks_hops_with_a_text_of_its_own_each_time(bench: Bench) -> None:
    bench.keep.apply_async((BIG,), countdown=40 * 86400)
    for _ in range(42):
        bench.clock.advance(86400)
        bench.step()
        assert len(bench.kept()) <= 1
    assert bench.ran == [BIG]
    assert bench.kept() == []


def test_a_place_one_moves_away_from_is_still_read(tmp_path: Path) -> None:
    old, new = f"file:///{tmp_path}/old", f"file:///{tmp_path}/new"
    before = Bench(broker_large_messages=old)
    before.keep.delay(BIG)
    [delivery] = before.receive()
    after = Bench(broker_large_messages=new, broker_large_messages_also_read=[old])
    assert after.lifecycle.run(delivery, NoWatch()) == Ack()
    after.claims.forget([delivery.body])
    after.app.close()
    assert not list(Path(tmp_path, "old").rglob("*.doc"))


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="not in tiers"):
        _ = Bench(broker_large_messages="memory://+s3://bucket")
    nowhere: dict[str, Any] = {"broker_large_messages": None, "broker_large_messages_over": None}
    with pytest.raises(ImproperlyConfigured, match="also_read needs broker_large_messages"):
        _ = Bench(**nowhere, broker_large_messages_also_read=["s3://b"])
    with pytest.raises(ImproperlyConfigured, match="over needs broker_large_messages"):
        _ = Bench(broker_large_messages=None)
    with pytest.raises(ImproperlyConfigured, match="at least 1"):
        _ = Bench(broker_large_messages_over=0)


def test_calls_made_here_and_now_need_no_place(bench: Bench) -> None:
    assert bench.keep.apply(("x" * 2_000_000,)).get() == 2_000_000
    assert bench.kept() == []


# --- dead letters -----------------------------------------------------------------------------------


def _buried(bench: Bench) -> DeadLetters:
    bench.keep.delay(BIG)
    [delivery] = bench.receive()
    bench.app.broker.bury(delivery, "unknown_task", "")
    return DeadLetters(bench.app.broker, "cloudq", wait=0.0, claims=bench.claims)


def test_a_dead_letter_is_shown_whole_and_runs_when_sent_back(bench: Bench) -> None:
    letters = _buried(bench)
    [letter] = letters.peek(9)
    assert letter.task == "keep"
    assert json.loads(letters.text(letter))["args"] == [BIG]
    assert letters.redrive() == 1
    assert len(bench.kept()) == 1
    assert bench.step() == [Ack()]
    assert bench.ran == [BIG]
    assert bench.kept() == []


def test_an_edited_dead_letter_is_kept_anew(bench: Bench) -> None:
    letters = _buried(bench)

    def edit(text: str) -> str:
        return json.dumps({**json.loads(text), "args": ["y" * 4000]})

    assert letters.redrive(edit=edit) == 1
    assert len(bench.kept()) == 1
    assert bench.step() == [Ack()]
    assert bench.ran == ["y" * 4000]
    assert bench.kept() == []


def test_a_signed_dead_letter_is_not_edited() -> None:
    bench = Bench(security_keys={"k": "0123456789abcdef"})
    letters = _buried(bench)
    with pytest.raises(Unsupported, match="is signed"):
        letters.redrive(edit=lambda text: text)
    assert len(letters.peek(9)) == 1
    assert letters.redrive() == 1
    assert bench.step() == [Ack()]
    assert bench.ran == [BIG]


def test_purging_dead_letters_removes_their_texts(bench: Bench) -> None:
    letters = _buried(bench)
    assert letters.purge() == 1
    assert bench.kept() == []
    assert letters.peek(9) == []


def test_an_unforeseen_error_of_the_place_buries_no_message(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench.keep.delay(BIG)

    def broken(key: str) -> None:
        raise ValueError("a library's own")

    with monkeypatch.context() as patched:
        patched.setattr(bench.place._backend, "read", broken)
        [verdict] = bench.step()
    assert isinstance(verdict, Release)
    assert "failed in a way nobody foresaw" in caplog.text

    bench.clock.advance(3600)
    assert bench.step() == [Ack()]
    assert bench.ran == [BIG]
    assert bench.kept() == []
