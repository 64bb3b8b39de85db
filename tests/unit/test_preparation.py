"""What a call is sent with, call after call: what is remembered of a task follows its settings at once."""

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cloudq import CloudQ, ids
from cloudq.context import Request, running
from cloudq.errors import ImproperlyConfigured
from cloudq.message import Envelope
from cloudq.serializers.fields import moment_text
from cloudq.testing.clock import ManualClock


@pytest.fixture
def app() -> CloudQ:
    made = CloudQ("shop", backend="disabled://", task_default_queue="default", clock=ManualClock())

    @made.task(name="add")
    def add(x: int = 0) -> int:
        return x

    return made


def queue_of(app: CloudQ, name: str = "add", **options: Any) -> str:
    return app.producer.prepare(name, (), None, options).queue


def test_a_setting_that_changes_holds_from_the_next_call_on(app: CloudQ) -> None:
    assert queue_of(app) == "default"
    app.conf.task_default_queue = "other"
    assert queue_of(app) == "other"
    app.conf.task_publish_retry = False
    assert app.producer.prepare("add", (), None, {}).retry is False


def test_routes_that_change_hold_from_the_next_call_on(app: CloudQ) -> None:
    assert queue_of(app) == "default"
    app.conf.task_routes = {"a*": "routed"}
    assert queue_of(app) == "routed"
    assert queue_of(app, "other") == "default"
    app.conf.task_routes = {"a*": {"queue": "urgent", "ignore_result": True}}
    assert queue_of(app) == "urgent"
    assert app.producer.prepare("add", (), None, {}).envelope.headers == {"cloudq-ignore-result": True}
    app.conf.task_routes = None
    assert queue_of(app) == "default"


def test_a_router_is_asked_about_every_call(app: CloudQ) -> None:
    answers = iter(["one", "two", "three"])
    app.conf.task_routes = lambda name: next(answers)
    assert [queue_of(app) for _ in range(3)] == ["one", "two", "three"]


def test_a_task_whose_option_changes_is_sent_as_it_says_now(app: CloudQ) -> None:
    assert queue_of(app) == "default"
    app.tasks["add"].queue = "mine"
    assert queue_of(app) == "mine"
    app.tasks["add"].expires = 60.0
    assert app.producer.prepare("add", (), None, {}).envelope.expires == app.clock.time() + 60.0
    app.tasks["add"].expires = None
    assert app.producer.prepare("add", (), None, {}).envelope.expires is None


def test_priorities_that_are_turned_on_hold_from_the_next_call_on(app: CloudQ) -> None:
    assert queue_of(app) == "default"
    app.conf.task_queue_priorities = {"default": ["-high", "", "-low"]}
    app.conf.task_default_priority = 9
    assert queue_of(app) == "default-high"
    app.conf.task_queue_priorities["default"] = ["-top", "", "-low"]  # in place, which nobody is told of
    assert queue_of(app) == "default-top"


def test_what_a_block_of_using_has_set_is_over_with_it(app: CloudQ) -> None:
    assert queue_of(app) == "default"
    producer = app.producer
    before = app.conf.snapshot()
    app.conf.task_default_queue = "inner"
    assert producer.prepare("add", (), None, {}).queue == "inner"
    app.conf.restore(before)
    assert producer.prepare("add", (), None, {}).queue == "default"


def test_a_calls_own_options_leave_no_trace_in_the_next_call(app: CloudQ) -> None:
    first = app.producer.prepare(
        "add", (1,), {"y": 2}, {"queue": "q", "headers": {"a": 1}, "countdown": 5, "task_id": "mine"}
    )
    assert (first.queue, first.delay, first.envelope.id) == ("q", 5.0, "mine")
    plain = app.producer.prepare("add", (), None, {})
    assert (plain.queue, plain.delay, plain.envelope.eta) == ("default", 0.0, None)
    assert plain.envelope.headers == {}
    assert plain.envelope.kwargs == {}
    assert plain.envelope.id != "mine"


def test_headers_of_one_call_are_not_those_of_another(app: CloudQ) -> None:
    """Listeners of before_publish add to them: a trace's id must not end up in other calls."""
    app.conf.task_routes = {"add": {"ignore_result": True, "headers": {"team": "a"}}}
    one, other = (app.producer.prepare("add", (), None, {}).envelope for _ in range(2))
    assert isinstance(one.headers, dict)
    assert isinstance(one.kwargs, dict)
    one.headers["trace"] = "1"
    one.kwargs["x"] = 1
    assert "trace" not in other.headers
    assert other.kwargs == {}
    assert app.producer.prepare("add", (), None, {}).envelope.headers == other.headers


def test_a_call_from_inside_a_task_names_its_parent_and_root(app: CloudQ) -> None:
    with running(Request(id="parent", task="t", root_id="root", headers={"cloudq-reply-to": "replies"})):
        inner = app.producer.prepare("add", (), None, {}).envelope
    assert (inner.parent_id, inner.root_id) == ("parent", "root")
    assert inner.headers == {"cloudq-reply-to": "replies"}
    outer = app.producer.prepare("add", (), None, {}).envelope
    assert (outer.parent_id, outer.root_id, outer.headers) == (None, outer.id, {})


def test_a_wrong_setting_is_told_at_each_call(app: CloudQ) -> None:
    app.conf.result_push = True
    for _ in range(2):
        with pytest.raises(ImproperlyConfigured, match="result_push_queue"):
            app.producer.prepare("add", (), None, {})


def test_names_from_anywhere_do_not_fill_the_memory(app: CloudQ) -> None:
    for n in range(2_500):
        assert queue_of(app, f"name-{n}") == "default"
    assert len(app.producer._preparation._plans) <= 1_000


def test_an_envelope_does_not_change() -> None:
    envelope = Envelope(task="t")
    with pytest.raises(AttributeError):
        envelope.task = "other"  # type: ignore[misc]
    assert envelope.with_(retries=2) == Envelope(task="t", retries=2) != envelope


@given(st.floats(-62_135_596_800, 253_402_300_799) | st.floats(-3, 3) | st.floats(1.7e9, 1.8e9))
@example(0.0)
@example(1_790_000_000.999_999_9)
@example(-0.000_000_4)
@example(-0.25)
def test_a_moments_text_is_what_datetime_writes(seconds: float) -> None:
    assert moment_text(seconds) == f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:-6]}Z"


def test_new_ids_are_random_uuids() -> None:
    found = [uuid.UUID(ids.new_id()) for _ in range(2_000)]
    assert len(set(found)) == len(found)
    assert {(each.version, each.variant) for each in found} == {(4, uuid.RFC_4122)}
    free = [
        sum(each.int >> bit & 1 for each in found)
        for bit in range(128)
        if bit not in (62, 63, 76, 77, 78, 79)
    ]
    assert all(0 < count < len(found) for count in free)  # no other bit is always the same
