"""Data keys from AWS KMS: one call makes a key for many messages, one call opens it for many readers.

Envelope encryption as in "AWS KMS concepts: data keys". A data key is used for at most an hour or
100,000 messages; opened ones are remembered as long.
"""

from __future__ import annotations

import base64
import threading
from collections import OrderedDict
from typing import Any, Final

from cloudq.aws.port import AwsError, Call, Port
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.errors import DecryptionFailed

LIFETIME: Final = 3600.0
USES: Final = 100_000
REMEMBERED: Final = 1_000
#: What binds a data key to cloudq in KMS's own logs and policies.
_CONTEXT: Final = {"purpose": "cloudq"}
#: KMS's words for "this was not made by me, or was changed".
_NOT_MINE: Final = frozenset(
    {"InvalidCiphertextException", "IncorrectKeyException", "NotFoundException", "ValidationException"}
)


class KmsKeys:
    """``DataKeys`` by AWS KMS. Thread-safe."""

    def __init__(self, port: Port, clock: Clock = SYSTEM_CLOCK) -> None:
        self._port = port
        self._clock = clock
        self._lock = threading.Lock()
        #: arn -> [secret, wrapped, made at, uses]
        self._current: dict[str, list[Any]] = {}
        self._opened: OrderedDict[tuple[str, bytes], tuple[bytes, float]] = OrderedDict()

    def fresh(self, arn: str) -> tuple[bytes, bytes]:
        """A data key and its wrapped form. Raises OperationalError (AccessDenied among them)."""
        with self._lock:
            found = self._current.get(arn)
            now = self._clock.monotonic()
            if found is None or now - found[2] > LIFETIME or found[3] >= USES:
                params = {"KeyId": arn, "KeySpec": "AES_256", "EncryptionContext": _CONTEXT}
                answer = self._port.call(Call("kms", "GenerateDataKey", params))
                found = self._current[arn] = [
                    _bytes(answer["Plaintext"]),
                    _bytes(answer["CiphertextBlob"]),
                    now,
                    0,
                ]
            found[3] += 1
            return found[0], found[1]

    def opened(self, arn: str, wrapped: bytes) -> bytes:
        """The data key again. Raises DecryptionFailed when KMS says that it is none of this key's."""
        now = self._clock.monotonic()
        with self._lock:
            known = self._opened.get((arn, wrapped))
            if known is not None and now - known[1] <= LIFETIME:
                self._opened.move_to_end((arn, wrapped))
                return known[0]
        params = {"KeyId": arn, "CiphertextBlob": wrapped, "EncryptionContext": _CONTEXT}
        try:
            secret = _bytes(self._port.call(Call("kms", "Decrypt", params))["Plaintext"])
        except AwsError as error:
            if error.code in _NOT_MINE:
                raise DecryptionFailed(
                    f"KMS does not open its data key: {error.code}: {error.message}"
                ) from error
            raise
        with self._lock:
            self._opened[arn, wrapped] = (secret, now)
            while len(self._opened) > REMEMBERED:
                self._opened.popitem(last=False)
        return secret


def _bytes(value: Any) -> bytes:
    return base64.b64decode(value) if isinstance(value, str) else bytes(value)
