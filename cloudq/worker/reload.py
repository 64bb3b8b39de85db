"""``--reload``, for development: when a module that the worker has imported changes, it starts anew.

Warm: running tasks finish first. The process replaces its program (``exec``), so it keeps its terminal and
its process id. A broken module is waited out: its next change is another try.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from cloudq.errors import MissingExtra

if TYPE_CHECKING:
    from cloudq.worker.worker import Worker

logger = logging.getLogger("cloudq.worker")

#: Milliseconds between two looks whether to stop watching, and for which changes are gathered.
_LOOK: Final = 200
_SETTLE: Final = 300


class Reloader:
    """Watches the files of the modules that are imported, the standard library's and installed ones left out."""

    def __init__(self, worker: Worker) -> None:
        """Raises MissingExtra without watchfiles."""
        check()
        self._worker = worker
        self._closed = threading.Event()
        self._known = {path: _stamp(path) for path in sources()}
        self._thread: threading.Thread | None = None
        #: What has changed.
        self.changed: Path | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._thread = threading.Thread(target=self._run, name="cloudq-reload", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Watch no more."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(2.0)

    def _run(self) -> None:
        try:
            for touched in changes(tops(self._known), self._closed):
                # the first one is empty: it tells of what changed before the watch began
                if not touched or touched & sources():
                    self.changed = self._find()
                if self.changed is not None:
                    logger.info("%s has changed: starting anew once running tasks have ended", self.changed)
                    self._worker.stop(f"{self.changed.name} has changed")
                    return
        except Exception:
            logger.exception("watching for changes failed; restart the worker by hand")

    def _find(self) -> Path | None:
        """An imported file that is not what it was; one imported later is known from now on."""
        for path in sorted(sources()):
            stamp = _stamp(path)
            if stamp is not None and self._known.setdefault(path, stamp) != stamp:
                return path
        return None


def check() -> None:
    """Raises MissingExtra without watchfiles."""
    if importlib.util.find_spec("watchfiles") is None:
        raise MissingExtra("--reload", "reload")


def wait_for_repair(folder: Path) -> Path:
    """The app cannot be imported (the error is printed): wait for the next change of a Python file."""
    traceback.print_exc()
    print(f"the app cannot be imported; waiting for a change in {folder}", file=sys.stderr)  # noqa: T201
    for touched in changes([folder], threading.Event()):
        for path in touched:
            return path
    raise KeyboardInterrupt  # the watch ends at Ctrl-C only


def again() -> NoReturn:
    """Start this very command anew, in this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    # our own command, as it was given
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  # nosec B606


def sources() -> set[Path]:
    """The files of the modules imported so far that somebody may be working on."""
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")}
    found = set()
    for module in list(sys.modules.values()):
        file: Any = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(".py"):
            path = Path(file).resolve()
            if not any(path.is_relative_to(each) for each in installed):
                found.add(path)
    return found


def tops(files: Iterable[Path]) -> list[Path]:
    """The folders of these files, without those that lie below another."""
    found: list[Path] = []
    for folder in sorted({path.parent for path in files}):
        if not any(folder.is_relative_to(each) for each in found):
            found.append(folder)
    return found


def changes(folders: list[Path], closed: threading.Event) -> Iterator[set[Path]]:
    """Python files that change below these folders, until ``closed``. The first set comes, empty perhaps,
    as soon as they are watched."""
    from watchfiles import PythonFilter, watch

    first = True
    batches = watch(
        *folders,
        watch_filter=PythonFilter(),
        stop_event=closed,
        debounce=_SETTLE,
        rust_timeout=_LOOK,
        yield_on_timeout=True,
        raise_interrupt=False,
    )
    for batch in batches:
        if batch or first:
            yield {Path(name).resolve() for _, name in batch}
        first = False


def _stamp(path: Path) -> tuple[int, int] | None:
    """What tells one state of a file from another; None while it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
