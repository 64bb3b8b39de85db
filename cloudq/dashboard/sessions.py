"""Sessions: signed cookies that the server need not remember, and what is derived from them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from cloudq.clock import Clock

#: Sessions that were signed out before their time, remembered at most.
_MOST_ENDED: Final = 10_000


class Session(msgspec.Struct, frozen=True):
    """Who visits. ``user``: whom the token let in, or None; ``until``: seconds since the epoch."""

    id: str
    user: str | None
    until: float


class Flash(msgspec.Struct, frozen=True):
    """What an action has to say on the next page. ``kind``: ``done`` or ``error``."""

    kind: str
    text: str


@dataclass(slots=True)
class Visit:
    """One request: whose, from where, and the cookies that its answer sets."""

    session: Session
    #: Whom the dashboard has let in; None: nobody.
    user: str | None
    client: str
    #: The path that the dashboard lies below, without a slash at its end.
    root: str
    secure: bool
    port: str
    #: For the answer's Cache-Control: pages hold what others must not find later.
    cache: str = "no-store"
    cookies: list[tuple[str, str, int]] = field(default_factory=list)


class Sessions:
    """Makes and reads cookies. ``key`` signs them: who has no key cannot make one."""

    def __init__(self, key: bytes, clock: Clock, seconds: float) -> None:
        self._key = key
        self._clock = clock
        self._seconds = seconds
        self._ended: dict[str, float] = {}

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._clock.time()

    def new(self, user: str | None = None) -> Session:
        """A session that begins now."""
        return Session(secrets.token_urlsafe(18), user, self._clock.time() + self._seconds)

    def end(self, session: Session) -> None:
        """The cookie is good no longer, wherever it was copied to (in this process)."""
        now = self._clock.time()
        self._ended = {each: until for each, until in self._ended.items() if until > now}
        while len(self._ended) >= _MOST_ENDED:
            del self._ended[next(iter(self._ended))]
        self._ended[session.id] = session.until

    def read(self, cookie: str | None) -> Session | None:
        """The session of a cookie; None when it is none, changed, too old or signed out."""
        found: Session | None = self._open("session", cookie, Session)
        if found is None or found.until <= self._clock.time() or found.id in self._ended:
            return None
        return found

    def is_old(self, session: Session) -> bool:
        """More than half of its time is over: a new cookie is due."""
        return session.until - self._clock.time() < self._seconds / 2

    def renewed(self, session: Session) -> Session:
        """The same, from now on."""
        return msgspec.structs.replace(session, until=self._clock.time() + self._seconds)

    def write(self, session: Session) -> str:
        """The cookie of a session."""
        return self._seal("session", session)

    def write_flash(self, flash: Flash) -> str:
        """The cookie that carries a message to the next page."""
        return self._seal("flash", msgspec.structs.replace(flash, text=flash.text[:1_000]))

    def read_flash(self, cookie: str | None) -> Flash | None:
        """The message that a cookie carries."""
        found: Flash | None = self._open("flash", cookie, Flash)
        return found

    def csrf(self, session: Session) -> str:
        """What forms of this session carry, and nobody else can know."""
        return hmac.new(self._key, b"csrf\0" + session.id.encode(), hashlib.sha256).hexdigest()

    def csrf_fits(self, session: Session, given: str) -> bool:
        """Was the form made for this session?"""
        return hmac.compare_digest(self.csrf(session).encode(), given.encode("utf-8", "replace"))

    # --- parts --------------------------------------------------------------------------------

    def _seal(self, kind: str, value: Any) -> str:
        body = base64.urlsafe_b64encode(msgspec.json.encode(value)).decode().rstrip("=")
        return f"{body}.{self._mac(kind, body)}"

    def _open(self, kind: str, cookie: str | None, shape: type[Any]) -> Any:
        body, _, mac = (cookie or "").partition(".")
        if not body or not hmac.compare_digest(
            self._mac(kind, body).encode(), mac.encode("utf-8", "replace")
        ):
            return None
        try:
            return msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=shape)
        except (msgspec.MsgspecError, binascii.Error, ValueError):
            return None

    def _mac(self, kind: str, body: str) -> str:
        text = f"{kind}\0{body}".encode("utf-8", "replace")
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()
