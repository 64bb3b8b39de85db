"""The results store in a folder: one file a key, for one machine or one shared file system.

Under the folder: ``data/`` (the documents), ``tmp/`` (documents being written), ``locks/``. A document is
written aside and renamed into place while a file lock of its name is held, so readers need no lock
and a process killed at any point leaves the old document or the new one; the kernel drops its locks.
After a power failure the last writes may be gone, unless ``fsync=true``.

Every write also looks at a few other documents and removes those that have expired.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from cloudq.backends import document, names
from cloudq.backends.base import (
    ALWAYS,
    Absent,
    BackendCapabilities,
    Condition,
    Entry,
    Matches,
    Version,
    check_folder,
    check_key,
)
from cloudq.backends.document import HEADER_BYTES, Document, Header
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.errors import (
    AccessDenied,
    CloudQError,
    Conflict,
    CorruptRecord,
    ImproperlyConfigured,
    OperationalError,
    ServiceUnavailable,
    StoreNotFound,
)
from cloudq.url import Url

logger = logging.getLogger("cloudq.backends")

CAPABILITIES: Final = BackendCapabilities(conflict_has_entry=True, batch_read=100, reach="machine")
#: Lock files. Two names may share one: then their writers wait for each other, nothing more.
LOCKS: Final = 64
#: Documents that a write looks at for the sweep, and seconds between two rounds of the sweep.
SWEEP_STEP: Final = 4
SWEEP_PAUSE: Final = 300.0
#: Seconds after which a document being written is one that nobody will finish.
ABANDONED: Final = 3_600.0
#: Tries to write into a folder that a sweep removes as empty at the same time.
ATTEMPTS: Final = 20

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EIO, errno.ESTALE)


def from_url(url: Url, clock: Clock = SYSTEM_CLOCK) -> FileBackend:
    """``file:///folder?fsync=false``: three slashes for a relative folder, four for an absolute one"""
    url.options(("fsync",))
    if url.host or not url.path:
        raise ImproperlyConfigured(
            f"file:// names a folder after three slashes (relative) or four (absolute), got {url}: "
            "write file:///results or file:////var/lib/cloudq"
        )
    return FileBackend(Path(url.path), url=str(url), fsync=url.flag("fsync"), clock=clock)


