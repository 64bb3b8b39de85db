"""How a limit strikes a running job: an exception thrown into its thread from outside."""

from __future__ import annotations

import ctypes
import threading

from cloudq.errors import SoftTimeLimitExceeded


class HardLimit(BaseException):
    """Thrown into a job at its hard limit; no ``except Exception`` of the task's can stop it."""


class Stopped(BaseException):
    """Thrown into a job that still runs when the pool's grace period is over."""


class Cancel(BaseException):
    """Thrown into a job that ``Steerable.cancel`` stops."""


#: Everything a pool may throw into a job.
STRIKES: tuple[type[BaseException], ...] = (SoftTimeLimitExceeded, HardLimit, Stopped, Cancel)


def throw(ident: int, exception: type[BaseException]) -> None:
    """Raise ``exception`` in the thread ``ident``, at its next Python instruction.

    A thread inside a C call (``time.sleep``, a lock, a socket) notices when the call returns.
    """
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(exception))


class _Recall(BaseException):
    """Takes the place of an exception that is to be forgotten."""


def take_back() -> None:
    """Forget an exception that was thrown into this thread and has not been raised yet.

    By another one in its place, caught here. Throwing NULL, as the C API offers, was seen to leave
    CPython 3.11 with something pending for good: code under ``sys.settrace`` then hangs.
    """
    try:
        throw(threading.get_ident(), _Recall)
        while True:  # it is raised when the call returns, at the latest at the first jump
            pass
    except _Recall:
        pass
