"""What the owner of a dashboard decides: who may enter, from where, and what may be done."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from cloudq.errors import ImproperlyConfigured

#: Characters that a token has at least: a short one can be guessed.
SHORTEST_TOKEN: Final = 16
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})

#: The user's name, or None: not to be let in. Called with the starlette Request; may be async.
Authenticate = Callable[[Any], "str | Awaitable[str | None] | None"]

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@dataclass(frozen=True)
class Options:
    """At most one of ``token``, ``auth_header`` and ``authenticate``; without one, this machine only."""

    #: Whoever gives it is let in.
    token: str | None = None
    #: A header in which a reverse proxy names the user it has let in; believed from ``trusted_proxies`` only.
    auth_header: str | None = None
    authenticate: Authenticate | None = None
    #: Addresses or networks (``10.0.0.0/8``) that reverse proxies connect from.
    trusted_proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    #: Look, do not touch: no action is offered or carried out.
    read_only: bool = False
    #: Names that the Host header may have; empty: any where users sign in, loopback names where they do not.
    allowed_hosts: tuple[str, ...] = ()
    #: Seconds between two looks while somebody watches; None: 2 on a store of this machine, 5 in the cloud.
    interval: float | None = None
    #: Looks that the charts remember.
    remembered: int = 360
    #: Seconds that a page waits for the store or the broker.
    patience: float = 20.0
    #: Seconds for which a session is good.
    session_seconds: float = 12 * 3600.0
    #: Log-ins per minute from one address, actions per minute of one session.
    logins_per_minute: int = 10
    actions_per_minute: int = 120
    #: Signs sessions where there is no token: give the same to processes that share the work.
    secret: str | None = None
    _networks: tuple[Any, ...] = field(init=False, repr=False, default=())
    _key: bytes = field(init=False, repr=False, default=b"")

    def __post_init__(self) -> None:
        given = [name for name in ("token", "auth_header", "authenticate") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ImproperlyConfigured(f"a dashboard lets users in one way, but got {' and '.join(given)}")
        if self.token is not None and len(self.token) < SHORTEST_TOKEN:
            raise ImproperlyConfigured(
                f"a dashboard's token has at least {SHORTEST_TOKEN} characters, this one {len(self.token)}; make one "
                'with: python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        if self.auth_header is not None and not _HEADER.fullmatch(self.auth_header):
            raise ImproperlyConfigured(f"auth_header is a header's name, got {self.auth_header!r}")
        for name in ("interval", "patience", "session_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ImproperlyConfigured(f"{name} is a number of seconds above 0, got {value!r}")
        object.__setattr__(self, "allowed_hosts", tuple(each.lower() for each in self.allowed_hosts))
        object.__setattr__(self, "_networks", tuple(_network(each) for each in self.trusted_proxies))
        object.__setattr__(self, "_key", self._make_key())

    def _make_key(self) -> bytes:
        known = self.secret or self.token
        if known is None:
            return secrets.token_bytes(32)
        return hmac.new(known.encode(), b"cloudq dashboard sessions", hashlib.sha256).digest()

    @property
    def key(self) -> bytes:
        """What sessions are signed with: of the token, so that several processes agree, or made at start."""
        return self._key

    @property
    def local_only(self) -> bool:
        """Nobody signs in: only this machine may look."""
        return self.token is None and self.auth_header is None and self.authenticate is None

    def is_proxy(self, address: str | None) -> bool:
        """May a request from there say who the user is?"""
        try:
            found = ipaddress.ip_address(address or "")
        except ValueError:
            return False
        return any(found in each for each in self._networks)


def is_loopback(address: str | None) -> bool:
    """Is this an address, or the name, of this very machine?"""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address or "").is_loopback
    except ValueError:
        return False


def _network(text: str) -> Any:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ImproperlyConfigured(
            f"trusted_proxies holds addresses or networks like 10.0.0.0/8, got {text!r}"
        ) from None
