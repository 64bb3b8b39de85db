"""Stamps on workflows: given by name, by visitors, merged, seen by runs and by revoke."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cloudq import CloudQ, StampingVisitor, chain, chord, group
from cloudq.errors import TaskRevokedError
from cloudq.testing import Sandbox, sandbox


class Bench:
    def __init__(self, app: CloudQ, box: Sandbox) -> None:
        self.app = app
        self.box = box
        self.seen: list[tuple[str, dict[str, Any]]] = []

        @app.task(name="look", bind=True)
        def look(task: Any, *args: Any) -> Any:
            self.seen.append((str(args[-1]), dict(task.request.stamps)))
            assert task.request.stamped_headers == sorted(task.request.stamps)
            return args[-1]

        @app.task(name="fail")
        def fail(*args: Any) -> None:
            raise ValueError

        self.look, self.fail = look, fail


@pytest.fixture
def bench() -> Iterator[Bench]:
    app = CloudQ("stamps", broker="memory://", backend="memory://")
    with sandbox(app) as box:
        yield Bench(app, box)
    app.close()


def test_a_stamp_is_on_every_call_of_a_workflow(bench: Bench) -> None:
    look = bench.look
    made = chord([look.s("a") | look.s("b"), look.s("c")], look.s("body") | look.s("after"))
    made.stamp(tenant="x").delay()
    look.s("single").set(link=look.s("linked")).stamp(tenant="x").delay()
    bench.fail.s().on_error(look.si("errback")).stamp(tenant="x").delay()
    group(look.s(n) for n in range(3)).stamp(tenant="x").delay()
    bench.box.drain()

    assert sorted(name for name, _ in bench.seen) == sorted(
        ["a", "b", "c", "body", "after", "single", "linked", "errback", "0", "1", "2"]
    )
    assert all(stamps == {"tenant": "x"} for _, stamps in bench.seen)


def test_a_visitor_says_what_to_stamp_where(bench: Bench) -> None:
    class Visitor(StampingVisitor):
        def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
            return {"task": sig.task}

        def on_group_start(self, sig: Any, **headers: Any) -> dict[str, Any]:
            return {"in_group": True}

        def on_chain_start(self, sig: Any, **headers: Any) -> dict[str, Any]:
            return {"in_chain": True}

        def on_chord_body(self, sig: Any, **headers: Any) -> dict[str, Any]:
            return {"is_body": True}

        def on_callback(self, callback: Any, **headers: Any) -> dict[str, Any]:
            return {"is_callback": True}

    look = bench.look
    made = chain(look.s("first").set(link=look.s("cb")), chord([look.s("member")], look.s("body")))
    made.stamp(Visitor()).delay()
    bench.box.drain()

    assert dict(bench.seen) == {
        "first": {"task": "look", "in_chain": True},
        "cb": {"task": "look", "in_chain": True, "is_callback": True},
        "member": {"task": "look", "in_chain": True, "in_group": True},
        "body": {"task": "look", "in_chain": True, "in_group": True, "is_body": True},
    }


def test_later_stamps_replace_or_are_appended(bench: Bench) -> None:
    look = bench.look
    look.s("last").stamp(a=1).stamp(a=2, b=3).delay()
    look.s("both").stamp(a=1).stamp(append_stamps=True, a=2).stamp(append_stamps=True, a=2).delay()
    bench.box.drain()

    assert dict(bench.seen) == {"last": {"a": 2, "b": 3}, "both": {"a": [1, 2]}}


def test_a_visitor_may_give_headers_that_are_no_stamps(bench: Bench) -> None:
    class Visitor(StampingVisitor):
        def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
            return {"mine": 1, "plain": 2, "stamped_headers": ["mine"]}

    sig = bench.look.s("x").stamp(Visitor(), tenant="t")

    assert sig.options["headers"] == {
        "stamps": {"mine": 1, "tenant": "t"},
        "stamped_headers": ["mine", "tenant"],
        "plain": 2,
    }


def test_what_replaces_a_task_keeps_its_stamps(bench: Bench) -> None:
    @bench.app.task(name="becomes", bind=True)
    def becomes(self: Any) -> Any:
        return self.replace(bench.look.s("replaced"))

    becomes.s().stamp(tenant="x").delay()
    bench.box.drain()

    assert bench.seen == [("replaced", {"tenant": "x"})]


def test_a_workflow_is_revoked_by_its_stamp(bench: Bench) -> None:
    look = bench.look
    made = chain(look.s("a"), look.s("b")).stamp(tenant="bad").delay()
    other = look.s("c").stamp(tenant="good").delay()
    bench.app.control.revoke_by_stamped_headers({"tenant": ["bad"]})
    bench.box.clock.advance(60)
    bench.box.drain()

    with pytest.raises(TaskRevokedError):
        made.get(timeout=0)
    assert other.get(timeout=0) == "c"
