"""Which tasks are in a group, as a store holds it: ``GroupResult.save`` and ``restore``.

A group that is small is one document. A larger one is pages and a head that names them; the head
is written last, so whoever finds it finds every page.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import msgspec

from cloudq.backends.base import ResultBackend
from cloudq.errors import CorruptRecord

VERSION: Final = 1
#: Bytes of one page: well below DynamoDB's 400 KB.
PAGE: Final = 256 * 1024

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Membership:
    """A group's id, its members as ``AsyncResult.as_tuple`` gives them, and its parent likewise."""

    id: str
    members: Sequence[Any]
    parent: Any = None


def group_key(group_id: str) -> str:
    """The key of a group's document."""
    return "group/" + quote(group_id, safe="")


def save(backend: ResultBackend, group: Membership, expires_at: float | None) -> None:
    """Write it, over one that is there."""
    key = group_key(group.id)
    head: dict[str, Any] = {"v": VERSION, "id": group.id, "parent": group.parent}
    pages = list(_pages(group.members))
    if len(pages) <= 1:
        head["members"] = list(group.members)
    else:
        # names of their own: a reader of the older head still finds the older pages
        names = [f"{key}/{uuid.uuid4().hex}" for _ in pages]
        for name, page in zip(names, pages, strict=True):
            backend.write(name, page, expires_at=expires_at)
        head["pages"] = [name.rpartition("/")[2] for name in names]
    backend.write(key, _encode(head), expires_at=expires_at)


def read(backend: ResultBackend, group_id: str) -> Membership | None:
    """What was saved, or None. Raises CorruptRecord."""
    key = group_key(group_id)
    entry = backend.read(key)
    if entry is None:
        return None
    head = _open(entry.value, dict, backend, key)
    version = head.get("v")
    if not isinstance(version, int) or version > VERSION:
        raise CorruptRecord(
            f"the group {key} in {backend.url} has format {version!r}; this release reads up to {VERSION}: "
            "upgrade cloudq here"
        )
    members = head.get("members")
    if members is None:
        members = _read_pages(backend, key, head.get("pages"))
    if not isinstance(members, list):
        raise CorruptRecord(f"the group {key} in {backend.url} names no members")
    return Membership(group_id, members, head.get("parent"))


def delete(backend: ResultBackend, group_id: str) -> None:
    """Remove head and pages, those of earlier saves included."""
    key = group_key(group_id)
    backend.delete(key)
    for page in list(backend.keys(key + "/")):
        backend.delete(page)


def _pages(members: Sequence[Any]) -> Iterator[bytes]:
    page: list[bytes] = []
    size = 0
    for each in members:
        text = _encode(each)
        if page and size + len(text) > PAGE:
            yield b"[" + b",".join(page) + b"]"
            page, size = [], 0
        page.append(text)
        size += len(text) + 1
    if page:
        yield b"[" + b",".join(page) + b"]"


def _read_pages(backend: ResultBackend, key: str, names: Any) -> list[Any]:
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise CorruptRecord(f"the group {key} in {backend.url} names neither members nor pages")
    keys = [f"{key}/{each}" for each in names]
    found = backend.read_many(keys)
    members: list[Any] = []
    for each in keys:
        if each not in found:
            raise CorruptRecord(f"the group {key} in {backend.url} has lost its page {each}")
        members += _open(found[each].value, list, backend, each)
    return members


def _open(data: bytes, kind: type[Any], backend: ResultBackend, key: str) -> Any:
    try:
        document = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptRecord(f"the document {key} in {backend.url} is no JSON: {error}") from error
    if not isinstance(document, kind):
        raise CorruptRecord(f"the document {key} in {backend.url} is no {kind.__name__}")
    return document
