"""``cloudq top`` and the overview it shows."""

from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from cloudq import CloudQ
from cloudq.cli.main import cli
from cloudq.cli.top import looking_at, queue_rows, task_rows, worker_rows
from cloudq.control.roster import WorkerInfo
from cloudq.errors import ServiceUnavailable
from cloudq.monitoring.history import HistorySink
from cloudq.testing.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def app(clock: ManualClock) -> Iterator[CloudQ]:
    with CloudQ("bench", broker="memory://", backend="memory://", clock=clock) as app:
        now = clock.time()
        running = ({"id": "t-1", "name": "slow", "queue": "a", "since": now - 5.0},)
        gone = {"id": "t-2", "name": "gone", "queue": "a", "since": now - 700.0}
        ended = {"id": "t-0", "name": "boom", "queue": "a", "since": now - 600.0}
        for name, queues, more in (
            ("w1", ("a", "b"), {"running": running, "stats": {"active": 1, "acked": 7}}),
            ("w2", ("a",), {"at": now - 500.0, "running": (*running, gone, ended)}),
        ):
            fields: dict[str, Any] = {"at": now, **more}
            app.control.roster.beat(
                WorkerInfo(
                    hostname=name, app="x", pid=1, host="h", pool="threads", concurrency=4, queues=queues,
                    started=now, every=5.0, looks_every=1.0, **fields,
                )
            )  # fmt: skip
        for _ in range(3):
            app.send_task("add", queue="a")
        app.send_task("add", queue="b", countdown=60)
        app.control.pause("c")
        sink = HistorySink(app.need_store().backend, "default", "w1", clock, 1000.0)
        end = {"type": "task-failed", "uuid": "t-0", "name": "boom", "hostname": "w1", "runtime": 0.25}
        sink.take([{**end, "timestamp": now, "exception": "ValueError('<b>no</b>')"}])
        sink.flush()
        yield app


def test_one_look_sees_everything(app: CloudQ) -> None:
    view = looking_at(app)()

    assert [each.hostname for each in view.alive] == ["w1"]
    queues = {each.name: each for each in view.queues}
    assert set(queues) == {"a", "b", "c", "cloudq"}
    assert (queues["a"].ready, queues["a"].workers, queues["a"].backlog_per_worker) == (3, 1, 3.0)
    assert (queues["b"].delayed, queues["c"].paused, queues["cloudq"].workers) == (1, True, 0)
    assert queue_rows(view)[0][:3] == ("a", "", 3)
    assert [each.oldest for each in view.queues] == [0.0, 0.0, 0.0, 0.0]
    assert queue_rows(view)[0][-1] == "0 s"
    assert [row[:2] for row in worker_rows(view)] == [("w1", "online"), ("w2", "LOST")]
    # w2 vanished: t-1 runs elsewhere by now, t-0 has ended, t-2 nobody has
    assert [row[:5] for row in task_rows(view)] == [
        ("t-2", "gone", "LOST", "700.0", "w2"),
        ("t-1", "slow", "STARTED", "5.0", "w1"),
        ("t-0", "boom", "FAILURE", "0.250", "w1"),
    ]


def test_a_queue_that_cannot_be_asked_says_so(app: CloudQ, monkeypatch: pytest.MonkeyPatch) -> None:
    depth = app.broker.depth

    def asked(queue: str) -> Any:
        if queue == "a":
            raise ServiceUnavailable("throttled")
        return depth(queue)

    monkeypatch.setattr(app.broker, "depth", asked)
    view = looking_at(app)()
    assert [each.error for each in view.queues] == ["throttled", None, None, None]
    assert queue_rows(view)[0][2] == "?"
    assert queue_rows(view)[0][-1] == ""


async def test_the_screen_shows_it_and_pauses_a_queue(app: CloudQ) -> None:
    pytest.importorskip("textual")
    from textual.widgets import DataTable, Static

    from cloudq.cli.screen import Screen

    screen = Screen(looking_at(app), app.control, interval=30.0)
    async with screen.run_test(size=(160, 50)) as pilot:
        await screen.workers.wait_for_complete()
        await pilot.pause()
        tables = {name: screen.query_one(f"#{name}", DataTable) for name in ("queues", "workers", "tasks")}
        assert {name: table.row_count for name, table in tables.items()} == {
            "queues": 4,
            "workers": 2,
            "tasks": 3,
        }
        assert str(tables["tasks"].get_row_at(2)[5]) == "ValueError('<b>no</b>')"
        assert "1 workers, 1 tasks run" in screen.sub_title

        tables["queues"].move_cursor(row=1)
        for expected in (["b", "c"], ["c"]):
            await pilot.press("p")
            await screen.workers.wait_for_complete()
            await pilot.pause()
            await screen.workers.wait_for_complete()
            await pilot.pause()
            assert sorted(app.control.paused()) == expected

        def away() -> Any:
            raise ServiceUnavailable("the store is away")

        screen._look = away
        await pilot.press("r")
        await screen.workers.wait_for_complete()
        await pilot.pause()
        assert "the store is away" in str(screen.query_one("#said", Static).render())
        await pilot.press("q")


def test_without_a_store_it_says_so_before_it_takes_the_screen() -> None:
    done = CliRunner().invoke(cli, ["top", "--result-backend", "disabled://", "--broker", "memory://"])
    assert done.exit_code == 1
    assert "stores no results" in done.stderr
