"""Between threads and asyncio."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from concurrent.futures import CancelledError

import pytest

from cloudq import aio
from cloudq.aio import LoopThread, ThreadBridge

NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME", default="nobody")


async def test_a_blocking_call_runs_in_a_thread_of_ours_with_the_callers_context() -> None:
    NAME.set("caller")
    where, who = await aio.to_thread(lambda: (threading.current_thread().name, NAME.get()))
    assert where.startswith("cloudq-aio")
    assert who == "caller"


async def test_an_error_in_the_thread_reaches_the_one_who_awaits() -> None:
    with pytest.raises(ZeroDivisionError):
        await aio.to_thread(lambda: 1 / 0)


async def test_no_more_threads_run_than_the_bridge_has() -> None:
    bridge, running, most = ThreadBridge(2), 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    await asyncio.gather(*(bridge.run(work) for _ in range(8)))
    bridge.close()
    assert most == 2


def test_sync_code_runs_a_coroutine_in_its_own_context() -> None:
    async def who() -> tuple[str, str]:
        await asyncio.sleep(0)
        return NAME.get(), threading.current_thread().name

    token = NAME.set("sync")
    try:
        assert aio.run(who()) == ("sync", "cloudq-loop")
    finally:
        NAME.reset(token)


def test_many_threads_share_one_loop() -> None:
    loops: set[int] = set()

    async def note() -> None:
        loops.add(id(asyncio.get_running_loop()))

    threads = [threading.Thread(target=lambda: aio.run(note())) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(loops) == 1


def test_a_coroutine_that_takes_too_long_is_cancelled_before_the_caller_goes_on() -> None:
    ended = threading.Event()

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    with pytest.raises(TimeoutError, match=r"0\.05 s"):
        aio.run(slow(), timeout=0.05)
    assert ended.is_set()


def test_a_timeout_of_the_coroutines_own_is_no_timeout_of_ours() -> None:
    async def fails() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        aio.run(fails(), timeout=5)


def test_running_on_the_loops_own_thread_is_refused_instead_of_hanging() -> None:
    async def nested() -> None:
        aio.run(asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="use await"):
        aio.run(nested())


def test_a_closed_loop_cancels_what_runs_and_starts_anew_when_asked() -> None:
    loop = LoopThread("test-loop")
    cancelled = threading.Event()

    async def for_ever() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def wait() -> None:
        with pytest.raises(CancelledError):
            loop.run(for_ever())

    waiter = threading.Thread(target=wait)
    waiter.start()
    while not any(each.name == "test-loop" for each in threading.enumerate()):
        time.sleep(0.001)
    loop.run(asyncio.sleep(0))
    loop.close()
    loop.close()
    waiter.join(5)
    assert cancelled.is_set()
    assert loop.run(asyncio.sleep(0, "again")) == "again"
    loop.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_has_a_loop_and_threads_of_its_own() -> None:
    async def through_thread() -> int:
        return await aio.to_thread(os.getpid)

    assert aio.run(through_thread()) == os.getpid()
    child = os.fork()
    if child == 0:
        os._exit(0 if aio.run(through_thread(), timeout=5) == os.getpid() else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
