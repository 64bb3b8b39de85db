"""The results store in a folder keeps the contract, across threads, processes and kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aws_fakes import FrozenClock

from cloudq.backends.base import ABSENT, ALWAYS
from cloudq.backends.file import ABANDONED, SWEEP_PAUSE, SWEEP_STEP, FileBackend
from cloudq.errors import AccessDenied, CorruptRecord, ServiceUnavailable, StoreNotFound
from cloudq.testing.contracts.backend import BackendContract

ROOT = Path(__file__).resolve().parents[2]


class TestFileBackend(BackendContract):
    @pytest.fixture(params=[False, True], ids=["fast", "fsync"])
    def backend(self, tmp_path: Path, request: pytest.FixtureRequest) -> FileBackend:
        self.clock = FrozenClock(time.time())
        return FileBackend(tmp_path / "store", fsync=request.param, clock=self.clock)

    @pytest.fixture
    def now(self, backend: FileBackend) -> Callable[[], float]:
        return self.clock.time

    @pytest.fixture
    def advance(self, backend: FileBackend) -> Callable[[float], None]:
        return self.clock.sleep


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(time.time())


@pytest.fixture
def store(tmp_path: Path, clock: FrozenClock) -> FileBackend:
    return FileBackend(tmp_path / "store", clock=clock)


def files(store: FileBackend, folder: str = "data") -> list[Path]:
    return [each for each in (store._root / folder).rglob("*") if each.is_file()]


def child(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Run a script in a process of its own, with ``store`` ready."""
    head = "import sys; from pathlib import Path; from cloudq.backends.base import *; "
    head += "from cloudq.errors import *; from cloudq.backends.file import FileBackend; "
    head += "store = FileBackend(Path(sys.argv[1]))\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + script, *arguments], cwd=ROOT, stdout=subprocess.PIPE
    )


def test_increments_of_several_processes_are_not_lost(store: FileBackend) -> None:
    store.write("a/n", b"0")
    script = """
done = 0
while done < 200:
    entry = store.read("a/n")
    try:
        store.write("a/n", b"%d" % (int(entry.value) + 1), Matches(entry.version))
        done += 1
    except Conflict:
        pass
"""
    processes = [child(script, str(store._root)) for _ in range(3)]
    assert [each.wait(60) for each in processes] == [0, 0, 0]
    for each in processes:
        each.communicate()
    entry = store.read("a/n")
    assert entry is not None
    assert entry.value == b"600"


def test_a_writer_killed_at_any_moment_leaves_whole_documents_and_no_lock(store: FileBackend) -> None:
    script = """
n = 0
while True:
    n += 1
    store.write("a/k", b"%d:" % n + b"x" * 300_000)
    store.write("b/%d" % n, b"y", ABSENT)
    if n == 3: print("going", flush=True)
"""
    for delay in (0.0, 0.003, 0.007, 0.013):
        process = child(script, str(store._root))
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        entry = store.read("a/k")
        assert entry is not None
        assert entry.value.endswith(b":" + b"x" * 300_000)
        store.write("a/k", b"", ALWAYS)
        for key in list(store.keys("b/")):
            assert store.read(key) is not None
            store.delete(key)


def test_what_a_killed_writer_left_is_swept_after_an_hour(store: FileBackend) -> None:
    store.write("a/k", b"1")
    left, fresh = store._root / "tmp" / "left", store._root / "tmp" / "fresh"
    left.write_bytes(b"")
    fresh.write_bytes(b"")
    past = time.time() - ABANDONED - 1
    os.utime(left, (past, past))
    assert store.sweep() == 1
    assert files(store, "tmp") == [fresh]


def test_a_sweep_removes_what_has_expired_and_the_folders_it_empties(
    store: FileBackend, clock: FrozenClock
) -> None:
    for n in range(10):
        store.write(f"join/{n}/m", b"", ALWAYS, clock.now + 10)
    store.write("join/0/stays", b"")
    clock.now += 10
    assert store.sweep() == 10
    assert [each.name for each in files(store)] == ["stays.doc"]
    assert not (store._data / "join" / "1").exists()


