"""Who may call the HTTP API: callers that AWS has checked (IAM), or that share a secret (HMAC).

A signed request carries ``x-cloudq-key`` (which secret), ``x-cloudq-timestamp`` (seconds since the epoch) and
``x-cloudq-signature``: the hex HMAC-SHA256, under the secret, of these lines joined by newlines:
``v1``, timestamp, method, path, query string, hex SHA-256 of the body.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Final

from cloudq.aws_lambda.http import HttpError, Request
from cloudq.backends.base import ABSENT, ResultBackend
from cloudq.backends.open import open_backend
from cloudq.clock import Clock
from cloudq.errors import Conflict, ImproperlyConfigured

#: Seconds that a timestamp may be off.
WINDOW: Final = 300.0
#: Seconds by which two copies' clocks may differ.
SKEW: Final = 60.0
#: Shortest secret, characters: 32 hex digits are 128 bits.
SHORTEST: Final = 32


def signature(secret: str, timestamp: str, method: str, path: str, query: str, body: bytes) -> str:
    """What ``x-cloudq-signature`` has to be."""
    text = "\n".join(("v1", timestamp, method.upper(), path, query, hashlib.sha256(body).hexdigest()))
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


class Iam:
    """AWS has checked the caller, and says so. A URL left open by mistake admits nobody."""

    def admit(self, request: Request) -> str:
        """Who it is: the ARN, without the name that whoever takes a role gives to the session. Raises HttpError."""
        if request.caller is None:
            raise HttpError(
                403, "sign the request with AWS credentials (this API's authorization is AWS_IAM)"
            )
        if ":assumed-role/" in request.caller:
            return request.caller.rpartition("/")[0]
        return request.caller

    def once(self, request: Request) -> None:
        """SigV4's signatures are AWS's to check."""


class Hmac:
    """Shared secrets by key id. A request that sends a task is good for once: wherever it comes to, with
    a results store; in each copy of the function, without."""

    def __init__(self, keys: Mapping[str, str], backend: ResultBackend | None, clock: Clock) -> None:
        """Raises ImproperlyConfigured."""
        if not keys:
            raise ImproperlyConfigured(
                'HMAC needs keys: set api_keys, or CLOUDQ_API_KEYS=\'{"shop": "<secret>"}\''
            )
        for name, secret in keys.items():
            if not isinstance(secret, str) or len(secret) < SHORTEST:
                raise ImproperlyConfigured(
                    f"the secret of API key {name!r} is shorter than {SHORTEST} characters"
                )
        self._keys = dict(keys)
        self._backend = open_backend("memory://", clock) if backend is None else backend
        self._clock = clock

    def admit(self, request: Request) -> str:
        """Whose request it is: the key's id. Raises HttpError."""
        headers = request.headers
        given = headers.get("x-cloudq-signature", "")
        timestamp = headers.get("x-cloudq-timestamp", "")
        name = headers.get("x-cloudq-key", "")
        secret = self._keys.get(name)
        if not given or not re.fullmatch(r"[0-9]{1,12}", timestamp):
            raise HttpError(401, "sign the request: x-cloudq-key, x-cloudq-timestamp and x-cloudq-signature")
        # the same work for a key that does not exist: how long we take says nothing
        wanted = signature(
            secret or "", timestamp, request.method, request.raw_path, request.raw_query, request.body
        )
        if (
            not hmac.compare_digest(wanted, given.lower().encode("ascii", "replace").decode())
            or secret is None
        ):
            raise HttpError(401, "the signature is not right")
        now = self._clock.time()
        if abs(now - int(timestamp)) > WINDOW:
            raise HttpError(
                401, f"the request was signed more than {WINDOW:g} s ago (or ahead): sign it anew"
            )
        return name

    def once(self, request: Request) -> None:
        """This request, of those that ``admit`` has let in, changes something: it does so once. Raises
        HttpError, OperationalError."""
        if request.method == "GET":
            return
        sign = request.headers["x-cloudq-signature"].lower()
        # dated ahead it is good for twice the window, and clocks differ
        end = self._clock.time() + 2 * WINDOW + SKEW
        try:
            self._backend.write(f"api/{sign}", b"1", when=ABSENT, expires_at=end)
        except Conflict:
            raise HttpError(409, "this request was made before: sign it anew to make it again") from None
