"""Workflows: what is refused, ids, results, callbacks, and what a worker does about each end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from cloudq import CloudQ, chain, chord, group, maybe_signature, signature
from cloudq.errors import ChordError, ImproperlyConfigured, NotRegistered, Unsupported
from cloudq.results.record import Record
from cloudq.testing import Sandbox, sandbox


class Oops(Exception):
    pass


class Bench:
    def __init__(self, app: CloudQ, box: Sandbox) -> None:
        self.app = app
        self.box = box
        self.ran: list[Any] = []

        @app.task(name="add")
        def add(x: Any, y: Any) -> Any:
            return x + y

        @app.task(name="total")
        def total(values: Any) -> Any:
            self.ran.append(("total", values))
            return sum(values)

        @app.task(name="note")
        def note(*args: Any) -> None:
            self.ran.append(args)

        @app.task(name="fail")
        def fail(*args: Any) -> None:
            raise Oops("broken")

        @app.task(name="who", bind=True)
        def who(self: Any, *args: Any) -> Any:
            r = self.request
            return [r.id, r.group, r.group_index, r.root_id, r.parent_id]

        self.add, self.total, self.note, self.fail, self.who = add, total, note, fail, who


@pytest.fixture
def bench() -> Iterator[Bench]:
    app = CloudQ("canvas", broker="memory://", backend="memory://")
    with sandbox(app) as box:
        yield Bench(app, box)
    app.close()


# --- refused at the call ----------------------------------------------------------------------------


def test_bad_workflows_are_refused_before_anything_is_sent(bench: Bench) -> None:
    add, total = bench.add, bench.total
    looped = add.s(1, 2)
    looped.link(looped)
    for make, says in (
        (lambda: chord([add.s(1, 1), 2], total.s())(), "signature is expected"),
        (lambda: chord(7, total.s())(), "signatures are expected"),
        (lambda: group("add")(), "signatures are expected"),
        (lambda: chord([add.s(1, 1)])(), "needs a body"),
        (lambda: chain(add.s(1, 1), looped)(), "contains itself"),
        (lambda: looped.delay(), "contains itself"),
        (lambda: group(add.s(1, 1)).apply_async(link=total.s()), "takes no link"),
        (lambda: bench.add.chunks([(1, 1)], 0), "n is a number of items"),
        (lambda: signature({"task": "x", "subtask_type": "ring"}), "subtask_type"),
        (lambda: signature(5), "a signature is expected"),
        (lambda: bench.app.send_many([chain(add.s(1, 1), add.s(1))]), "not a chain"),
        (lambda: group().delay(), "belongs to no app"),
    ):
        with pytest.raises(ImproperlyConfigured, match=says):
            make()
    with pytest.raises(TypeError, match="no option 'quueue'"):
        chain(add.s(1, 1), add.s(1).set(quueue="x"))()
    assert bench.box.sent == []


def test_a_callback_of_a_task_that_is_not_known_here_is_refused_unless_it_is_addressed(bench: Bench) -> None:
    unknown = bench.app.signature("totl")
    for make in (
        lambda: bench.add.apply_async((1, 1), link=unknown),
        lambda: bench.add.apply_async((1, 1), link_error=[unknown]),
        lambda: chain(bench.add.s(1, 1).on_error(unknown), bench.add.s(1))(),
        lambda: group(bench.add.s(1, 1).on_error(unknown)).delay(),
        lambda: bench.app.send_many([bench.add.s(1, 1).on_error(unknown)]),
    ):
        with pytest.raises(NotRegistered, match="nearest known is 'total'"):
            make()
    assert bench.box.sent == []

    bench.add.apply_async((1, 1), link=bench.app.signature("other.service").set(queue="theirs"))

    assert len(bench.box.sent) == 1


def test_a_chord_needs_a_store_that_can_join() -> None:
    app = CloudQ("x", broker="memory://", backend="disabled://")

    @app.task(name="f")
    def f(*args: Any) -> None: ...

    with pytest.raises(ImproperlyConfigured, match="needs a results store"):
        chord([f.s()], f.s())()
    group(f.s(), f.s())()  # nothing is joined here

    class Weak:
        url = "weak://"
        capabilities = type("C", (), {"conditional": False})()

    weak: Any = Weak()
    app = CloudQ("y", broker="memory://", backend=weak)
    f = app.task(name="f")(lambda *args: None)
    with pytest.raises(Unsupported, match="conditional writes"):
        chord([f.s()], f.s())()


# --- signatures -------------------------------------------------------------------------------------


def test_a_workflow_is_json_and_back(bench: Bench) -> None:
    made = chord([bench.add.s(1, 1) | bench.add.s(2), bench.add.s(5, y=5)], bench.total.s() | bench.add.s(1))
    again = bench.app.signature(json.loads(json.dumps(made)))

    assert isinstance(again, chord)
    assert again.apply().get() == made.apply().get() == 15
    assert maybe_signature(None) is None
    assert maybe_signature(again) is again


def test_a_signature_may_be_sent_again_and_is_not_changed_by_it(bench: Bench) -> None:
    made = chord([bench.add.s(1), bench.add.s(2)], bench.total.s())
    before = json.dumps(made)

    assert [made.apply((n,)).get() for n in (1, 2)] == [5, 7]
    first, second = made.delay(1), made.delay(1)

    assert first.id != second.id
    assert json.dumps(made) == before


def test_the_ways_to_write_a_chord(bench: Bench) -> None:
    add, total = bench.add, bench.total
    made = [
        chord([add.s(1, 1), add.s(2, 2)])(total.s()),
        chord(group(add.s(1, 1), add.s(2, 2)), total.s())(),
        chord((add.s(n, n) for n in (1, 2)), body=total.s()).delay(),
        (group(add.s(1, 1), add.s(2, 2)) | total.s()).apply_async(),
        chord([add.s(1), add.s(3)], total.s()).apply_async((1,)),
    ]
    bench.box.drain()

    assert [each.get(timeout=0) for each in made] == [6] * 5


def test_an_eager_group_may_be_waited_for_inside_a_task(bench: Bench) -> None:
    @bench.app.task(name="outer")
    def outer() -> Any:
        return group(bench.add.s(n, n) for n in range(3)).apply().get()

    made = outer.delay()
    bench.box.drain()

    assert made.get(timeout=0) == [0, 2, 4]


def test_a_generator_can_be_sent_once(bench: Bench) -> None:
    made = group(bench.add.s(n, n) for n in range(3))
    made.delay()
    with pytest.raises(ImproperlyConfigured, match="used up"):
        made.delay()


def test_freeze_settles_the_ids(bench: Bench) -> None:
    made = chain(bench.add.s(1, 1), group(bench.add.s(n) for n in range(2)), bench.total.s())
    frozen = made.freeze("mine")
    sent = made.delay()
    bench.box.drain()

    assert frozen.id == sent.id == "mine"
    assert frozen.as_tuple() == sent.as_tuple()
    assert frozen.get(timeout=1) == 5
    assert frozen.parent.get(timeout=1) == [2, 3]
    assert frozen.parent.parent.get(timeout=1) == 2


def test_shapes_print_and_skew(bench: Bench) -> None:
    add = bench.add
    assert repr(add.s(1, 2) | add.s(3)) == "add(1, 2) | add(3)"
    assert repr(group(add.s(1, 2), add.s(3))) == "group(add(1, 2), add(3))"
    assert repr(chord([add.s(1, 2)], add.s(3))) == "chord(group(add(1, 2)), add(3))"
    assert isinstance(group(add.s(1), add.s(2)) | add.s(1), chord)
    assert len(group(add.s(1), add.s(2))) == 2
    assert [each.options["countdown"] for each in group(add.s(1) for _ in range(3)).skew(1, 2).tasks] == [
        1,
        2,
        1,
    ]


# --- results ----------------------------------------------------------------------------------------


def test_parents_and_children_lead_through_the_workflow(bench: Bench) -> None:
    add = bench.add
    last = chain(add.s(1, 1), group(add.s(1), add.s(2)), bench.total.s(), add.s(1))()
    bench.box.drain()

    assert last.get() == 8
    body = last.parent
    header = body.parent
    first = header.parent
    assert (body.get(), header.get(), first.get(), first.parent) == (7, [3, 4], 2, None)
    assert [(each.id, each.results) for each in first.children] == [(header.id, header.results)]
    assert body.children == [last]
    assert [node.id for _, node in body.iterdeps()] == [body.id, last.id]
    assert list(body.collect()) == [(body, 7), (last, 8)]
    assert bench.app.node(last.as_tuple()) == last
    assert first.get_leaf() is not None
    saved = header.save()
    assert bench.app.GroupResult.restore(saved.id).results == header.results


def test_request_tells_a_tasks_place(bench: Bench) -> None:
    who = bench.who
    made = chord([who.s(), who.s()], who.s())()
    bench.box.drain()

    header = made.parent
    for n, member in enumerate(header.results):
        assert member.get() == [member.id, header.id, n, header.id, None]
    assert made.get() == [made.id, None, None, header.id, header.id]
    after = (who.si() | who.si())()
    bench.box.drain()
    assert after.get() == [after.id, None, None, after.parent.id, after.parent.id]


def test_a_task_that_sends_a_workflow_is_its_parent(bench: Bench) -> None:
    @bench.app.task(name="starts", bind=True)
    def starts(self: Any) -> Any:
        made = (bench.who.si() | bench.who.si())()
        group(bench.add.s(1, 1), bench.add.s(2, 2))()
        return made.id

    made = starts.delay()
    bench.box.drain()

    chained, grouped = made.children
    assert chained.get()[3] == made.id
    assert chained.id == made.get()
    assert grouped.get() == [2, 4]


# --- options ----------------------------------------------------------------------------------------


def test_options_go_where_celery_sends_them(bench: Bench) -> None:
    add = bench.add
    chain(add.s(1, 1), add.s(1)).apply_async(queue="first", headers={"a": 1})
    group(add.s(1, 1), add.s(1, 1) | add.s(1)).apply_async(queue="all")
    chord([add.s(1, 1)], bench.total.s()).apply_async(queue="both", countdown=5)
    bench.box.drain()

    queues = [each.queue for each in bench.box.sent]
    assert queues == ["first", "all", "all", "both", "cloudq", "cloudq", "both"]
    assert bench.box.sent[0].envelope.headers["a"] == 1
    assert bench.box.sent[3].envelope.eta is not None
    assert bench.box.sent[6].envelope.eta is None


def test_links_of_a_workflow(bench: Bench) -> None:
    add, note, fail = bench.add, bench.note, bench.fail
    chain(add.s(1, 1), add.s(1)).apply_async(link=note.s("linked"))
    chord([add.s(1, 1)], bench.total.s()).apply_async(link=note.s("body"))
    chain(add.s(1, 1), fail.s(), add.s(1)).apply_async(link_error=note.si("failed"))
    bench.box.drain()

    assert sorted(str(each) for each in bench.ran) == sorted(
        str(each) for each in [(3, "linked"), ("total", [2]), (2, "body"), ("failed",)]
    )


@pytest.mark.parametrize("header_too", [False, True])
def test_a_chords_errbacks(bench: Bench, header_too: bool) -> None:
    bench.app.conf.task_allow_error_cb_on_chord_header = header_too
    made = chord([bench.add.s(1, 1), bench.fail.s()], bench.total.s()).on_error(bench.note.si("error"))()
    bench.box.drain()

    assert bench.ran == [("error",)] * (2 if header_too else 1)
    with pytest.raises(ChordError, match=f"Dependency {made.parent[1].id} raised Oops") as caught:
        made.get()
    assert isinstance(caught.value.__cause__, Oops)


def test_errbacks_old_and_new(bench: Bench) -> None:
    seen: list[Any] = []

    @bench.app.task(name="old")
    def old(task_id: str) -> None:
        seen.append(("old", task_id))

    @bench.app.task(name="new")
    def new(request: Any, exc: Any, traceback: Any) -> None:
        seen.append(
            ("new", request.id, request.task, type(exc).__name__, str(exc), "broken" in (traceback or ""))
        )

    @bench.app.task(name="more")
    def more(request: Any, exc: Any, traceback: Any, own: str) -> None:
        seen.append(("more", own))

    made = bench.fail.apply_async(
        (), link_error=[old.s(), new.s(), more.s("mine"), bench.note.si("immutable")]
    )
    bench.box.drain()

    assert seen == [("old", made.id), ("new", made.id, "fail", "Oops", "broken", True), ("more", "mine")]
    assert bench.ran == [("immutable",)]

    bench.fail.apply_async((), ignore_result=True, link_error=new.s())
    bench.box.drain()
    assert seen[-1][3:5] == ("RemoteError", f"{Oops.__module__}.Oops: broken")


def test_a_link_may_be_a_workflow(bench: Bench) -> None:
    add = bench.add
    add.apply_async((1, 1), link=chord([add.s(1), add.s(2)], bench.total.s()) | bench.note.s())
    bench.box.drain()

    assert bench.ran == [("total", [3, 4]), (7,)]


# --- ends that are seldom ---------------------------------------------------------------------------


def test_steps_after_a_failure_say_why_they_never_ran(bench: Bench) -> None:
    made = chain(bench.fail.s(), group(bench.add.s(1), bench.add.s(2)), bench.total.s(), bench.add.s(1))()
    bench.box.drain()

    body = made.parent
    for result in (made, body, *body.parent.results, body.parent.parent):
        with pytest.raises(Oops):
            result.get(timeout=0)
    assert bench.ran == []


def test_a_revoked_member_fails_its_chord(bench: Bench) -> None:
    made = chord([bench.add.s(1, 1), bench.add.s(2, 2).set(expires=0.5)], bench.total.s())()
    bench.box.clock.advance(1)
    bench.box.drain()

    with pytest.raises(ChordError, match="TaskRevokedError"):
        made.get(timeout=0)


def test_a_retried_body_fetches_its_results_again(bench: Bench) -> None:
    tries: list[Any] = []

    @bench.app.task(name="again", bind=True)
    def again(self: Any, values: Any) -> Any:
        tries.append(values)
        if len(tries) < 3:
            raise self.retry(countdown=1)
        return len(values)

    made = chord([bench.add.s(1, 1)] * 2, again.s())()
    bench.box.drain()

    assert made.get() == 2
    assert tries == [[2, 2]] * 3
    assert all([2, 2] not in each.args for each in bench.box.sent)


def test_a_body_that_comes_too_early_waits(bench: Bench) -> None:
    made = chord([bench.add.s(1, 1), bench.add.s(2, 2)], bench.total.s())()
    body = bench.app.producer.prepare(
        "total", (), {}, {"headers": {"cloudq-joined": {"id": made.parent.id, "size": 2, "give": True}}}
    )
    store = bench.app.need_store()
    store.progress(Record(made.parent[1].id, "STARTED"))
    store.finish(Record(made.parent[0].id, "SUCCESS", 2))
    bench.app.producer.send([body])
    bench.box.drain(jump=False)

    assert made.get() == 6
    assert bench.ran.count(("total", [2, 4])) >= 1


def test_replace_and_add_to_chord_outside_of_their_place(bench: Bench) -> None:
    @bench.app.task(name="odd", bind=True)
    def odd(self: Any, what: str) -> Any:
        if what == "add":
            self.add_to_chord(bench.add.s(1, 1))
        return self.replace(chain())

    with pytest.raises(ImproperlyConfigured, match="empty chain"):
        odd.apply(("replace",)).get()
    with pytest.raises(ValueError, match="not running as a member"):
        odd.apply(("add",)).get()


@pytest.mark.asyncio
async def test_the_asyncio_twins(bench: Bench) -> None:
    made = await chord([bench.add.s(1, 1)], bench.total.s()).adelay()
    bench.box.drain()
    assert await made.aget(timeout=1) == 2
