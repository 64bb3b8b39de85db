"""Broker and backend URLs, taken apart once and shown without secrets."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from cloudq.errors import ImproperlyConfigured

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
#: As much of a text that is no URL as is shown.
_START: Final = re.compile(r"[A-Za-z0-9_+-]{1,20}")
#: What follows the "://" of a URL with a user or a password, which may hold any character that should be quoted.
_CREDENTIALS: Final = re.compile(r"[^/?#]*@|[^/?#]*:[^@]*@")
_SECRET = ("secret", "token", "password", "key", "connection_string", "sas")


@dataclass(frozen=True, slots=True, repr=False)
class Url:
    """``scheme://host/path?query``. ``host`` is the part up to the first slash (a table, bucket or
    region), ``path`` the rest without its leading slash; both unquoted."""

    scheme: str
    host: str = ""
    path: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    has_path: bool = False

    @classmethod
    def parse(cls, text: str) -> Url:
        """Raises ImproperlyConfigured when ``text`` is no URL or repeats a parameter."""
        scheme, found, rest = text.partition("://")
        if not found or not _SCHEME.fullmatch(scheme):
            # Not the whole text: it may be a connection string, or have its password before the "://".
            start = _START.match(text)
            raise ImproperlyConfigured(
                f"{start[0] if start else ''!r}... is not a URL: it does not begin with a name and '://'. "
                "Example: sqs://?region=eu-west-1"
            )
        if _CREDENTIALS.match(rest):
            raise ImproperlyConfigured(
                f"{scheme}://: credentials do not belong in the URL; use the cloud's default chain "
                "(environment, profile, instance or container role)"
            )
        if "#" in rest:
            raise ImproperlyConfigured(f"{scheme}://: a '#' would cut the URL short; write it as %23")
        try:
            parts = urlsplit("x://" + rest)
        except ValueError:  # which quotes the text
            raise ImproperlyConfigured(f"{scheme}://: what follows is no host, path and query") from None
        query: dict[str, str] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name in query:
                raise ImproperlyConfigured(f"{scheme}://: the parameter {name!r} is given twice")
            inner = value.partition("://")[2]
            if _CREDENTIALS.match(inner):
                raise ImproperlyConfigured(
                    f"{scheme}://: credentials do not belong in the URL of the parameter {name!r}"
                )
            query[name] = value
        return cls(
            scheme.lower(),
            unquote(parts.netloc),
            unquote(parts.path.removeprefix("/")),
            query,
            parts.path.startswith("/"),
        )

    def options(self, known: Iterable[str]) -> Mapping[str, str]:
        """The query, after checking that every parameter is a known one."""
        known = list(known)
        for name in self.query:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else f". Known: {', '.join(known) or 'none'}."
                raise ImproperlyConfigured(f"{self.scheme}:// has no parameter {name!r}{hint}")
        return self.query

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A numeric parameter within bounds; the error names parameter and bounds."""
        text = self.query.get(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            raise ImproperlyConfigured(f"{self.scheme}://: {name} is a number, got {text!r}") from None
        if not low <= value <= high:
            raise ImproperlyConfigured(f"{self.scheme}://: {name} is {low:g} to {high:g}, got {text}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """A yes/no parameter."""
        text = self.query.get(name)
        if text is None:
            return default
        if text.lower() in ("1", "true", "yes", "on", ""):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise ImproperlyConfigured(f"{self.scheme}://: {name} is true or false, got {text!r}")

    def __repr__(self) -> str:
        return f"<Url {self}>"

    def __str__(self) -> str:
        """The URL with the values of secret-looking parameters starred."""
        text = f"{self.scheme}://{quote(self.host, safe=':@+')}"
        if self.has_path:
            text += "/" + quote(self.path)
        if self.query:
            text += "?" + "&".join(
                f"{name}={'***' if any(word in name.lower() for word in _SECRET) else quote(value, safe=':/')}"
                for name, value in self.query.items()
            )
        return text
