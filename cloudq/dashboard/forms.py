"""What browsers send: forms, filters, and the places they want to go back to."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import Request

from cloudq import states
from cloudq.control.deadletters import parse_moment

#: Bytes of a form at most: an edited message has up to 1 MiB, and grows by half where it is encoded.
MOST: Final = 4 * 1024 * 1024
#: States that a run can have ended in.
ENDS: Final = (states.SUCCESS, states.FAILURE, states.RETRY, states.REVOKED, states.REJECTED)
_TEXTS: Final = ("name", "worker", "queue", "text", "root")
_LONGEST: Final = 500


class BadInput(ValueError):
    """Something that was sent cannot be meant; the text is for the person who sent it."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


class Form:
    """The fields of a form."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs

    def get(self, name: str, default: str = "") -> str:
        """The last value of that name."""
        return next((value for key, value in reversed(self._pairs) if key == name), default)

    def need(self, name: str) -> str:
        """As ``get``; BadInput when there is none."""
        if not (value := self.get(name)):
            raise BadInput(f"the form has no {name!r}: load the page again")
        return value

    @property
    def names(self) -> list[str]:
        """The names of its fields, each once."""
        return list(dict.fromkeys(name for name, _ in self._pairs))

    def all(self, name: str) -> list[str]:
        """Every value of that name."""
        return [value for key, value in self._pairs if key == name and value]


async def read_form(request: Request) -> Form:
    """The form of a POST. Raises BadInput for what is none, or too large."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/x-www-form-urlencoded", ""):
        raise BadInput(f"forms are sent as application/x-www-form-urlencoded, not {kind[:60]}", 415)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST:
            raise BadInput(f"a form has at most {MOST // 1024} KiB", 413)
    try:
        return Form(parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=5_000))
    except ValueError as error:
        raise BadInput(f"the form cannot be read: {error}") from None


def local_path(text: str, root: str) -> str:
    """Where to go next: ``text`` when it is a path of this dashboard, else its first page."""
    home = f"{root}/"
    plain = text.isprintable() and "\\" not in text and not text.startswith("//")
    return text if plain and text.startswith(home) else home


@dataclass(slots=True)
class Filters:
    """The filters of the tasks page as they were given, what they mean, and what is wrong with them."""

    given: dict[str, str] = field(default_factory=dict)
    criteria: dict[str, Any] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)


def filters_of(query: Mapping[str, str], now: float) -> Filters:
    """Read them. Never raises: what is wrong is named."""
    found = Filters()
    for name in (*_TEXTS, "state", "since", "until"):
        value = query.get(name, "").strip()
        if not value:
            continue
        found.given[name] = value[:_LONGEST]
        if len(value) > _LONGEST or not value.isprintable():
            found.wrong[name] = f"at most {_LONGEST} printable characters"
        elif name == "state":
            _state(found, value.upper())
        elif name in ("since", "until"):
            try:
                found.criteria[name] = parse_moment(value, now)
            except ValueError as error:
                found.wrong[name] = str(error)
        else:
            found.criteria["root_id" if name == "root" else name] = value
    since, until = found.criteria.get("since"), found.criteria.get("until")
    if since is not None and until is not None and since > until:
        found.wrong["until"] = "before `since`: nothing can be between"
    return found


def _state(found: Filters, value: str) -> None:
    if value in ENDS:
        found.criteria["state"] = value
        return
    near = difflib.get_close_matches(value, ENDS, 1)
    found.wrong["state"] = f"one of {', '.join(ENDS)}" + (f"; did you mean {near[0]}?" if near else "")
