"""Beat: each slot sent once, by whoever leads; what dies in the middle is taken over."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cloudq import CloudQ, crontab
from cloudq.backends.base import ResultBackend
from cloudq.beat.beat import Beat
from cloudq.beat.book import Book
from cloudq.beat.embedded import Embedded
from cloudq.beat.marks import Marks
from cloudq.beat.ticker import Ticker, send_now, tick_id
from cloudq.brokers.sqlite import SqliteBroker
from cloudq.errors import ImproperlyConfigured, QueueNotFound, ScheduleError, ServiceUnavailable
from cloudq.message import NAME_HEADER
from cloudq.periodic import SLOT_HEADER
from cloudq.runtime.verdict import ACK
from cloudq.testing.clock import JumpingClock
from cloudq.testing.stores import Crashing, Flaky, MemoryStore, SimulatedCrash, at_step

T0 = 1_800_000_000.0


class World:
    """One queue, one store, one clock; any number of apps on them, as in as many processes."""

    def __init__(self) -> None:
        self.clock = JumpingClock(T0)
        self.store = MemoryStore(self.clock)
        self.broker = SqliteBroker(None, self.clock)
        self.sent: list[tuple[float, str, dict[str, Any]]] = []
        self.ran: list[int] = []

    def app(self, store: ResultBackend | None = None, **schedule: Any) -> CloudQ:
        app = CloudQ("world", broker=self.broker, backend=store or self.store, clock=self.clock)
        app.conf.beat_schedule = schedule

        @app.task(name="work")
        def work(x: int = 0) -> int:
            self.ran.append(x)
            return x

        def note(envelope: Any, **_: Any) -> None:
            self.sent.append((self.clock.time(), envelope.id, dict(envelope.headers)))

        app.hooks.on("task_sent", note)
        return app

    @property
    def slots(self) -> list[float]:
        return [headers[SLOT_HEADER] for _, _, headers in self.sent]

    @property
    def ids(self) -> list[str]:
        return [task_id for _, task_id, _ in self.sent]


@pytest.fixture
def world() -> Iterator[World]:
    found = World()
    yield found
    found.broker.close()


def minutely(**more: Any) -> dict[str, Any]:
    return {"task": "work", "schedule": 60, **more}


def test_a_tick_sends_what_is_due_under_its_derived_id(world: World) -> None:
    ticker = Ticker(world.app(m=minutely(args=[3], options={"queue": "q"})))
    first = ticker.tick()
    world.clock.advance(61)

    ticked = ticker.tick()

    assert (first.sent, first.wake) == ([], T0 + 60)
    assert [(each.name, each.slot) for each in ticked.sent] == [("m", T0 + 60)]
    assert world.ids == [tick_id("world", "m", T0 + 60)]
    assert world.sent[0][2][NAME_HEADER] == "m"
    assert ticked.wake == T0 + 120
    [delivery] = world.broker.receive("q", 10, 0, 30)
    assert '"args":[3]' in delivery.body


def test_a_second_ticker_that_thinks_the_slot_is_due_sends_nothing_again(world: World) -> None:
    one, two = Ticker(world.app(m=minutely())), Ticker(world.app(m=minutely()))
    one.tick()
    two.tick()
    world.clock.advance(60)

    one.tick()
    assert two.tick().sent == []

    assert world.slots == [T0 + 60]


def test_missed_runs_are_made_up_for_once_by_the_policy(world: World) -> None:
    entries = {
        "l": minutely(),
        "a": minutely(catchup="all"),
        "s": {"task": "work", "schedule": 600, "catchup": "skip"},
    }
    Ticker(world.app(**entries)).tick()
    world.clock.advance(700)

    later = Ticker(world.app(**entries))
    later.tick()

    by_name = Counter(headers[NAME_HEADER] for _, _, headers in world.sent)
    assert by_name == {"l": 1, "a": 11}
    later.tick()
    assert len(world.sent) == 12


def test_skip_if_running_leaves_a_run_out_until_the_one_before_has_ended(world: World) -> None:
    app = world.app(m=minutely(skip_if_running=True))
    ticker = Ticker(app)
    ticker.tick()
    for _ in range(3):
        world.clock.advance(60)
        ticker.tick()
    assert world.slots == [T0 + 60]

    [delivery] = world.broker.receive("cloudq", 1, 0, 30)
    app.lifecycle("w").run(delivery, _watch())
    world.clock.advance(60)
    ticker.tick()

    assert world.slots == [T0 + 60, T0 + 240]


def test_a_run_that_never_ends_blocks_the_next_ones_only_so_long(world: World) -> None:
    ticker = Ticker(world.app(m=minutely(skip_if_running=150)))
    ticker.tick()
    for _ in range(6):
        world.clock.advance(60)
        ticker.tick()

    assert world.slots == [T0 + 60, T0 + 240]


def _watch() -> Any:
    from cloudq.execution.call import NoWatch

    return NoWatch()


def test_whoever_runs_a_run_that_was_sent_twice_does_so_once(world: World) -> None:
    app = world.app(m=minutely())
    ticker = Ticker(app)
    ticker.tick()
    world.clock.advance(60)
    ticker.tick()
    [(_, task_id, headers)] = world.sent
    app.send_task("work", task_id=task_id, headers=headers)

    lifecycle = app.lifecycle("w")
    for delivery in world.broker.receive("cloudq", 10, 0, 30):
        lifecycle.run(delivery, _watch())

    assert world.ran == [0]


def test_one_bad_entry_does_not_stop_the_others(world: World, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def next_after(self, moment: float, zone: object) -> float:
            raise ScheduleError("broken on purpose")

        def plain(self) -> dict[str, Any]:
            return {}

    ticker = Ticker(world.app(bad={"task": "work", "schedule": Broken()}, m=minutely()))
    ticker.tick()
    world.clock.advance(60)
    ticker.tick()
    ticker.tick()

    assert world.slots == [T0 + 60]
    assert len([each for each in caplog.records if "broken on purpose" in each.message]) == 1


def test_what_can_never_be_sent_is_lost_with_a_log_line_and_the_next_slot_is_tried(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    ticker = Ticker(world.app(m={"task": "elsewhere", "schedule": 60, "args": [object()]}))
    ticker.tick()
    world.clock.advance(60)
    ticker.tick()

    assert world.sent == []
    assert "is lost" in caplog.text
    ticker.tick()
    assert caplog.text.count("is lost") == 1


def test_while_the_broker_is_away_the_slot_waits_and_is_sent_when_it_is_back(world: World) -> None:
    app = world.app(m=minutely())
    ticker = Ticker(app)
    ticker.tick()
    world.clock.advance(60)
    send, away = world.broker.send, [True]

    def sometimes(queue: str, messages: Any) -> list[str]:
        if away[0]:
            raise ServiceUnavailable("away on purpose")
        return send(queue, messages)

    world.broker.send = sometimes  # type: ignore[method-assign]
    app.conf.task_publish_retry = False
    assert ticker.tick().sent == []
    away[0] = False
    ticker.tick()
    ticker.tick()

    assert world.slots == [T0 + 60]


def test_a_queue_that_is_missing_is_reported_and_tried_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    ticker = Ticker(world.app(m=minutely()))
    ticker.tick()
    world.clock.advance(60)

    def missing(queue: str, messages: Any) -> list[str]:
        raise QueueNotFound("no such queue")

    send, world.broker.send = world.broker.send, missing  # type: ignore[method-assign]
    ticker.tick()
    world.broker.send = send  # type: ignore[method-assign]
    ticker.tick()

    assert "no such queue" in caplog.text
    assert world.slots == [T0 + 60]


def test_namespaces_that_share_a_store_do_not_mix(world: World) -> None:
    apps = [world.app(m=minutely()) for _ in range(2)]
    apps[1].conf.control_namespace = "staging"
    both = [Beat(app) for app in apps]
    for each in both:
        each.step()
    world.clock.advance(60)
    for each in both:
        each.step()

    assert [each.leads for each in both] == [True, True]
    assert world.slots == [T0 + 60, T0 + 60]
    assert len(set(world.ids)) == 2


# --- changes at run time ------------------------------------------------------------------------------


def test_entries_added_paused_resumed_and_removed_at_run_time_are_heeded(world: World) -> None:
    from cloudq.schedules.entry import entry_from

    app = world.app(m=minutely())
    book, ticker = Book(app), Ticker(app)
    book.add(entry_from("stored", minutely(args=[7])))
    book.pause("m")
    world.clock.advance(60)
    ticker.tick()
    assert [headers[NAME_HEADER] for _, _, headers in world.sent] == ["stored"]

    world.clock.advance(30)
    book.resume("m")
    book.remove("stored")
    ticker.tick()
    assert len(world.sent) == 1  # what was due during the pause is not made up for
    world.clock.advance(30)
    ticker.tick()
    assert [headers[NAME_HEADER] for _, _, headers in world.sent] == ["stored", "m"]


def test_a_disabled_entry_is_not_sent_until_it_is_resumed(world: World) -> None:
    app = world.app(m=minutely(enabled=False))
    ticker = Ticker(app)
    ticker.tick()
    world.clock.advance(120)
    ticker.tick()
    assert world.sent == []

    Book(app).resume("m")
    world.clock.advance(60)
    ticker.tick()
    assert world.slots == [T0 + 180]


def test_the_book_refuses_what_cannot_be(world: World) -> None:
    from cloudq.schedules.entry import entry_from

    book = Book(world.app(m=minutely()))
    book.add(entry_from("x", minutely()))
    for call, says in [
        (lambda: book.add(entry_from("m", minutely())), "declared in code"),
        (lambda: book.add(entry_from("x", minutely())), "--replace"),
        (lambda: book.add(entry_from("y", minutely(args=[object()]))), "cannot be stored"),
        (lambda: book.add(entry_from("y", minutely(kwargs={"z": 1}))), "z"),
        (lambda: book.remove("m"), "declared in code"),
        (lambda: book.remove("z"), "no periodic task is called 'z'"),
        (lambda: book.pause("mm"), "did you mean 'm'"),
        (lambda: book.get("xx"), "did you mean 'x'"),
    ]:
        with pytest.raises(ScheduleError, match=says):
            call()
    book.add(entry_from("x", minutely(jitter=3)), replacing=True)
    assert book.get("x").entry.jitter == 3


def test_a_stored_entry_that_cannot_be_read_is_shown_and_does_not_stop_the_others(world: World) -> None:
    from cloudq.beat.names import key_of

    app = world.app(m=minutely())
    newer = b'{"entries": {"new": {"task": "t", "schedule": {"lunar": 1}}}}'
    world.store.write(key_of(app, "book"), newer)
    ticker = Ticker(app)
    ticker.tick()
    world.clock.advance(60)
    ticker.tick()

    assert "lunar" in Book(app).get("new").fault
    assert world.slots == [T0 + 60]


def test_run_now_sends_one_beside_the_schedule(world: World) -> None:
    app = world.app(m=minutely(args=[9]))

    first, second = send_now(app, Book(app).get("m").entry), send_now(app, Book(app).get("m").entry)

    assert first != second
    assert world.ids == [first, second]


def test_marks_of_entries_that_are_gone_are_dropped_after_a_month(world: World) -> None:
    from cloudq.beat.marks import Mark

    marks = Marks(world.app())
    marks.advance({"old": Mark(T0), "kept": Mark(T0)}, ["old", "kept"])
    world.clock.advance(31 * 86_400)
    marks.advance({"kept": Mark(T0 + 5)}, ["kept"])

    assert marks.get("old") is None
    assert marks.get("kept") == Mark(T0 + 5)


def test_when_the_marks_cannot_be_read_no_entry_is_taken_for_a_new_one(world: World) -> None:
    Ticker(world.app(m=minutely())).tick()
    world.clock.advance(60)

    def refused(moment: str, verb: str, key: str) -> bool:
        if key.endswith("/marks") and verb == "read" and moment == "before":
            raise ServiceUnavailable("refused on purpose")
        return False

    store = Crashing(world.store, refused)
    ticker = Ticker(world.app(store, m=minutely()))
    with pytest.raises(ServiceUnavailable):
        ticker.tick()
    store._dies = lambda *_: False
    ticker.tick()

    assert world.slots == [T0 + 60]


def test_marks_only_move_forward(world: World) -> None:
    from cloudq.beat.marks import Mark

    one, two = Marks(world.app()), Marks(world.app())
    one.advance({"m": Mark(T0 + 60, T0 + 60)}, ["m"])
    two.advance({"m": Mark(T0, None)}, ["m"])

    assert two.get("m") == Mark(T0 + 60, T0 + 60)


def test_without_a_results_store_beat_says_what_to_do() -> None:
    with pytest.raises(ImproperlyConfigured, match="schedule sync"):
        Beat(CloudQ("x", broker="memory://", backend="disabled://"))


def test_an_entry_whose_queue_answers_slowly_does_not_delay_the_others(world: World) -> None:
    others = threading.Semaphore(0)

    class Slow(SqliteBroker):
        def send(self, queue: str, messages: Any) -> list[str]:
            if queue == "slow":  # it answers once all others have been sent, or not in time
                assert all(others.acquire(timeout=30) for _ in range(11))
            found: list[str] = super().send(queue, messages)
            others.release(len(messages))
            return found

    world.broker.close()
    world.broker = Slow(None, world.clock)
    entries = {f"e{n:02}": minutely() for n in range(11)}
    ticker = Ticker(world.app(a=minutely(options={"queue": "slow"}), **entries))
    ticker.tick()
    world.clock.advance(60)
    assert [each.name for each in ticker.tick().sent] == ["a", *entries]
    world.clock.advance(1)
    assert ticker.tick().sent == []
    assert len(set(world.ids)) == 12


def test_a_death_amid_many_entries_sends_each_once_more_at_the_most_and_under_its_id(world: World) -> None:
    entries = {f"e{n}": minutely() for n in range(5)}
    Ticker(world.app(**entries)).tick()
    world.clock.advance(60)
    for step in range(1, 30):
        crashing = Crashing(world.store, at_step(step))
        try:
            Ticker(world.app(crashing, **entries)).tick()
        except SimulatedCrash:
            pass
    world.clock.advance(31)
    Ticker(world.app(**entries)).tick()
    assert set(world.ids) >= {tick_id("world", name, T0 + 60) for name in entries}
    assert {slot for slot in world.slots if slot <= T0 + 60} == {T0 + 60}


# --- many beats -----------------------------------------------------------------------------------------


def beats(world: World, count: int, schedule: dict[str, Any]) -> list[Beat]:
    return [Beat(world.app(**schedule), rand=Random(n).random) for n in range(count)]


def test_one_leads_and_another_takes_over_within_the_lease(world: World) -> None:
    one, two = beats(world, 2, {"m": minutely()})
    one.step()
    two.step()
    assert (one.leads, two.leads) == (True, False)

    world.clock.advance(20)  # the first one is dead
    two.step()
    assert not two.leads
    world.clock.advance(12)
    two.step()
    assert two.leads


def test_a_beat_that_is_stopped_gives_the_lease_back(world: World) -> None:
    one, two = beats(world, 2, {"m": minutely()})
    one.step()
    one._resign()
    two.step()

    assert two.leads


def test_one_that_wakes_up_after_it_was_replaced_sends_nothing_and_steps_down(world: World) -> None:
    one, two = beats(world, 2, {"m": minutely()})
    one.step()
    world.clock.advance(45)
    two.step()
    world.clock.advance(20)
    two.step()

    one.step()

    assert (one.leads, two.leads) == (False, True)
    assert world.slots == [T0 + 60]


def test_a_leader_that_cannot_renew_sends_until_its_lease_ends_and_nothing_after(world: World) -> None:
    away = [False]

    def refused(moment: str, verb: str, key: str) -> bool:
        if away[0] and verb == "write" and key.startswith("lock/"):
            raise ServiceUnavailable("refused on purpose")
        return False

    app = world.app(Crashing(world.store, refused), m={"task": "work", "schedule": 10, "catchup": "all"})
    beat = Beat(app, lease=100, rand=Random(1).random)
    beat.step()
    away[0] = True
    world.clock.advance(50)
    beat.step()
    assert world.slots == [T0 + n for n in (10, 20, 30, 40, 50)]

    world.clock.advance(60)
    beat.step()

    assert not beat.leads
    assert len(world.slots) == 5


def test_a_tick_that_takes_longer_than_the_lease_keeps_the_lead(world: World) -> None:
    entries = {f"e{n:02}": minutely() for n in range(50)}
    one, two = beats(world, 2, entries)
    one.app.hooks.on("task_sent", lambda **_: world.clock.advance(1.0))
    one.app.hooks.on("task_sent", lambda **_: two.step())
    one.step()
    world.clock.advance(60)

    one.step()

    assert (one.leads, two.leads) == (True, False)
    assert len(world.sent) == 50


def test_run_ends_soon_after_stop_and_returns_zero(world: World) -> None:
    [one] = beats(world, 1, {"m": minutely()})

    def stop(**_: Any) -> None:
        one.stop()

    one.app.hooks.on("task_sent", stop)

    assert one.run() == 0
    assert len(world.sent) == 1
    assert not one.leads


def test_dying_at_any_step_of_a_tick_loses_no_slot_and_sends_none_under_two_ids(world: World) -> None:
    for step in range(1, 60):
        fresh = World()
        schedule = {"a": minutely(catchup="all"), "b": {"task": "work", "schedule": crontab("*/2")}}
        doomed = Ticker(fresh.app(Crashing(fresh.store, at_step(step)), **schedule))
        died = False
        try:
            doomed.tick()
            fresh.clock.advance(120)
            doomed.tick()
        except SimulatedCrash:
            died = True
        begun = Marks(fresh.app())
        begun.load()
        first_seen = begun.get("a") is not None
        heir = Ticker(fresh.app(**schedule))
        for _ in range(3):
            heir.tick()
            fresh.clock.advance(35)
        sent = Counter(zip([h[NAME_HEADER] for _, _, h in fresh.sent], fresh.slots, strict=True))
        ids = {(h[NAME_HEADER], h[SLOT_HEADER]): task_id for _, task_id, h in fresh.sent}
        assert len(set(fresh.ids)) == len(ids)  # a slot never has two ids
        assert all(count <= 2 for count in sent.values())
        if first_seen and fresh.clock.time() >= T0 + 180:
            assert {("a", T0 + 60), ("a", T0 + 120)} <= set(sent), f"step {step}"
        fresh.broker.close()
        if not died:
            break
    assert not died  # every step was tried
    assert step > 15


def test_a_slot_is_sent_twice_only_when_its_sender_died_between_sending_and_saying_so(world: World) -> None:
    def after_the_send(moment: str, verb: str, key: str) -> bool:
        return moment == "before" and verb == "write" and "/once/" in key and bool(world.sent)

    doomed = Ticker(world.app(Crashing(world.store, after_the_send), m=minutely()))
    doomed.tick()
    world.clock.advance(60)
    with pytest.raises(SimulatedCrash):
        doomed.tick()
    assert len(world.sent) == 1
    app = world.app(m=minutely())
    [delivery] = world.broker.receive("cloudq", 1, 0, 30)
    app.lifecycle("w").run(delivery, _watch())

    heir = Ticker(app)
    heir.tick()
    assert len(world.sent) == 1  # the claim has not run out yet
    world.clock.advance(35)
    heir.tick()

    assert len(world.sent) == 1  # its record tells that it was sent
    assert heir._marks.get("m").last == T0 + 60  # type: ignore[union-attr]


def run_all(world: World, lifecycle: Any) -> None:
    """A worker takes and runs what is there."""
    while deliveries := world.broker.receive("cloudq", 10, 0, 30):
        for delivery in deliveries:
            assert lifecycle.run(delivery, _watch()) == ACK
        world.broker.ack(deliveries)


@pytest.mark.parametrize("seed", range(4))
def test_beats_racing_with_kills_for_sixty_minutes_send_each_slot_once(seed: int) -> None:
    """Three beats, each killed at random steps of the store and replaced, on a store that loses replies."""
    rng, world = Random(seed), World()
    schedule = {
        "every minute": minutely(),
        "every ten seconds": {"task": "work", "schedule": 10, "catchup": "all"},
        "quarters": {"task": "work", "schedule": crontab("*/15")},
        "jittered": minutely(catchup="all", jitter=40),
    }
    kills = 0

    def dies(moment: str, verb: str, key: str) -> bool:
        return rng.random() < 0.004

    def start() -> Beat:
        flaky = Flaky(world.store, rng, refused=0.01, lost=0.01)
        return Beat(world.app(Crashing(flaky, dies), **schedule), rand=rng.random)

    ran: Counter[tuple[str, float]] = Counter()
    worker = world.app()
    lifecycle = worker.lifecycle("w")
    worker.hooks.on(
        "task_prerun",
        lambda request, **_: ran.update([(request.headers[NAME_HEADER], request.headers[SLOT_HEADER])]),
    )
    running = [start() for _ in range(3)]
    wakes = [world.clock.time()] * 3
    first_seen = None
    while world.clock.time() < T0 + 3600 + 120:
        number = min(range(3), key=wakes.__getitem__)
        world.clock.advance(max(0.0, wakes[number] - world.clock.time()))
        try:
            wait = running[number].step()
        except SimulatedCrash:
            kills += 1
            running[number], wait = start(), rng.uniform(1, 60)
        if rng.random() < 0.01:
            wait += 90  # stopped for longer than its lease, then goes on as if nothing had been
        wakes[number] = world.clock.time() + max(wait, 0.05)
        run_all(world, lifecycle)
        if first_seen is None and running[number].leads:
            first_seen = world.clock.time()
    assert first_seen is not None
    sent = Counter((headers[NAME_HEADER], headers[SLOT_HEADER]) for _, _, headers in world.sent)
    ids = {(headers[NAME_HEADER], headers[SLOT_HEADER], task_id) for _, task_id, headers in world.sent}
    assert kills > 5
    begin = first_seen + 120  # until the first marks are surely written
    for name, step in (("every ten seconds", 10), ("jittered", 60)):
        slots = [T0 + n * step for n in range(1, 3600 // step) if T0 + n * step > begin]
        assert [slot for slot in slots if (name, slot) not in sent] == []
    assert len(ids) == len(sent)  # one id for each slot: whoever gets it twice knows
    assert set(ran) == set(sent)
    assert set(ran.values()) == {1}  # each slot was run once
    again = sum(sent.values()) - len(sent)
    assert again <= kills  # and sent twice only where somebody died or was stopped in the middle of it
    world.broker.close()


# --- inside a worker ------------------------------------------------------------------------------------


def test_a_beat_in_a_worker_beats_until_the_block_ends_and_gives_the_lease_back(tmp_path: Path) -> None:
    from threading import Event

    url = f"sqlite:///{tmp_path / 'b.db'}"
    sent = Event()
    with CloudQ("w", broker=url, backend=url, beat_schedule={"m": {"task": "work", "schedule": 1}}) as app:
        app.hooks.on("task_sent", lambda **_: sent.set())
        with Embedded(app):
            assert sent.wait(30)
        other = Beat(app)
        other.step()
        assert other.leads


def test_a_beat_in_a_worker_goes_on_after_an_error(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from threading import Event

    runs, again = [], Event()

    def run(self: Beat) -> int:
        runs.append(1)
        if len(runs) == 1:
            raise RuntimeError("broken on purpose")
        again.set()
        return 0

    monkeypatch.setattr(Beat, "run", run)
    app = world.app()
    app.conf.beat_lease = 0.01
    with Embedded(app):
        assert again.wait(30)
    assert "broken on purpose" in caplog.text


# --- real folders ---------------------------------------------------------------------------------------


def test_what_is_stored_is_there_for_the_next_process(tmp_path: Path) -> None:
    def app() -> CloudQ:
        url = f"sqlite:///{tmp_path / 'b.db'}"
        return CloudQ("files", broker=url, backend=url, clock=clock, beat_schedule={"m": minutely()})

    clock = JumpingClock(T0)
    make: Callable[[], CloudQ] = app
    with make() as first:
        Ticker(first).tick()
        Book(first).pause("m")
    clock.advance(60)
    with make() as second:
        ticker = Ticker(second)
        assert ticker.tick().sent == []
        Book(second).resume("m")
        clock.advance(60)
        assert [each.slot for each in ticker.tick().sent] == [T0 + 120]
