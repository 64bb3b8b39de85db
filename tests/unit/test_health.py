"""Health: what /healthz, /readyz and systemd are told."""

import json
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cloudq.errors import ImproperlyConfigured
from cloudq.hooks import Hooks
from cloudq.worker.condition import Condition
from cloudq.worker.health import HealthServer
from cloudq.worker.systemd import Notifier, from_environment


class Hands:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
def worker(clock: Hands) -> Any:
    """As much of a worker as its condition depends on."""
    sources = [SimpleNamespace(queue=name, well_at=clock.now, last_error=None) for name in ("a", "b")]
    conf = SimpleNamespace(worker_wait_time=20.0, worker_shutdown_timeout=30.0, worker_poll_patience=0.0)
    app = SimpleNamespace(hooks=Hooks())
    return SimpleNamespace(
        app=app, conf=conf, sources=sources, queues=["a", "b"], stopping=False, hostname="w", running={}
    )


@pytest.fixture
def condition(worker: Any, clock: Hands) -> Condition:
    return Condition(worker, 60.0, clock)


# --- condition -------------------------------------------------------------------------------------


def test_a_worker_is_ready_from_its_start_to_its_stop(condition: Condition, worker: Any) -> None:
    assert not condition.ready()
    worker.app.hooks.fire("worker_ready", worker=worker)
    assert condition.ready()
    worker.stopping = True
    assert not condition.ready()
    assert condition.well()


def test_one_silent_queue_makes_it_unwell_until_it_answers(
    condition: Condition, worker: Any, clock: Hands
) -> None:
    worker.app.hooks.fire("worker_ready", worker=worker)
    clock.now += 61
    worker.sources[0].well_at = clock.now - 1
    assert condition.silent() == {"b": 61.0}
    assert not condition.well()
    assert not condition.ready()
    worker.sources[1].well_at = clock.now
    assert condition.well()
    assert condition.ready()


def test_a_worker_that_stops_is_not_to_be_killed_for_its_silence(
    condition: Condition, worker: Any, clock: Hands
) -> None:
    clock.now += 1000
    worker.stopping = True

    assert condition.well()


def test_a_patience_shorter_than_a_poll_is_refused(worker: Any) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=r"worker_health_timeout is 20 s, .* takes worker_wait_time, 20 s"
    ):
        Condition(worker, 20.0)


# --- HTTP ------------------------------------------------------------------------------------------


@pytest.fixture
def server(condition: Condition) -> Iterator[HealthServer]:
    made = HealthServer(condition, "127.0.0.1", 0)
    made.start()
    yield made
    made.close()


def ask(server: HealthServer, path: str, method: str = "GET") -> tuple[int, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_healthz_and_readyz(server: HealthServer, worker: Any, clock: Hands) -> None:
    assert ask(server, "/healthz")[0] == 200
    assert ask(server, "/readyz")[0] == 503
    worker.app.hooks.fire("worker_ready", worker=worker)
    assert ask(server, "/readyz")[0] == 200
    assert ask(server, "/healthz/?verbose=1", "HEAD") == (200, None)
    clock.now += 100
    worker.sources[0].last_error = "ServiceUnavailable: away"
    status, report = ask(server, "/healthz")
    assert status == 503
    assert report["queues"]["a"] == {"seconds_since_last_success": 100.0, "error": "ServiceUnavailable: away"}
    assert ask(server, "/readyz")[0] == 503
    assert ask(server, "/metrics")[0] == 404


def test_an_address_that_is_taken_is_refused_at_the_start(server: HealthServer, condition: Condition) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"health cannot be served on 127.0.0.1:{server.port}"):
        HealthServer(condition, "127.0.0.1", server.port)


def test_a_client_that_says_nothing_keeps_nobody_else_waiting(server: HealthServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)):
        assert ask(server, "/healthz")[0] == 200


# --- systemd ---------------------------------------------------------------------------------------


class Manager:
    """A service manager's socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(5)

    def hear(self) -> dict[str, str]:
        lines = self.socket.recv(4096).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = (
        f"@cloudq-{os.getpid()}-{time.monotonic_ns()}" if request.param == "abstract" else str(tmp_path / "s")
    )
    made = Manager(name)
    yield made
    made.socket.close()


def told(worker: Any, condition: Condition, **environ: str) -> Any:
    found = from_environment(worker, lambda: condition, environ, pid=42)
    assert found is not None
    return found


def test_systemd_hears_of_the_start_and_the_stop(manager: Manager, worker: Any, condition: Condition) -> None:
    systemd = told(worker, condition, NOTIFY_SOCKET=manager.address)
    worker.app.hooks.fire("worker_ready", worker=worker)
    assert manager.hear() == {"READY": "1", "STATUS": "consuming a, b"}
    worker.app.hooks.fire("worker_stopping", worker=worker, signal="SIGTERM")
    assert manager.hear() == {
        "STOPPING": "1",
        "STATUS": "finishing running tasks",
        "EXTEND_TIMEOUT_USEC": "50000000",
    }
    systemd.close()


def test_signs_of_life_come_only_while_the_worker_is_well(
    manager: Manager, worker: Any, condition: Condition, clock: Hands
) -> None:
    systemd = told(worker, condition, NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="20000", WATCHDOG_PID="42")
    worker.app.hooks.fire("worker_ready", worker=worker)
    assert manager.hear()["READY"] == "1"
    assert [manager.hear() for _ in range(3)] == [{"WATCHDOG": "1"}] * 3
    clock.now += 100
    until(lambda: "STATUS" in manager.hear())
    assert {tuple(manager.hear()) for _ in range(3)} == {("STATUS",)}
    for source in worker.sources:
        source.well_at = clock.now
    until(lambda: "WATCHDOG" in manager.hear())
    systemd.close()


def until(check: Callable[[], bool]) -> None:
    for _ in range(100):
        if check():
            return
    raise AssertionError("never")


@pytest.mark.parametrize(
    "environ",
    [{}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "41"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "0"}],
)
def test_no_watchdog_no_signs_of_life(
    manager: Manager, worker: Any, condition: Condition, environ: dict[str, str]
) -> None:
    systemd = told(worker, condition, NOTIFY_SOCKET=manager.address, **environ)
    worker.app.hooks.fire("worker_ready", worker=worker)

    assert systemd._thread is None
    systemd.close()


def test_half_the_watchdogs_time_passes_between_two_signs(
    worker: Any, condition: Condition, tmp_path: Path
) -> None:
    systemd = told(worker, condition, NOTIFY_SOCKET=str(tmp_path / "s"), WATCHDOG_USEC="30000000")

    assert systemd._every == 15.0
    systemd.close()


def test_without_systemd_nothing_is_said(worker: Any, condition: Condition) -> None:
    assert from_environment(worker, lambda: condition, {}) is None
    assert from_environment(worker, lambda: condition, {"NOTIFY_SOCKET": "vsock:2:1"}) is None


def test_a_manager_that_does_not_listen_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(str(tmp_path / "nobody"))
    notifier.send(READY=1)
    notifier.send(WATCHDOG=1)
    notifier.close()

    assert len(caplog.records) == 1
