"""Stamps: labels on every call of a workflow, given by name or by a visitor that walks through it.

A call carries them in its headers, as ``stamps`` (a mapping) and ``stamped_headers`` (their names); a run
sees ``self.request.stamps``, and ``app.control.revoke_by_stamped_headers`` finds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cloudq.canvas.primitives import Lazy, chain, chord, group
from cloudq.canvas.signature import Signature, as_list, signature

STAMPS: Final = "stamps"
STAMPED: Final = "stamped_headers"


class StampingVisitor:
    """Override what you want to stamp; each method gets the stamps so far and returns further ones.

    A returned mapping's ``stamped_headers``, if there is one, names those of its keys that are stamps;
    the others become plain headers of the call.
    """

    def on_signature(self, sig: Any, **headers: Any) -> Mapping[str, Any] | None:
        """Each single call."""
        return None

    def on_group_start(self, sig: Any, **headers: Any) -> Mapping[str, Any] | None:
        """A group, before its members."""
        return None

    def on_group_end(self, sig: Any, **headers: Any) -> None:
        """A group, after its members."""

    def on_chain_start(self, sig: Any, **headers: Any) -> Mapping[str, Any] | None:
        """A chain, before its steps."""
        return None

    def on_chain_end(self, sig: Any, **headers: Any) -> None:
        """A chain, after its steps."""

    def on_chord_header_start(self, sig: Any, **headers: Any) -> Mapping[str, Any] | None:
        """A chord, before its header; as a group, unless overridden."""
        return self.on_group_start(sig.kwargs["header"], **headers)

    def on_chord_header_end(self, sig: Any, **headers: Any) -> None:
        """A chord, after its header."""
        self.on_group_end(sig.kwargs["header"], **headers)

    def on_chord_body(self, sig: Any, **headers: Any) -> Mapping[str, Any] | None:
        """A chord, before its body."""
        return None

    def on_callback(self, callback: Any, **headers: Any) -> Mapping[str, Any] | None:
        """Each ``link``."""
        return None

    def on_errback(self, errback: Any, **headers: Any) -> Mapping[str, Any] | None:
        """Each ``link_error``."""
        return None


def stamp(sig: Signature, visitor: StampingVisitor | None, append: bool, stamps: Mapping[str, Any]) -> None:
    """Stamp everything in ``sig``, in place. With ``append`` stamps of one name become a list."""
    _Stamper(visitor, append).walk(sig, dict(stamps))


class _Stamper:
    def __init__(self, visitor: StampingVisitor | None, append: bool) -> None:
        self._visitor = visitor or StampingVisitor()
        self._append = append

    def walk(self, sig: Any, stamps: Mapping[str, Any]) -> Any:
        visitor = self._visitor
        if isinstance(sig, chord):
            stamps = self._with(stamps, visitor.on_chord_header_start(sig, **stamps))
            self._links(sig, stamps)
            self._members(sig.kwargs["header"], stamps)
            visitor.on_chord_header_end(sig, **stamps)
            if sig.body is not None:
                self.walk(sig.body, self._with(stamps, visitor.on_chord_body(sig, **stamps)))
        elif isinstance(sig, group):
            stamps = self._with(stamps, visitor.on_group_start(sig, **stamps))
            self._links(sig, stamps)
            self._members(sig, stamps)
            visitor.on_group_end(sig, **stamps)
        elif isinstance(sig, chain):
            stamps = self._with(stamps, visitor.on_chain_start(sig, **stamps))
            self._links(sig, stamps)
            for each in sig.tasks:
                self.walk(each, stamps)
            visitor.on_chain_end(sig, **stamps)
        else:
            self._links(sig, stamps)
            self._put(sig, self._with(stamps, visitor.on_signature(sig, **stamps)))
        return sig

    def _members(self, sig: Any, stamps: Mapping[str, Any]) -> None:
        tasks = sig.kwargs["tasks"]
        if isinstance(tasks, Lazy):
            sig.kwargs["tasks"] = Lazy(self.walk(each, stamps) for each in tasks)
        else:
            for each in tasks:
                self.walk(each, stamps)

    def _links(self, sig: Any, stamps: Mapping[str, Any]) -> None:
        for name, told in (("link", self._visitor.on_callback), ("link_error", self._visitor.on_errback)):
            linked = as_list(sig.options.get(name))
            if linked:
                made = [signature(each, app=sig.sender) for each in linked]
                sig.options[name] = made
                for each in made:
                    self.walk(each, self._with(stamps, told(each, **stamps)))

    def _with(self, stamps: Mapping[str, Any], more: Mapping[str, Any] | None) -> dict[str, Any]:
        return merged(stamps, more or {}, self._append)

    def _put(self, sig: Any, found: Mapping[str, Any]) -> None:
        headers = dict(sig.options.get("headers") or {})
        names = found.get(STAMPED)
        stamps = {n: v for n, v in found.items() if n != STAMPED and (names is None or n in names)}
        plain = {n: v for n, v in found.items() if n != STAMPED and n not in stamps}
        whole = merged(headers.get(STAMPS) or {}, stamps, self._append)
        if whole:
            headers[STAMPS] = whole
            headers[STAMPED] = sorted(whole)
        sig.options["headers"] = {**headers, **plain}


def merged(first: Mapping[str, Any], second: Mapping[str, Any], append: bool) -> dict[str, Any]:
    """Both; of one name the second stands, or with ``append`` a list of all that differ."""
    found = dict(first)
    for name, value in second.items():
        if name == STAMPED and name in found:
            found[name] = sorted({*found[name], *value})
        elif append and name in found and name != STAMPED:
            values = as_list(found[name])
            found[name] = [*values, *(each for each in as_list(value) if each not in values)]
        else:
            found[name] = value
    if STAMPED in second and STAMPED not in first:  # what had come before was stamps, all of it
        found[STAMPED] = sorted({*second[STAMPED], *(name for name in first if name != STAMPED)})
    return found
