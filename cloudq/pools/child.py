"""The child of a prefork pool: makes its runner, does one job at a time on its main thread.

Between parent and child go length-prefixed messages on one pipe: jobs down (pickled), and up a
letter with what belongs to it. A second pipe, which nobody writes to, tells the child that its
parent is gone.
"""

from __future__ import annotations

import logging
import os
import pickle
import resource
import signal
import struct
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any, Final

from cloudq.errors import SerializationError
from cloudq.plugins import load_object
from cloudq.pools.base import Runner, RunnerSpec
from cloudq.pools.solo import AlarmWatch

READY: Final = b"S"  # made its runner
BROKEN: Final = b"X"  # could not; text follows
REPLY: Final = b"R"  # the pickled reply follows
LAST: Final = b"L"  # as REPLY, and the child ends: it has done enough, or has grown too much
FAILED: Final = b"F"  # the runner failed or its reply cannot be pickled; text follows
BEGIN: Final = b"B"  # user code with a hard limit begins; 8 bytes of float follow
END: Final = b"E"  # it has ended

logger = logging.getLogger("cloudq.pools")


def main(
    pipe: Connection, lifeline: Connection, spec: RunnerSpec, max_tasks: int | None, max_memory: int | None
) -> None:
    """Run until told to stop (the pipe is closed), recycled, or orphaned."""
    _ignore_terminal()
    threading.Thread(target=_die_with_parent, args=(lifeline,), name="cloudq-lifeline", daemon=True).start()
    try:
        runner: Runner = load_object(spec.factory)(*spec.args)
    except BaseException as error:
        text = "".join(traceback.format_exception_only(type(error), error)).strip()
        logger.debug("the child cannot start", exc_info=error)
        pipe.send_bytes(BROKEN + text.encode("utf-8", "replace"))
        sys.exit(1)
    pipe.send_bytes(READY)
    try:
        _serve(pipe, runner, max_tasks, max_memory)
    finally:
        runner.close()


def _serve(pipe: Connection, runner: Runner, max_tasks: int | None, max_memory: int | None) -> None:
    done = 0
    while True:
        try:
            job = pickle.loads(pipe.recv_bytes())  # noqa: S301  from our own parent
        except EOFError:
            return
        answer = _answer(pipe, runner, job)
        done += 1
        last = (max_tasks is not None and done >= max_tasks) or _grown(max_memory)
        if last and answer[:1] == REPLY:
            answer = LAST + answer[1:]
        try:
            pipe.send_bytes(answer)
        except (BrokenPipeError, ConnectionResetError):
            return
        if last:
            return


def _answer(pipe: Connection, runner: Runner, job: Any) -> bytes:
    def tell(hard: float | None) -> None:
        pipe.send_bytes(END if hard is None else BEGIN + struct.pack("!d", hard))

    watch = AlarmWatch(tell, own_hard=False)  # the parent keeps the hard limit: it can kill
    try:
        reply = runner.run(job, watch)
    except Exception as error:
        logger.exception("a runner failed")
        return FAILED + f"the runner failed: {error!r}".encode("utf-8", "replace")
    finally:
        watch.end()
    try:
        return REPLY + pickle.dumps(reply, protocol=5)
    except (pickle.PicklingError, TypeError, AttributeError, SerializationError) as error:
        return FAILED + f"the reply cannot be pickled: {error}".encode("utf-8", "replace")


def _grown(max_memory: int | None) -> bool:
    if max_memory is None:
        return False
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024 if sys.platform == "darwin" else 1) > max_memory


def _ignore_terminal() -> None:
    """The parent decides when we stop. A handler, not SIG_IGN: programs that tasks start get the default."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda number, frame: None)


def _die_with_parent(lifeline: Connection) -> None:
    try:
        lifeline.recv_bytes()
    except (EOFError, OSError):
        os._exit(0)
