"""AWS Signature Version 4: who sent a request, proven without sending the secret.

The rules are those of "Signature Version 4 signing process" in the AWS IAM User Guide. The day's
key is kept: four of the five HMACs of a request are the same all day.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from hashlib import sha256 as _sha256
from typing import Final, NamedTuple

_ALGORITHM: Final = "AWS4-HMAC-SHA256"


class Credentials(NamedTuple):
    """An access key, its secret, and the session token of temporary ones."""

    access_key: str
    secret_key: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"Credentials({self.access_key[:4]}...)"


class Signer:
    """The day's keys for one service in one region. Thread-safe."""

    def __init__(self, service: str, region: str) -> None:
        self._service = service
        self._region = region
        #: (secret, day) -> (scope, key); replaced as a whole, so that threads need no lock.
        self._day: tuple[tuple[str, str], tuple[str, Key]] = (("", ""), ("", Key(b"")))

    def key(self, secret: str, day: str) -> tuple[str, Key]:
        """The credential scope of that day (``20261121``), and the key for it."""
        known, found = self._day
        if known == (secret, day):
            return found
        key = f"AWS4{secret}".encode()
        for part in (day, self._region, self._service, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        found = (f"{day}/{self._region}/{self._service}/aws4_request", Key(key))
        self._day = ((secret, day), found)
        return found


class Signature:
    """What the signatures of requests that differ only in time and body have in common. Thread-safe.

    ``headers`` are those that are signed, names in lower case, ``host`` among them and ``x-amz-date`` not; ``path`` is
    percent-encoded already.
    """

    __slots__ = ("_after", "_before", "_secret", "_signer", "_user", "_words")

    def __init__(
        self,
        signer: Signer,
        credentials: Credentials,
        headers: Mapping[str, str],
        method: str = "POST",
        path: str = "/",
    ) -> None:
        self._signer = signer
        self._secret = credentials.secret_key
        names = sorted([*headers, "x-amz-date"])
        dated = names.index("x-amz-date")
        lines = [f"{name}:{_trimmed(headers[name])}\n" if name in headers else "" for name in names]
        signed = ";".join(names)
        self._before = f"{method}\n{path}\n\n{''.join(lines[:dated])}x-amz-date:"
        self._after = f"\n{''.join(lines[dated + 1 :])}\n{signed}\n"
        self._user = f"{_ALGORITHM} Credential={credentials.access_key}/"
        self._words = f", SignedHeaders={signed}, Signature="

    def of(self, timestamp: str, body: bytes) -> str:
        """The ``Authorization`` header's value."""
        scope, key = self._signer.key(self._secret, timestamp[:8])
        request = f"{self._before}{timestamp}{self._after}{_sha256(body).hexdigest()}"
        digest = _sha256(request.encode()).hexdigest()
        signature = key.sign(f"{_ALGORITHM}\n{timestamp}\n{scope}\n{digest}".encode())
        return f"{self._user}{scope}{self._words}{signature}"


class Key:
    """HMAC-SHA-256 with one key (RFC 2104), the key's two blocks hashed once: half the price of ``hmac.digest``.

    The key is no longer than a block (64 bytes), as SigV4's are.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = key.ljust(64, b"\0")
        self._inner = _sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = _sha256(bytes(byte ^ 0x5C for byte in block))

    def sign(self, text: bytes) -> str:
        """The signature, in hexadecimal."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text)
        outer.update(inner.digest())
        return outer.hexdigest()


#: The second that was last asked for, and its text.
_last: tuple[int, str] = (-1, "")


def timestamp(seconds: float) -> str:
    """``20261121T101500Z`` of Unix seconds."""
    global _last
    whole, text = _last
    if whole != int(seconds):
        text = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))
        _last = int(seconds), text
    return text


def _trimmed(value: str) -> str:
    return " ".join(value.split()) if "  " in value or value[:1] == " " or value[-1:] == " " else value
