"""Streams: all who watch share one look, what was looked at comes as parts of the page, and who leaves is noticed."""

import asyncio
import json
import sys
from typing import Any

import pytest
from dashboard_browser import NASTY, beat

from cloudq import CloudQ
from cloudq.dashboard import live, make_app
from cloudq.dashboard.live import Sampler
from cloudq.errors import MissingExtra, ServiceUnavailable
from cloudq.monitoring.overview import Overview
from cloudq.testing.clock import ManualClock

LONG = 30.0


class Looks:
    """Looks, counted; ``fails`` is raised instead."""

    def __init__(self) -> None:
        self.count = 0
        self.fails: Exception | None = None

    def __call__(self) -> Overview:
        self.count += 1
        if self.fails is not None:
            raise self.fails
        return Overview(float(self.count), [], [], [], [])


def sampler_of(looks: Looks, clock: ManualClock, interval: float = LONG) -> Sampler:
    return Sampler(looks, clock, interval=interval, patience=LONG, remembered=10)


async def test_all_who_ask_at_once_share_one_look(clock: ManualClock) -> None:
    looks = Looks()
    sampler = sampler_of(looks, clock)
    found = await asyncio.gather(*(sampler.now() for _ in range(20)))
    assert {each.number for each in found} == {1}
    assert looks.count == 1
    assert (await sampler.now()).number == 1  # it is fresh
    sampler.expire()
    assert (await sampler.now()).number == 2
    clock.advance(2 * LONG + 1)
    assert (await sampler.now()).number == 3
    sampler.stop()


async def test_watchers_share_the_looks_that_follow(clock: ManualClock) -> None:
    looks = Looks()
    sampler = sampler_of(looks, clock, interval=0.01)

    async def watch() -> list[int]:
        seen = [0]
        async with sampler.watching():
            while len(seen) < 4:
                look = await sampler.after(seen[-1], LONG)
                assert look is not None
                seen.append(look.number)
        return seen

    found = await asyncio.gather(*(watch() for _ in range(10)))
    assert sampler.watchers == 0
    assert looks.count <= max(max(each) for each in found) + 1
    sampler.stop()


async def test_a_look_that_fails_keeps_what_was_seen_and_says_why(clock: ManualClock) -> None:
    looks = Looks()
    sampler = sampler_of(looks, clock)
    assert (await sampler.now()).error is None
    looks.fails = ServiceUnavailable("away")
    sampler.expire()
    look = await sampler.now()
    assert (look.error, look.view and look.view.at) == ("away", 1.0)
    looks.fails = RuntimeError("secret")
    sampler.expire()
    assert "unexpected RuntimeError" in str((await sampler.now()).error)
    looks.fails = None
    sampler.expire()
    assert (await sampler.now()).error is None
    sampler.stop()


async def test_it_stops_looking_when_nobody_has_asked_for_long(clock: ManualClock) -> None:
    looks = Looks()
    sampler = sampler_of(looks, clock, interval=0.01)
    await sampler.now()
    task = sampler._task
    assert task is not None
    clock.advance(live.LINGER + 1)
    sampler._wake.set()
    await asyncio.wait_for(task, LONG)
    count = looks.count
    clock.advance(3 * LONG)
    await sampler.now()  # and begins again
    assert looks.count > count
    sampler.stop()


async def test_stopping_ends_those_who_wait(clock: ManualClock) -> None:
    sampler = sampler_of(Looks(), clock)
    number = (await sampler.now()).number
    waiting = asyncio.create_task(sampler.after(number, 10 * LONG))
    await asyncio.sleep(0)
    sampler.stop()
    assert await asyncio.wait_for(waiting, LONG) is None


class Watcher:
    """A browser that listens to a stream, and leaves."""

    def __init__(self, asgi: Any, path: str) -> None:
        self.chunks: asyncio.Queue[str] = asyncio.Queue()
        self.left = asyncio.Event()
        self.status = 0
        path, _, query = path.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
            "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 5), "server": ("localhost", 80),
        }  # fmt: skip
        self.task = asyncio.create_task(asgi(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            await self.chunks.put(message["body"].decode())

    async def parts(self) -> dict[str, str]:
        """The next parts of the page that come."""
        while True:
            chunk = await asyncio.wait_for(self.chunks.get(), LONG)
            if chunk.startswith("event: parts\ndata: "):
                found: dict[str, str] = json.loads(chunk.removeprefix("event: parts\ndata: "))
                return found

    async def leave(self) -> None:
        self.left.set()
        await asyncio.wait_for(self.task, LONG)


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/live/queues", 'href="/queues/a"'),
        ("/live/queue?name=a", "<figure"),
        ("/live/workers", ">lost<"),
        ("/live/worker?name=w1", "Running"),
        ("/live/tasks", 'href="/tasks/t-0"'),
    ],
)
async def test_a_stream_brings_the_parts_of_its_page(app: CloudQ, path: str, shown: str) -> None:
    asgi = make_app(app, interval=0.05)
    site = asgi.state.site
    watcher = Watcher(asgi, path)
    parts = await watcher.parts()
    assert shown in parts["live"]
    assert "1 worker<" in parts["status"]
    assert site.sampler.watchers == 1
    beat(app, NASTY, app.clock.time())
    while "2 workers<" not in parts["status"]:
        parts = await watcher.parts()
    assert NASTY not in json.dumps(parts)
    await watcher.leave()
    assert (site.sampler.watchers, site.recent_wanted) == (0, 0)
    site.sampler.stop()


async def test_a_stream_that_is_none_is_not_found(app: CloudQ) -> None:
    watcher = Watcher(make_app(app), "/live/nope")
    await asyncio.wait_for(watcher.chunks.get(), LONG)
    assert watcher.status == 404
    await watcher.leave()


def test_without_its_extra_it_says_what_to_install(app: CloudQ, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.startswith("cloudq.dashboard.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette.requests", None)
    with pytest.raises(MissingExtra, match=r'pip install "cloudq-tasks\[dashboard\]"'):
        make_app(app)
