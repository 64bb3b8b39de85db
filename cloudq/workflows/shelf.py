"""What is too long to travel is put on a shelf: a chain's later steps, a group's members, what follows a group.

A message then carries a step that names the page. Pages are written before anything that names them
is sent; their keys are derived from ids, so writing them again writes the same.

    plan/ID/rest      the steps from the one called ID on; the last may name the next page
    plan/GROUP/then   what follows a group
    plan/GROUP/N      the N-th page of a group's members
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from cloudq.canvas.freeze import child_of
from cloudq.canvas.plan import Flow, Step, is_group
from cloudq.coordination.join import DEFAULT_TTL
from cloudq.errors import CorruptRecord, ImproperlyConfigured
from cloudq.results.store import ResultStore
from cloudq.serializers import tagged
from cloudq.workflows.members import quoted, save_chosen

#: A step that stands for a page.
REST: Final = "cloudq.rest"
#: Steps, and bytes, of a chain that travel with a message. SQS counts 64 KiB as one request.
STEPS: Final = 50
BYTES: Final = 32 * 1024
#: Bytes that every member of a group carries of what follows it.
THEN: Final = 4 * 1024
#: Bytes of a page of members: well below DynamoDB's 400 KB.
PAGE: Final = 200 * 1024
#: Ids chosen by users that travel with what follows a group.
CHOSEN: Final = 50

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Shelf:
    """Puts away and fetches. Without a store everything travels."""

    def __init__(self, store: ResultStore | None) -> None:
        self._store = store

    # --- putting away -------------------------------------------------------------------------

    def rest(self, steps: Flow) -> Flow:
        """The steps after the first of a flow, as its message is to carry them."""
        if self._store is None or not steps:
            return steps
        plain = [self._slim(each) for each in steps]
        sizes = [len(_encode(each)) for each in plain]
        if len(steps) <= STEPS + 1 and sum(sizes) <= BYTES:
            return plain
        cuts = _cuts(sizes)
        following: list[Step] = []
        for begin, end in reversed(cuts[1:]):
            page = [*plain[begin:end], *following]
            following = [self._put_rest(page)]
        return [*plain[: cuts[0][1]], *following]

    def then(self, group_id: str, found: Step) -> Step:
        """What follows a group, as each of its members is to carry it."""
        if self._store is None:
            return found
        if len(found.get("ids", ())) > CHOSEN:
            save_chosen(self._store, group_id, found["ids"])
            found = {**{name: each for name, each in found.items() if name != "ids"}, "open": True}
        plain: Step = tagged.to_plain(found)
        data = _encode([plain])
        if len(data) <= THEN:
            return found
        key = f"plan/{quoted(group_id)}/then"
        self._store.keep(key, data, DEFAULT_TTL)
        return {
            "task": REST,
            "kwargs": {"key": key},
            **{name: found[name] for name in ("ids", "open") if name in found},
        }

    def _put_rest(self, page: Flow) -> Step:
        assert self._store is not None
        first = page[0]
        task_id = first["options"]["task_id"]
        key = f"plan/{quoted(task_id)}/rest"
        self._store.keep(key, _encode(page), DEFAULT_TTL)
        child = task_id if is_group(first) and "pages" in first["kwargs"] else child_of(first)
        return {"task": REST, "kwargs": {"key": key, "child": child}, "options": {"task_id": task_id}}

    def _slim(self, step: Step) -> Step:
        """A group's members on pages, if they are many."""
        plain: Step = tagged.to_plain(step)
        if not is_group(step) or "pages" in step["kwargs"]:
            return plain
        assert self._store is not None
        texts = [_encode(each) for each in plain["kwargs"]["tasks"]]
        if sum(map(len, texts)) <= BYTES // 2:
            return plain
        group_id = step["options"]["task_id"]
        pages = []
        for number, page in enumerate(_pages(texts)):
            pages.append(f"plan/{quoted(group_id)}/{number}")
            self._store.keep(pages[-1], b"[" + b",".join(page) + b"]", DEFAULT_TTL)
        kwargs = {name: each for name, each in plain["kwargs"].items() if name != "tasks"}
        if len(kwargs.get("chosen", ())) > CHOSEN:
            save_chosen(self._store, group_id, kwargs.pop("chosen"))
            kwargs["open"] = True
        plain["kwargs"] = {**kwargs, "pages": pages}
        return plain

    # --- fetching -----------------------------------------------------------------------------

    def fetch(self, steps: Flow) -> Flow:
        """The same steps, the first one really there."""
        while steps and steps[0].get("task") == REST:
            steps = [*self._read(steps[0]["kwargs"]["key"]), *steps[1:]]
        if steps and is_group(steps[0]) and "pages" in steps[0]["kwargs"]:
            kwargs = dict(steps[0]["kwargs"])
            kwargs["tasks"] = Paged(self, kwargs.pop("pages"))
            steps = [{**steps[0], "kwargs": kwargs}, *steps[1:]]
        return steps

    def every(self, steps: Flow) -> Iterator[Step]:
        """All the steps of a flow, page after page."""
        while steps := self.fetch(steps):
            yield steps[0]
            steps = steps[1:]

    def _read(self, key: str) -> list[Any]:
        if self._store is None:
            raise ImproperlyConfigured(
                f"the rest of this workflow is in a results store ({key}), and this app has none"
            )
        entry = self._store.backend.read(key)
        if entry is None:
            raise CorruptRecord(f"{key} in {self._store.backend.url}, the rest of a workflow, is gone")
        try:
            found = tagged.from_plain(_decode(entry.value))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CorruptRecord(f"{key} in {self._store.backend.url} cannot be read: {error}") from error
        if not isinstance(found, list):
            raise CorruptRecord(f"{key} in {self._store.backend.url} holds no steps")
        return found


class Paged(Sequence[Any]):
    """A group's members, read page by page each time they are gone through."""

    def __init__(self, shelf: Shelf, keys: list[str]) -> None:
        self._shelf = shelf
        self._keys = keys

    def __iter__(self) -> Iterator[Any]:
        for key in self._keys:
            yield from self._shelf._read(key)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]


def _cuts(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Where pages begin and end: at most so many steps and so many bytes in each, one step at least."""
    cuts: list[tuple[int, int]] = []
    begin, total = 0, 0
    for n, size in enumerate(sizes):
        if n > begin and (n - begin >= STEPS or total + size > BYTES):
            cuts.append((begin, n))
            begin, total = n, 0
        total += size
    return [*cuts, (begin, len(sizes))]


def _pages(texts: Sequence[bytes]) -> Iterator[list[bytes]]:
    page: list[bytes] = []
    size = 0
    for each in texts:
        if page and size + len(each) > PAGE:
            yield page
            page, size = [], 0
        page.append(each)
        size += len(each) + 1
    if page:
        yield page


def is_rest(step: Mapping[str, Any]) -> bool:
    return step.get("task") == REST
