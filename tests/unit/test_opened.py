"""What a process has opened is its own: a forked child opens anew, and leaves the parent's alone."""

import os

import pytest

from cloudq import forks
from cloudq.opened import Opened

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class Thing:
    def __init__(self) -> None:
        self.pid = os.getpid()
        self.closed = False

    def close(self) -> None:
        self.closed = True


def exit_code_of_child(check: object) -> int:
    """What ``check()`` finds in a forked child: 0 when it is true."""
    assert callable(check)
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if check() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_opens_its_own_and_the_parent_keeps_its() -> None:
    opened = Opened()
    mine = opened.get("broker", Thing)
    assert opened.get("broker", Thing) is mine

    def other_one() -> bool:
        found = opened.get("broker", Thing)
        return found is not mine and found.pid == os.getpid() and opened.get("broker", Thing) is found

    assert exit_code_of_child(other_one) == 0
    assert opened.get("broker", Thing) is mine


def test_a_child_of_a_child_opens_its_own_too() -> None:
    opened = Opened()
    opened.get("broker", Thing)

    def in_child() -> bool:
        first = opened.get("broker", Thing)
        return exit_code_of_child(lambda: opened.get("broker", Thing) is not first) == 0

    assert exit_code_of_child(in_child) == 0


def test_a_child_that_closes_leaves_the_parents_open() -> None:
    opened = Opened()
    thing = opened.get("broker", Thing)

    def closes() -> bool:
        opened.close()
        return not thing.closed and opened.get("broker", Thing) is not thing

    assert exit_code_of_child(closes) == 0
    opened.close()
    assert thing.closed


def test_each_child_counts_one_more() -> None:
    here = forks.generation
    assert exit_code_of_child(lambda: forks.generation == here + 1) == 0
    assert forks.generation == here
