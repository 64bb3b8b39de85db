"""Work that several threads want at once: done by one, never left undone."""

import os
import signal
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor

import pytest

from cloudq.shared import Shared


class Counted(Shared):
    """Tells how many have asked so far."""

    def __init__(self, patience: float = 30.0) -> None:
        super().__init__(patience)
        self.asked = threading.Semaphore(0)

    def do(self, name: Hashable, work: Callable[[], object]) -> bool:
        self.asked.release()
        return super().do(name, work)


def until(semaphore: threading.Semaphore, times: int) -> None:
    for _ in range(times):
        assert semaphore.acquire(timeout=60)


def test_many_at_once_have_it_done_once_and_nobody_leaves_before() -> None:
    shared, done = Counted(), []

    def work() -> None:
        if not done:  # who has asked, but was too slow to see it under way, finds it done
            until(shared.asked, 8)
            done.append(threading.get_ident())

    def one() -> tuple[bool, bool]:
        return shared.do("x", work), bool(done)

    with ThreadPoolExecutor(8) as pool:
        found = [each.result(60) for each in [pool.submit(one) for _ in range(8)]]
    assert len(done) == 1
    assert {after for _, after in found} == {True}
    assert (True, True) in found
    assert len(shared) == 0


def test_different_works_do_not_wait_for_each_other() -> None:
    shared = Shared(30.0)
    assert shared.do("a", lambda: shared.do("b", lambda: None))


def test_work_that_asks_for_itself_does_not_wait_for_itself() -> None:
    shared, done = Shared(60.0), []
    assert shared.do("a", lambda: shared.do("a", lambda: done.append(1)))
    assert done == [1]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_a_failure_the_next_one_does_it(error: type[BaseException]) -> None:
    shared, done, failed = Counted(), [], []

    def work() -> None:
        if not failed:
            until(shared.asked, 4)
            failed.append(1)
            raise error("struck down")
        done.append(1)

    def one() -> str:
        try:
            return "here" if shared.do("x", work) else "elsewhere"
        except error:
            return "failed"

    with ThreadPoolExecutor(4) as pool:
        found = [each.result(60) for each in [pool.submit(one) for _ in range(4)]]
    # who had not looked again before the second try was over does it once more
    assert found.count("failed") == 1
    assert found.count("here") == len(done) >= 1
    assert len(shared) == 0


def test_one_who_hangs_holds_nobody_up_for_good() -> None:
    shared, release, done = Counted(patience=0.02), threading.Event(), []
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(shared.do, "x", lambda: release.wait(60))
        until(shared.asked, 1)
        while not len(shared):
            threading.Event().wait(0.005)
        assert shared.do("x", lambda: done.append(1))
        release.set()
        assert hanging.result(60)
    assert done == [1]
    assert len(shared) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_waits_for_no_thread_of_its_parent() -> None:
    shared, release = Counted(patience=600.0), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(shared.do, "x", lambda: release.wait(60))
        until(shared.asked, 1)
        while not len(shared):
            threading.Event().wait(0.005)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(30)  # one that waits dies of it
                code = 0 if shared.do("x", lambda: None) else 2
            finally:
                os._exit(code)
        release.set()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
