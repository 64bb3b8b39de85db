"""The embedded engine: connections and forks and threads, one memory per name, costs that do not grow."""

from __future__ import annotations

import gc
import os
import re
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cloudq.backends.open import open_backend
from cloudq.brokers import sqlite_queue
from cloudq.brokers.base import Message, QueueSpec
from cloudq.brokers.open import open_broker
from cloudq.brokers.sqlite import TABLES, SqliteBroker
from cloudq.clock import SYSTEM_CLOCK
from cloudq.errors import CloudQError
from cloudq.sqlitedb import Database
from cloudq.testing.clock import ManualClock

# --- threads and forks --------------------------------------------------------------------------------


def files_open(path: Path) -> int:
    """How many descriptors of this process lead to the database, its log or its index."""
    found = 0
    for each in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{each}").startswith(str(path))
        except OSError:  # the listing's own
            continue
    return found


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")


@needs_proc
def test_a_connection_ends_with_its_thread(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    broker = SqliteBroker(str(path), SYSTEM_CLOCK)
    before = files_open(path)
    for _ in range(20):
        thread = threading.Thread(target=broker.depth, args=("q",))
        thread.start()
        thread.join()
    gc.collect()
    assert len(broker._database._links) == 1
    assert files_open(path) <= before + 2  # SQLite itself puts a descriptor or two by for the next connection
    broker.close()
    assert files_open(path) == 0


def test_what_is_closed_says_so(tmp_path: Path) -> None:
    broker = SqliteBroker(str(tmp_path / "q.db"), SYSTEM_CLOCK)
    broker.close()
    with pytest.raises(CloudQError, match=r"q\.db is closed"):
        broker.depth("q")
    assert broker.receive("q", 1, 5.0, 30.0) == []


FORKS = """
import os, sys, threading, time
from cloudq.brokers.base import Message, QueueSpec
from cloudq.brokers.open import open_broker
from cloudq.backends.open import open_backend

def open_files(path):
    found = []
    for each in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{each}")
        except OSError:
            continue
        if target.startswith(path):
            found.append(target)
    return found

path = os.path.realpath(sys.argv[1])
broker, store = open_broker(f"sqlite:///{path}"), open_backend(f"sqlite:///{path}")
stop = threading.Event()

def busy(number):
    while not stop.is_set():
        broker.send("q", [Message(f"parent {number}")])
        store.write(f"k/{number}", b"x")

threads = [threading.Thread(target=busy, args=(n,)) for n in range(3)]
for each in threads:
    each.start()
waiter = threading.Thread(target=lambda: broker.receive("never", 1, 60.0, 30.0))
waiter.start()
bad = 0
for round in range(20):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            inherited = open_files(path)
            ids = broker.send("child", [Message("child")])
            store.write(f"child/{os.getpid()}", b"x")
            code = 0 if not inherited and len(ids) == 1 else 2
        finally:
            if code == 0 and round % 2:
                sys.exit(0)  # with all that the interpreter tidies up
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    bad += status != 0
stop.set()
for each in threads:
    each.join()
import sqlite3
[[verdict]] = sqlite3.connect(path).execute("PRAGMA integrity_check").fetchall()
print(bad, verdict, broker.depth("child").visible, len(list(store.keys("child/"))))
broker.close()
waiter.join(5)
sys.exit(waiter.is_alive())
"""


@needs_proc
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_no_connection_crosses_a_fork_and_both_sides_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS, str(tmp_path / "q.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["0", "ok", "20", "20"]), done.stderr[-2000:]


MEMORY_FORKS = """
import os, sys
from cloudq.brokers.base import Message, QueueSpec
from cloudq.brokers.open import open_broker
from cloudq.backends.open import open_backend

broker, store = open_broker("memory://shared"), open_backend("memory://shared")
broker.send("q", [Message("the parent's")])
store.write("k/1", b"the parent's")
pid = os.fork()
if pid == 0:
    mine = open_broker("memory://shared")
    seen = mine.receive("q", 10, 0.0, 30.0) + broker.receive("q", 10, 0.0, 30.0)
    mine.send("q", [Message("the child's")])
    woken = [each.body for each in broker.receive("q", 10, 0.0, 30.0)]
    os._exit(0 if not seen and store.read("k/1") is None and woken == ["the child's"] else 1)
_, status = os.waitpid(pid, 0)
bodies = [each.body for each in broker.receive("q", 10, 0.0, 30.0)]
sys.exit(0 if status == 0 and bodies == ["the parent's"] and store.read("k/1").value == b"the parent's" else 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_have_its_parents_memory() -> None:
    """Or both would run the same tasks."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_FORKS], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


# --- one memory per name ----------------------------------------------------------------------------------


def test_a_named_memory_is_shared_and_outlives_who_closes_it() -> None:
    first, second = open_broker("memory://by-name"), open_broker("memory://by-name?visibility_timeout=5")
    other = open_broker("memory://another")
    got: list[Any] = []
    waiter = threading.Thread(target=lambda: got.extend(second.receive("q", 1, 10.0, 30.0)))
    waiter.start()
    first.close()
    third = open_broker("memory://by-name")
    third.send("q", [Message("hello")])
    waiter.join(10)
    assert [each.body for each in got] == ["hello"]
    assert first.receive("q", 1, 5.0, 30.0) == []
    assert other.depth("q").total == 0
    for each in (second, third, other):
        each.close()


def test_a_named_store_is_shared_and_outlives_who_closes_it() -> None:
    first, second = open_backend("memory://by-name"), open_backend("memory://by-name")
    first.write("a/b", b"1")
    first.close()
    entry = second.read("a/b")
    assert entry is not None
    assert entry.value == b"1"
    assert open_backend("memory://").read("a/b") is None


# --- costs ------------------------------------------------------------------------------------------------


def plans(broker: SqliteBroker, act: Any) -> list[str]:
    """How SQLite finds the rows of every statement that ``act`` runs."""
    statements: list[str] = []
    with broker._database.connected() as db:
        db.set_trace_callback(statements.append)
        try:
            act()
        finally:
            db.set_trace_callback(None)
        found = []
        for each in statements:
            if re.match(r"(SELECT|UPDATE|DELETE|INSERT)", each):
                found += [f"{row[3]}  <- {each[:90]}" for row in db.execute(f"EXPLAIN QUERY PLAN {each}")]
    return found


@pytest.mark.parametrize("queue", ["standard", "ordered.fifo"])
def test_no_statement_of_a_messages_way_reads_the_whole_queue(queue: str) -> None:
    clock = ManualClock()
    broker = SqliteBroker(None, clock, max_receive_count=2)
    broker.send(queue, [Message(f"{n}", group_id=f"g{n % 7}", dedup_id=f"{n}") for n in range(50)])

    def way() -> None:
        broker.send(queue, [Message("m", group_id="g1", dedup_id="m")])
        got = broker.receive(queue, 10, 0.0, 30.0)
        broker.extend(got[:3], 60.0)
        broker.release(got[:2])
        broker.bury(got[2], "reason")
        broker.ack(got[3:])
        broker.receive(queue, 10, 0.0, 30.0)
        clock.advance(31)
        broker.receive(queue, 10, 0.0, 30.0)  # sends some to the dead-letter queue
        broker.next_visible(queue)

    found = plans(broker, way)
    assert len(found) > 20
    # a table is only ever entered through an index or its key
    assert [each for each in found if each.startswith("SCAN")] == []
    assert not [each for each in found if "TEMP B-TREE" in each]


def _steps(broker: SqliteBroker, act: Any) -> int:
    """How much work SQLite's machine does for it: a count, not a time."""
    count = [0]

    def step() -> int:
        count[0] += 1
        return 0

    with broker._database.connected() as db:
        db.set_progress_handler(step, 10)
        try:
            act()
        finally:
            db.set_progress_handler(None, 10)
    return count[0]


@pytest.mark.parametrize("groups", [1, 50, 10_000])
@pytest.mark.parametrize("held", [False, True])
def test_receiving_from_a_fifo_queue_costs_the_same_at_any_length(groups: int, held: bool) -> None:
    costs = []
    for length in (200, 20_000):
        broker = SqliteBroker(None, ManualClock())
        for start in range(0, length, 1000):
            messages = [
                Message("m", group_id=f"g{n % groups}", dedup_id=f"{n}") for n in range(start, start + 1000)
            ]
            broker.send("q.fifo", messages[:length])
        if held:  # a group in flight, with most of the queue behind it
            broker.receive("q.fifo", 1, 0.0, 30.0)
        costs.append(
            _steps(broker, lambda b=broker: [b.ack(b.receive("q.fifo", 10, 0.0, 30.0)) for _ in range(10)])
        )
    assert costs[1] <= 1.5 * costs[0] + 20, costs


# --- an earlier layout ----------------------------------------------------------------------------------------


def test_a_file_of_an_earlier_release_goes_on(tmp_path: Path) -> None:
    """Before groups had rows of their own."""
    path = str(tmp_path / "q.db")
    old = SqliteBroker(path, SYSTEM_CLOCK)
    old.send("q.fifo", [Message(f"a{n}", group_id="a", dedup_id=f"a{n}") for n in range(3)])
    old.send("q.fifo", [Message("b0", group_id="b", dedup_id="b0")])
    [held] = old.receive("q.fifo", 1, 0.0, 300.0)
    old.close()
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE fifo_groups")
    db.close()

    new = SqliteBroker(path, SYSTEM_CLOCK)
    assert [each.body for each in new.receive("q.fifo", 10, 0.0, 30.0)] == ["b0"]
    new.ack([held])
    assert [each.body for each in new.receive("q.fifo", 10, 0.0, 30.0)] == ["a1", "a2"]
    new.close()


def test_tables_are_made_once(tmp_path: Path) -> None:
    path = str(tmp_path / "q.db")
    first = Database(path, TABLES)
    statements: list[str] = []
    with first.connected() as db:
        assert first._is_set_up(db)
        db.set_trace_callback(statements.append)
        first._patiently(db, None)
    assert [each for each in statements if "CREATE" in each] == []
    first.close()


def test_expired_messages_of_a_fifo_queue_do_not_block_their_group() -> None:
    clock = ManualClock()
    broker = SqliteBroker(None, clock)
    broker.send("q.fifo", [Message("old", group_id="a", dedup_id="1")])
    clock.advance(sqlite_queue.RETENTION + 60)
    broker.send("q.fifo", [Message("new", group_id="a", dedup_id="2")])
    assert [each.body for each in broker.receive("q.fifo", 10, 0.0, 30.0)] == ["new"]


def test_a_delay_longer_than_the_queues_retention_is_kept() -> None:
    clock = ManualClock()
    broker = SqliteBroker(None, clock)
    broker.create_queue(QueueSpec("brief", retention=3600.0))
    broker.send("brief", [Message("tomorrow", delay=86_000.0), Message("now")])
    clock.advance(86_001.0)
    assert [each.body for each in broker.receive("brief", 10, 0.0, 30.0)] == ["tomorrow"]
