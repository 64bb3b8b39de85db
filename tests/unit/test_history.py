"""History: what is kept of tasks' ends, and how little has to be read to find it."""

import json
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from typer.testing import CliRunner

from cloudq import CloudQ
from cloudq.backends.base import ResultBackend
from cloudq.backends.open import open_backend
from cloudq.cli.main import cli
from cloudq.monitoring.events import TYPES
from cloudq.monitoring.history import Entry, History, HistorySink, Search, _bloom, _maybe, entry_of
from cloudq.results.record import Record
from cloudq.testing.clock import JumpingClock
from cloudq.testing.stores import Counting
from cloudq.testing.workers import running_worker

WEEK = 604_800.0


class Past:
    """A store with history in it."""

    def __init__(self) -> None:
        self.clock = JumpingClock()
        self.counting = Counting(open_backend("memory://", self.clock))
        self.history = History(self.counting, "n", self.clock, WEEK)
        self._sinks: dict[str, HistorySink] = {}
        self.number = 0

    def sink(self, worker: str) -> HistorySink:
        return self._sinks.setdefault(worker, HistorySink(self.counting, "n", worker, self.clock, WEEK))

    def end(self, count: int = 1, kind: str = "task-succeeded", worker: str = "w1", **more: Any) -> None:
        """So many tasks end now, in one document."""
        events = []
        for _ in range(count):
            self.number += 1
            event = {
                "uuid": f"t-{self.number}",
                "name": "shop.add",
                "queue": "q",
                "runtime": 0.5,
                "result": "3",
            }
            event |= {"type": kind, "timestamp": self.clock.time(), "hostname": worker, **more}
            events.append(event)
            self.clock.advance(0.001)
        self.sink(worker).take(events)
        self.sink(worker).flush()


@pytest.fixture
def past() -> Past:
    return Past()


def ids(entries: list[Entry]) -> list[str]:
    return [each.id for each in entries]


def test_only_ends_are_kept() -> None:
    whole = {"uuid": "a", "name": "t", "timestamp": 9.0, "hostname": "w", "runtime": 2.0, "traceback": ""}
    kept = {kind for kind in TYPES if entry_of({**whole, "type": kind}) is not None}
    assert kept == {"task-succeeded", "task-failed", "task-retried", "task-revoked", "task-rejected"}
    entry = entry_of({**whole, "type": "task-failed"})
    assert entry is not None
    assert (entry.state, entry.started, entry.traceback) == ("FAILURE", 7.0, None)


def test_pages_are_newest_first_and_complete(past: Past) -> None:
    for _ in range(30):
        past.end(7, worker=f"w{past.number % 3}")
        past.clock.advance(600)
    seen: list[str] = []
    cursor = None
    while True:
        page = past.history.query(40, cursor)
        seen += ids(page.entries)
        cursor = page.next
        if cursor is None:
            break
        assert len(page.entries) == 40
    assert seen == [f"t-{n}" for n in range(210, 0, -1)]


@pytest.mark.parametrize("documents", [2, 7, 60])
def test_a_search_for_what_is_rare_ends_after_some_documents_and_goes_on(past: Past, documents: int) -> None:
    for n in range(120):
        past.end(1, args="[needle]" if n in (3, 60, 61, 119) else "[]")
        past.clock.advance(600)
    reads: list[int] = []
    read_many = past.counting.read_many

    def counted(keys: Any) -> Any:
        listed = list(keys)
        reads.append(len(listed))
        return read_many(listed)

    past.counting.read_many = counted  # type: ignore[method-assign]
    seen: list[str] = []
    cursor, pages = None, 0
    while cursor is not None or not pages:
        page = past.history.query(50, cursor, documents=documents, text="needle")
        assert sum(reads) < documents + 25  # read a few at a time
        reads.clear()
        seen += ids(page.entries)
        cursor, pages = page.next, pages + 1
    assert seen == ["t-120", "t-62", "t-61", "t-4"]
    assert pages > 1
    with pytest.raises(ValueError, match="at least 2"):
        past.history.query(documents=1)


def test_what_comes_meanwhile_does_not_shift_the_pages(past: Past) -> None:
    past.end(10)
    first = past.history.query(5)
    past.end(10)
    assert ids(past.history.query(5, first.next).entries) == [f"t-{n}" for n in range(5, 0, -1)]