def test_writes_sweep_a_few_documents_each_and_rest_after_a_round(
    store: FileBackend, clock: FrozenClock
) -> None:
    store.write("first/x", b"")
    clock.now += SWEEP_PAUSE
    for n in range(4 * SWEEP_STEP):
        (store._data / "old").mkdir(exist_ok=True)
        store.write(f"old/{n}", b"", ALWAYS, clock.now + 1)
    clock.now += SWEEP_PAUSE + 1
    before = len(files(store))
    store.write("a/1", b"")
    assert 0 < before - (len(files(store)) - 1) <= SWEEP_STEP
    for n in range(12):
        store.write(f"a/{n}", b"")
    assert not (store._data / "old").exists()
    store.write("old/1", b"", ALWAYS, clock.now - 1)
    for n in range(12):
        store.write(f"a/{n}", b"")
    assert (store._data / "old").exists(), "the sweep rests between rounds"


def test_a_folder_swept_away_while_it_is_written_to_is_made_again(store: FileBackend) -> None:
    script = """
for n in range(300):
    store.write("busy/k", b"1", ABSENT)
    store.delete("busy/k")
    store.write("busy/j", b"1", ALWAYS, 1.0)
    store.sweep()
"""
    process = child(script, str(store._root))
    while process.poll() is None:
        store.write("busy/other", b"2")
        store.delete("busy/other")
    process.communicate()
    assert process.returncode == 0


@pytest.mark.parametrize("error", [FileNotFoundError, FileExistsError])
def test_a_folder_removed_while_it_is_made_is_made_again(
    store: FileBackend, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    """pathlib tells of that race by either error; the folder is then simply not there."""
    real, failures = FileBackend._make_folder, [error(17, "raced", str(store._data / "a")) for _ in range(3)]

    def raced(self: FileBackend, folder: Path) -> None:
        if failures:
            raise failures.pop()
        real(self, folder)

    monkeypatch.setattr(FileBackend, "_make_folder", raced)
    store.write("a/b/c", b"1")
    assert not failures
    assert store.read("a/b/c") is not None


def test_a_document_cut_off_by_a_power_failure_is_named(store: FileBackend) -> None:
    store.write("a/k", b"value")
    (path,) = files(store)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(CorruptRecord, match=r"a/k\.doc holds 3 bytes of a value of 5"):
        store.read("a/k")
    assert list(store.keys("a/")) == ["a/k"]
    path.write_bytes(b"")
    with pytest.raises(CorruptRecord, match="not a document"):
        store.write("a/k", b"", ABSENT)
    assert store.sweep() == 0
    store.delete("a/k")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o500)
    with pytest.raises(AccessDenied, match="give this user read and write access"):
        FileBackend(tmp_path / "store").write("a/b", b"")


def test_a_refused_permission_is_named(store: FileBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("a/b", b"1")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(AccessDenied, match="give this user read and write access") as error:
        store.read("a/b")
    assert isinstance(error.value.__cause__, PermissionError)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    store = FileBackend(tmp_path / "store")
    with pytest.raises(StoreNotFound, match="is no folder; check the URL"):
        store.write("a/b", b"")
    with pytest.raises(StoreNotFound):
        store.read("a/b")


def test_a_full_disk_is_named_and_leaves_nothing_behind(
    store: FileBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("a/b", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileBackend, "_move", full)
    with pytest.raises(ServiceUnavailable, match="No space left on device; make room"):
        store.write("a/b", b"new")
    assert files(store, "tmp") == []
    entry = store.read("a/b")
    assert entry is not None
    assert entry.value == b"old"


def test_trouble_of_the_sweep_does_not_fail_the_write_that_came_by(
    store: FileBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(FileBackend, "remove_expired", refuse)
    store.write("a/b", b"1")
    assert "sweep of expired results stopped" in caplog.text


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_forked_while_a_lock_is_held_does_not_keep_it(store: FileBackend) -> None:
    path = store._path("a/b")
    store.write("a/b", b"1")
    reading, writing = os.pipe()
    with store._locked(path):
        process = os.fork()
        if process == 0:
            os.read(reading, 1)
            os._exit(0)
    try:
        killer = child("store.write('a/b', b'2')", str(store._root))
        assert killer.wait(10) == 0
        killer.communicate()
    finally:
        os.write(writing, b"x")
        os.waitpid(process, 0)
        os.close(reading)
        os.close(writing)
