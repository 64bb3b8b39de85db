"""One call on the wire, free of I/O: what to send, how to read what comes back, whether to try again.

``conversation`` is a generator that yields ``Send`` (exchange these bytes) and ``Pause``; the
drivers (``lean``, ``aiolean``) carry them out (and ``Renew``) and throw what went wrong into it.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final, TypeAlias

from cloudq.aws import awsjson
from cloudq.aws.http1 import BrokenAnswer, HttpAnswer, head
from cloudq.aws.identity import Endpoint, Identity
from cloudq.aws.options import (
    LEAN_BACKOFF,
    MAX_ATTEMPTS,
    READ_TIMEOUT,
    READ_TIMEOUTS,
    SHORT_TIMEOUTS,
)
from cloudq.aws.port import Answer, Call, Pause
from cloudq.aws.quota import RetryQuota
from cloudq.aws.sigv4 import Credentials, Signature, Signer, timestamp
from cloudq.clock import Clock
from cloudq.errors import CredentialsError, OperationalError, ServiceUnavailable
from cloudq.retry import backoff


@dataclass(slots=True)
class Send:
    """Exchange these bytes for an answer, within ``timeout`` seconds in all."""

    data: bytes
    timeout: float


@dataclass(frozen=True, slots=True)
class Renew:
    """Look for credentials anew (``Identity.renew``); the answer says whether to try once more."""

    since: float


Conversation: TypeAlias = Generator[Send | Pause | Renew, HttpAnswer | bool | None, Answer]

#: Errors that are the clock's fault when it is this far off (seconds).
SKEW_CODES: Final = frozenset(
    {
        "InvalidSignatureException",
        "RequestExpired",
        "RequestInTheFuture",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)
SKEW_WORTH_MENDING: Final = 120.0


class Form:
    """What the requests of one operation have in common, as long as the credentials are these."""

    __slots__ = ("_head", "_signature", "credentials")

    def __init__(self, credentials: Credentials, signature: Signature, head: bytes) -> None:
        self.credentials = credentials
        self._signature = signature
        self._head = head

    def request(self, now: str, body: bytes) -> bytes:
        """The bytes of a request of this moment (``timestamp``)."""
        signed = self._signature.of(now, body)
        dated = f"x-amz-date: {now}\r\nauthorization: {signed}\r\ncontent-length: {len(body)}\r\n\r\n"
        return b"".join((self._head, dated.encode("latin-1"), body))


class Wire:
    """What a process knows of one service: where it is, how its requests are signed. No I/O."""

    def __init__(self, service: str, identity: Identity, clock: Clock) -> None:
        self.service = service
        self.endpoint: Endpoint = identity.endpoint(service)
        self._identity = identity
        self._clock = clock
        self._signer = Signer(service, identity.region)
        #: Operation -> what its requests have in common, for the credentials last used.
        self._forms: dict[str, Form] = {}
        #: Seconds that AWS's clock is ahead of ours.
        self.skew = 0.0
        self._agent = f"cloudq Python/{_version()}"

    def request(self, call: Call, body: bytes) -> bytes:
        """The signed request, with credentials as they are now. Raises CredentialsError."""
        credentials = self._identity.credentials()
        form = self._forms.get(call.operation)
        if form is None or form.credentials != credentials:
            form = self._forms[call.operation] = self._form(credentials, call.operation)
        now = timestamp(self._clock.time() + self.skew)
        return form.request(now, body)

    def _form(self, credentials: Credentials, operation: str) -> Form:
        headers = {
            "content-type": awsjson.CONTENT_TYPE,
            "host": self.endpoint.host_header,
            "x-amz-target": awsjson.HOT[self.service, operation],
        }
        if self.service == "sqs":
            # else errors come without the codes that IAM and others know
            headers["x-amzn-query-mode"] = "true"
        if credentials.token:
            headers["x-amz-security-token"] = credentials.token
        path = self.endpoint.path
        signature = Signature(self._signer, credentials, headers, path=path)
        unsigned = {"user-agent": self._agent, "accept-encoding": "identity"}
        return Form(credentials, signature, head(path, {**headers, **unsigned}))

    def refused(self, error: CredentialsError) -> CredentialsError:
        """The error, with what is to be done about credentials of this kind."""
        return CredentialsError(f"{error}{self._identity.hint}")

    def is_skewed(self, refusal: awsjson.Refusal, answer: HttpAnswer) -> bool:
        """Was the refusal our clock's fault? Then the next request is dated as AWS's clock says."""
        if refusal.code not in SKEW_CODES:
            return False
        theirs = _seconds(answer.headers.get("date", ""))
        if theirs is None:
            return False
        skew = theirs - self._clock.time()
        if abs(skew - self.skew) < SKEW_WORTH_MENDING:
            return False
        self.skew = skew
        return True


def conversation(wire: Wire, call: Call, quota: RetryQuota) -> Conversation:
    """Make the call, with retries. Raises what ``Port.call`` raises."""
    body = awsjson.encode(call)
    waits = backoff(*LEAN_BACKOFF)
    usual = READ_TIMEOUTS.get(call.service, READ_TIMEOUT)
    timeout = SHORT_TIMEOUTS.get((call.service, call.operation), usual) + call.timeout
    tries, mended, renewed = 0, False, False
    while True:
        tries += 1
        asked = time.monotonic()
        try:
            answer = yield Send(wire.request(call, body), timeout)
            assert isinstance(answer, HttpAnswer)
            found = awsjson.read(call, answer)
        except (OSError, BrokenAnswer) as error:
            failure: OperationalError = no_answer(call, wire.endpoint, error)
            failure.__cause__ = error
            again = True
        else:
            if not isinstance(found, awsjson.Refusal):
                quota.succeeded(tries)
                return found
            failure, again = _operational(found), found.again
            if not mended and wire.is_skewed(found, answer):
                mended = True
                continue
            if isinstance(failure, CredentialsError):
                if not renewed and (yield Renew(asked)):
                    renewed = True
                    continue
                raise wire.refused(failure)
        if not again or tries >= MAX_ATTEMPTS or not quota.allows():
            raise failure
        yield Pause(next(waits))


def no_answer(call: Call, endpoint: Endpoint, error: Exception) -> OperationalError:
    """The error for a call that got no answer, or a broken one."""
    where = f"{call.service} {call.operation}"
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ssl.SSLError):
        return ServiceUnavailable(
            f"{where}: TLS with {endpoint} failed ({text}); check AWS_CA_BUNDLE and any proxy"
        )
    if isinstance(error, TimeoutError):
        text = f"timed out: {text}"
    return ServiceUnavailable(
        f"{where}: no answer from {endpoint} ({text}); check the network, ?endpoint_url= and any VPC endpoint"
    )


def _operational(refusal: awsjson.Refusal) -> OperationalError:
    error = refusal.error
    assert isinstance(error, OperationalError)
    return error


def _seconds(date: str) -> float | None:
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None


def _version() -> str:
    import platform

    return platform.python_version()