def test_every_criterion(past: Past) -> None:
    past.end(2, args="[1, 'needle']", root_id="r-1")
    past.clock.advance(100)
    past.end(1, "task-failed", worker="w2", name="shop.mail", exception="ValueError('Needle')", queue="mails")
    middle = past.clock.time()
    past.clock.advance(100)
    past.end(1, "task-revoked", worker="w3", name="other", reason="expired")

    def find(**criteria: Any) -> list[str]:
        return ids(past.history.query(**criteria).entries)

    assert find() == ["t-4", "t-3", "t-2", "t-1"]
    assert find(state="FAILURE") == ["t-3"]
    assert find(name="shop.mail") == ["t-3"]
    assert find(name="shop.*") == ["t-3", "t-2", "t-1"]
    assert find(worker="w3") == ["t-4"]
    assert find(worker="w[12]") == ["t-3", "t-2", "t-1"]
    assert find(queue="m*") == ["t-3"]
    assert find(text="needle") == ["t-3", "t-2", "t-1"]
    assert find(root_id="r-1") == ["t-2", "t-1"]
    assert find(id="t-2") == ["t-2"] == ids(past.history.task("t-2"))
    assert find(since=middle) == ["t-4"]
    assert find(until=middle) == ["t-3", "t-2", "t-1"]
    assert find(state="REJECTED") == []
    with pytest.raises(TypeError):
        find(nmae="x")


def test_a_search_reads_only_what_may_fit(past: Past) -> None:
    for n in range(60):
        past.end(20, name=f"task-{n % 6}", worker=f"w{n % 4}")
        past.clock.advance(50)
    past.end(1, "task-failed", name="rare")
    for n in range(60):
        past.end(20, name=f"task-{n % 6}", worker=f"w{n % 4}")
        past.clock.advance(50)

    def documents(**criteria: Any) -> int:
        past.counting.calls.clear()
        read: list[str] = []
        original = past.counting.read_many
        past.counting.read_many = lambda keys: original(read.extend(found := list(keys)) or found)  # type: ignore[method-assign,func-returns-value]
        assert past.history.query(1000, **criteria).entries
        past.counting.read_many = original  # type: ignore[method-assign]
        return len(read)

    assert documents() >= 50
    assert documents(state="FAILURE") == 1
    assert documents(name="rare") <= 3
    assert documents(id="t-700") <= 5
    assert documents(worker="w1") <= 31
    assert documents(since=past.clock.time() - 60) <= 75


def test_what_is_over_goes(past: Past) -> None:
    past.end(3)
    past.clock.advance(WEEK + 1)
    assert past.history.query().entries == []
    past.end(1)
    assert ids(past.history.query().entries) == ["t-4"]


def test_odd_names_and_workers(past: Past) -> None:
    past.end(1, worker="a/b.c@host 1", name="näme.*[x]")
    past.sink("a/b.c@host 1")
    assert ids(past.history.query(worker="a/b.c@host 1").entries) == ["t-1"]
    assert ids(past.history.query(worker="*host*").entries) == ["t-1"]
    assert ids(past.history.query(name="näme.*[x]").entries) == ["t-1"]


def test_a_worker_with_an_endless_name_is_kept_and_found(past: Past) -> None:
    for n in range(150):  # many names and ids: the longest key there can be
        past.sink("ü" * 300).take(
            [
                {
                    "type": "task-failed",
                    "uuid": f"u-{n}",
                    "name": f"n-{n}",
                    "timestamp": past.clock.time(),
                    "hostname": "ü" * 300,
                }
            ]
        )
    past.sink("ü" * 300).flush()
    assert ids(past.history.query(worker="ü" * 300, id="u-7").entries) == ["u-7"]
    assert past.history.query(worker="w1").entries == []


@pytest.mark.parametrize("bad", ["", "x", "aGVsbG8", "MSB0YXNrL2E"])
def test_a_cursor_of_ones_own_is_refused(past: Past, bad: str) -> None:
    with pytest.raises(ValueError, match="is not one that query"):
        past.history.query(5, bad)
    with pytest.raises(ValueError, match="limit is at least 1"):
        past.history.query(0)


def test_a_bloom_filter_never_says_no_wrongly() -> None:
    rng = Random(7)
    for size in (0, 1, 10, 200, 500):
        members = [f"{rng.random()}" for _ in range(size)]
        text = _bloom(members)
        assert all(_maybe(text, each) for each in members)
        wrong = sum(_maybe(text, f"other-{n}") for n in range(1000))
        assert wrong < (600 if size > 200 else 100)
        assert len(text) <= 320
    assert _maybe("not base32!", "x")


def test_a_hundred_thousand_tasks_are_searched_in_a_few_reads() -> None:
    past = Past()
    for _ in range(200):
        past.end(500)
        past.clock.advance(30)
    past.end(1, "task-failed")
    past.counting.calls.clear()
    page = past.history.query(50)
    assert len(page.entries) == 50
    assert past.counting.calls.total() <= 6
    assert ids(past.history.query(state="FAILURE").entries) == [f"t-{past.number}"]


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[ResultBackend]:
    store = open_backend("memory://" if request.param == "memory" else f"file:///{tmp_path}", JumpingClock())
    yield store
    store.close()


