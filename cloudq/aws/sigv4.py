"""AWS Signature Version 4: who sent a request, proven without sending the secret.

The rules are those of "Signature Version 4 signing process" in the AWS IAM User Guide. The day's
key is kept: four of the five HMACs of a request are the same all day.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
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
    """Signs requests to one service in one region. Thread-safe."""

    def __init__(self, service: str, region: str) -> None:
        self._service = service
        self._region = region
        #: (secret, day) -> (scope, key); replaced as a whole, so that threads need no lock.
        self._day: tuple[tuple[str, str], tuple[str, bytes]] = (("", ""), ("", b""))

    def authorization(
        self,
        credentials: Credentials,
        timestamp: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        method: str = "POST",
        path: str = "/",
    ) -> str:
        """The ``Authorization`` header's value.

        ``headers`` are all that are signed, names in lower case, ``host`` and ``x-amz-date`` (the
        ``timestamp``) among them; ``path`` is percent-encoded already.
        """
        scope, key = self._key(credentials.secret_key, timestamp[:8])
        names = sorted(headers)
        signed = ";".join(names)
        lines = "".join([f"{name}:{_trimmed(headers[name])}\n" for name in names])
        request = f"{method}\n{path}\n\n{lines}\n{signed}\n{hashlib.sha256(body).hexdigest()}"
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"{_ALGORITHM}\n{timestamp}\n{scope}\n{digest}"
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        return (
            f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={signed}, Signature={signature}"
        )

    def _key(self, secret: str, day: str) -> tuple[str, bytes]:
        known, found = self._day
        if known == (secret, day):
            return found
        key = f"AWS4{secret}".encode()
        for part in (day, self._region, self._service, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        found = (f"{day}/{self._region}/{self._service}/aws4_request", key)
        self._day = ((secret, day), found)
        return found


def timestamp(seconds: float) -> str:
    """``20261121T101500Z`` of Unix seconds."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))


def _trimmed(value: str) -> str:
    return " ".join(value.split()) if "  " in value or value[:1] == " " or value[-1:] == " " else value