class FileBackend:
    """``ResultBackend`` in a folder, which is made at the first write."""

    def __init__(
        self, folder: Path, *, url: str | None = None, fsync: bool = False, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        try:
            import fcntl
        except ImportError as error:
            raise ImproperlyConfigured(
                "file:// needs POSIX file locks; use sqlite:///results.db here"
            ) from error
        self._fcntl = fcntl
        # Made absolute once: a later chdir must not move the store.
        self._root = folder.absolute()
        self._data = self._root / "data"
        self._url = url or f"file:///{folder}"
        self._fsync = fsync
        self._clock = clock
        self._sweep = _Sweep(self, clock)

    @property
    def capabilities(self) -> BackendCapabilities:
        return CAPABILITIES

    @property
    def url(self) -> str:
        return self._url

    # --- the verbs ----------------------------------------------------------------------------

    def read(self, key: str) -> Entry | None:
        path = self._path(key)
        with self._guarded(path):
            return self._entry(path)

    def read_many(self, keys: Iterable[str]) -> dict[str, Entry]:
        entries = ((key, self.read(key)) for key in dict.fromkeys(keys))
        return {key: entry for key, entry in entries if entry is not None}

    def write(
        self, key: str, value: bytes, when: Condition = ALWAYS, expires_at: float | None = None
    ) -> Version:
        path = self._path(key)
        new = Document(document.new_nonce(), value, expires_at)
        with self._guarded(path):
            aside = self._write_aside(document.dump(new))
            try:
                with self._locked(path):
                    self._require(key, path, when)
                    self._move(aside, path)
            except BaseException:
                aside.unlink(missing_ok=True)
                raise
            self._sweep.step()
        return Version(new.nonce.hex())

    def delete(self, key: str, when: Condition = ALWAYS) -> None:
        if isinstance(when, Absent):
            raise ValueError("delete(when=ABSENT) makes no sense: there would be nothing to delete")
        path = self._path(key)
        with self._guarded(path):
            if not path.exists() and when == ALWAYS:
                return
            with self._locked(path):
                self._require(key, path, when)
                path.unlink(missing_ok=True)
            self._prune(path.parent)

    def keys(self, prefix: str) -> Iterator[str]:
        folder = self._data.joinpath(*names.to_folder_path(check_folder(prefix)))
        with self._guarded(folder):
            return iter(sorted(prefix + last for last in self._names(folder, [])))

    def close(self) -> None:
        self._sweep.close()

    def sweep(self) -> int:
        """Remove every expired document and what killed writers left; how many were removed."""
        with self._guarded(self._data):
            return sum(self._sweep.round())

    # --- documents ----------------------------------------------------------------------------

    def _path(self, key: str) -> Path:
        return self._data.joinpath(*names.to_file_path(check_key(key)))

    def _entry(self, path: Path) -> Entry | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        found = document.load(data, str(path))
        if not found.alive(self._clock.time()):
            return None
        return Entry(found.value, Version(found.nonce.hex()), found.expires_at)

    def _header(self, path: Path) -> Header | None:
        """The header of a document that has not expired."""
        try:
            with path.open("rb") as file:
                header = document.load_header(file.read(HEADER_BYTES), str(path))
        except FileNotFoundError:
            return None
        return header if header.alive(self._clock.time()) else None

    def _require(self, key: str, path: Path, when: Condition) -> None:
        if when == ALWAYS:
            return
        header = self._header(path)
        if isinstance(when, Matches):
            met = header is not None and header.nonce.hex() == when.version
        else:
            met = header is None
        if not met:
            raise Conflict(key, None if header is None else self._entry(path))

    def _names(self, folder: Path, pieces: list[str]) -> Iterator[str]:
        """The last segments of the keys in a folder, the long ones in folders of their own included."""
        try:
            entries = sorted(os.listdir(folder))
        except FileNotFoundError:
            return
        for name in entries:
            if names.is_continued(name):
                yield from self._names(folder / name, [*pieces, name])
            elif name.endswith(names.LEAF) and self._is_listed(folder / name):
                yield names.from_pieces([*pieces, name.removesuffix(names.LEAF)])

    def _is_listed(self, path: Path) -> bool:
        try:
            return self._header(path) is not None
        except CorruptRecord:
            return True  # it is there; reading it says what is wrong

    # --- files --------------------------------------------------------------------------------

    def _write_aside(self, data: bytes) -> Path:
        aside = self._root / "tmp" / os.urandom(16).hex()
        for _ in range(2):
            try:
                with aside.open("xb") as file:
                    file.write(data)
                    if self._fsync:
                        file.flush()
                        os.fsync(file.fileno())
                return aside
            except FileNotFoundError:
                aside.parent.mkdir(parents=True, exist_ok=True)
            except BaseException:
                aside.unlink(missing_ok=True)
                raise
        raise StoreNotFound(f"the folder {self._root} disappears as soon as it is made")

    def _move(self, aside: Path, path: Path) -> None:
        for _ in range(ATTEMPTS):
            try:
                aside.replace(path)
            except FileNotFoundError:
                self._try_folder(path.parent)
                continue
            if self._fsync:
                # Gone again already means that somebody deleted the document and the folder.
                with contextlib.suppress(FileNotFoundError):
                    self._fsync_folder(path.parent)
            return
        raise ServiceUnavailable(f"{path.parent} was removed at each of {ATTEMPTS} tries to write into it")

    def _try_folder(self, folder: Path) -> None:
        """Make the folder, unless it is removed as empty at the same time: then the caller tries again."""
        try:
            self._make_folder(folder)
        except FileNotFoundError:
            return
        except FileExistsError as error:
            # pathlib also says this of a folder that was there and then was not.
            if Path(error.filename).is_file():
                raise

    def _make_folder(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if self._fsync:
            # The new folders' own entries must survive as well.
            while folder != self._root:
                folder = folder.parent
                self._fsync_folder(folder)

    def _fsync_folder(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _prune(self, folder: Path) -> None:
        """Remove the folder and those above it, as far as they are empty."""
        while folder != self._data:
            try:
                folder.rmdir()
            except OSError:
                return  # not empty, or somebody else was faster
            folder = folder.parent

    @contextlib.contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """Hold the lock of a document's name, against threads and processes."""
        number = zlib.crc32(str(path.relative_to(self._data)).encode()) % LOCKS
        lock = self._root / "locks" / f"{number:02}.lock"
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            lock.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._fcntl.flock(descriptor, self._fcntl.LOCK_EX)
            yield
        finally:
            # Unlocked by name: closing alone leaves the lock with a child forked in between.
            self._fcntl.flock(descriptor, self._fcntl.LOCK_UN)
            os.close(descriptor)

    @contextlib.contextmanager
    def _guarded(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, CloudQError):
                raise
            raise self._ours(path, error) from error

    def _ours(self, path: Path, error: OSError) -> CloudQError:
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            return AccessDenied(
                f"{path}: {error.strerror}; give this user read and write access to {self._root}"
            )
        if isinstance(error, NotADirectoryError | FileExistsError):
            return StoreNotFound(f"{self._url}: {error.filename or self._root} is no folder; check the URL")
        if error.errno in _FULL:
            return ServiceUnavailable(
                f"{path}: {error.strerror}; make room or raise the limit, then try again"
            )
        return OperationalError(f"{path}: {error.strerror or error}")

    # --- for the sweep ------------------------------------------------------------------------

    def remove_expired(self, path: Path) -> bool:
        """Remove a document if it has expired; looked at again under its lock."""
        try:
            if self._header(path) is not None or not path.exists():
                return False
            with self._locked(path):
                if self._header(path) is not None:
                    return False
                path.unlink(missing_ok=True)
            return True
        except CorruptRecord:
            return False  # somebody will want to see it

    def walk(self) -> Iterator[Path]:
        """Every document, a little at a time; folders found empty are removed on the way."""
        return self._walk(self._data)

    def _walk(self, folder: Path) -> Iterator[Path]:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        yield from self._walk(Path(entry.path))
                    elif entry.name.endswith(names.LEAF):
                        yield Path(entry.path)
        except FileNotFoundError:
            return
        self._prune(folder)

    def abandoned(self) -> Iterator[Path]:
        """What killed writers left. By the machine's own clock, as the files' times are."""
        try:
            with os.scandir(self._root / "tmp") as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        if entry.stat().st_mtime < time.time() - ABANDONED:
                            yield Path(entry.path)
        except FileNotFoundError:
            return


class _Sweep:
    """Removes expired documents, a few at each write: no thread, no long pause."""

    def __init__(self, store: FileBackend, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._mutex = threading.Lock()
        self._pid = os.getpid()
        self._running: Iterator[bool] | None = None
        self._next = clock.monotonic()

    def round(self) -> Iterator[bool]:
        """Look at every document once; True for each that was removed."""
        for path in self._store.abandoned():
            path.unlink(missing_ok=True)
            yield True
        for path in self._store.walk():
            yield self._store.remove_expired(path)

    def step(self) -> None:
        """Look at the next few. Somebody else's step is enough."""
        if self._pid != os.getpid():
            # A forked child: the parent's place in the folder is the parent's.
            self._pid, self._mutex, self._running = os.getpid(), threading.Lock(), None
        if not self._mutex.acquire(blocking=False):
            return
        try:
            if self._running is None:
                if self._clock.monotonic() < self._next:
                    return
                self._running = self.round()
            for _ in range(SWEEP_STEP):
                if next(self._running, None) is None:
                    self._rest()
                    return
        except OSError as error:
            # The write that came by is done; what is wrong here is no business of its caller's.
            logger.warning("the sweep of expired results stopped: %s", error)
            self._rest()
        finally:
            self._mutex.release()

    def _rest(self) -> None:
        self._running = None
        self._next = self._clock.monotonic() + SWEEP_PAUSE

    def close(self) -> None:
        with self._mutex:
            self._running = None