def test_it_works_on_every_kind_of_store(store: ResultBackend) -> None:
    clock = JumpingClock()
    sink = HistorySink(store, "n", "w1", clock, WEEK)
    sink.take(
        [
            {
                "type": "task-succeeded",
                "uuid": f"T-{n}",
                "name": "Add",
                "timestamp": clock.time(),
                "hostname": "w1",
            }
            for n in range(200)
        ]
    )
    sink.flush()
    history = History(store, "n", clock, WEEK)
    assert len(history.query(500).entries) == 200
    assert ids(history.task("T-7")) == ["T-7"]


def test_search_is_a_value() -> None:
    assert Search(name="a") == Search(name="a")


def test_a_worker_at_level_history_keeps_arguments_results_and_errors() -> None:
    with CloudQ("live", broker="memory://", backend="memory://", monitoring="history") as app:

        @app.task(name="divide", throws=(ZeroDivisionError,))
        def divide(x: int, y: int, token: str = "") -> float:
            return x / y

        with running_worker(app, hostname="w1"):
            good = app.send_task("divide", (6, 3), {"token": "hush"})
            bad = app.send_task("divide", (6, 0))
            assert good.get(timeout=20) == 2.0
            bad.get(timeout=20, propagate=False)
        failed, succeeded = sorted(app.history.query().entries, key=lambda each: each.state)
        assert (succeeded.id, succeeded.args, succeeded.result) == (good.id, "[6, 3]", "2.0")
        assert succeeded.kwargs == "{'token': '***'}"
        assert (failed.exception, failed.worker) == ("ZeroDivisionError('division by zero')", "w1")
        assert "return x / y" in (failed.traceback or "")
        assert failed.queue == "cloudq"


def test_an_end_that_a_killed_worker_could_not_write_is_told_by_its_result_record() -> None:
    with CloudQ("lost", broker="memory://", backend="memory://") as app:
        store = app.need_store()
        store.finish(Record("t-1", "FAILURE", ValueError("no"), worker="w1", done_at=5.0, args=("a secret",)))
        store.progress(Record("t-2", "STARTED"))
        assert app.history.query().entries == []  # what was not written is in no list

        [found] = app.history.task("t-1")
        assert app.history.query(id="t-1").entries == [found]
        assert (found.state, found.exception, found.ended, found.worker) == (
            "FAILURE",
            "ValueError('no')",
            5.0,
            "w1",
        )
        assert "its result record" in (found.reason or "")
        assert "secret" not in repr(found)
        assert app.history.task("t-2") == []  # it has not ended
        assert app.history.task("t-3") == []
        assert app.history.query(id="t-1", state="SUCCESS").entries == []


def test_everything_can_be_hidden() -> None:
    app = CloudQ("x", broker="memory://", backend="memory://", monitoring="history", monitoring_redact=["*"])
    with app:

        @app.task(name="add")
        def add(x: int, y: int) -> int:
            return x + y

        with running_worker(app):
            app.send_task("add", (1, 2)).get(timeout=20)
        [entry] = app.history.query().entries
        assert (entry.args, entry.kwargs, entry.result) == ("***", "***", "***")


def test_the_command(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path / 'h.db'}"

    def run(*words: str) -> Any:
        return CliRunner().invoke(cli, ["history", *words, "--result-backend", url])

    with CloudQ("live", broker="memory://", backend=url, monitoring="history") as app:

        @app.task(name="divide", throws=(ZeroDivisionError,))
        def divide(x: int, y: int) -> float:
            return x / y

        assert "nothing that fits" in run().stdout
        with running_worker(app, hostname="w1"):
            results = [app.send_task("divide", (6, n)) for n in range(3)]
            for each in results:
                each.get(timeout=20, propagate=False)

    found = json.loads(run("--json", "-n", "2").stdout)
    assert [len(found["entries"]), bool(found["next"])] == [2, True]
    rest = json.loads(run("--json", "--cursor", found["next"]).stdout)
    assert {each["id"] for each in found["entries"] + rest["entries"]} == {each.id for each in results}
    failed = json.loads(run("--state", "failure", "--task", "div*", "--since", "1h", "--json").stdout)
    assert [each["id"] for each in failed["entries"]] == [results[0].id]
    shown = run(results[0].id).stdout
    assert "ZeroDivisionError" in shown
    assert "Traceback" in shown
    assert results[1].id in run("--until", "2199-01-01T00:00").stdout
    for wrong in (("--state", "DONE"), ("--since", "yesterday"), ("--cursor", "x"), ("-n", "0")):
        assert run(*wrong).exit_code == 2
