"""The AWS port over boto3."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from cloudq.aws.errors import from_botocore, is_throttled
from cloudq.aws.identity import RENEW_PAUSE
from cloudq.aws.mock import sdk_is_mocked
from cloudq.aws.options import LOCAL_REGION, OWN_ATTEMPTS, OWN_BACKOFF, config_options, is_slow
from cloudq.aws.port import Answer, Call
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.errors import CredentialsError, ImproperlyConfigured
from cloudq.retry import backoff

#: Services whose answers always tell their length.
_TOLD: Final = ("dynamodb", "s3", "sqs")


class _Clients:
    """One process's session and clients. A forked child must not share its parent's sockets."""

    def __init__(self, region: str | None, endpoint_url: str | None, profile: str | None) -> None:
        self.pid = os.getpid()
        self.born = time.monotonic()
        self._endpoint_url = endpoint_url
        self._given = (region, profile)
        self._lock = threading.Lock()
        self._session: Any = None
        self._clients: dict[tuple[str, bool], Any] = {}
        self._methods: dict[tuple[str, str, bool], Callable[..., Any]] = {}

    def session(self) -> Any:
        with self._lock:
            return self._make_session()

    def _make_session(self) -> Any:
        if self._session is None:
            import boto3

            region, profile = self._given
            session: Any = boto3.Session(region_name=region, profile_name=profile)
            if session.region_name is None and self._endpoint_url:
                session = boto3.Session(region_name=LOCAL_REGION, profile_name=profile)
            self._session = session
        return self._session

    def method(self, service: str, operation: str, slow: bool) -> Callable[..., Any]:
        """The client's method for an operation, made once."""
        found = self._methods.get((service, operation, slow))
        if found is None:
            from botocore import xform_name

            client = self._client(service, slow)
            found = self._methods[service, operation, slow] = getattr(client, xform_name(operation))
        return found

    def _client(self, service: str, slow: bool) -> Any:
        # Making clients is not thread-safe in boto3; using them is.
        with self._lock:
            client = self._clients.get((service, slow))
            if client is None:
                from botocore.config import Config

                client = self._make_session().client(
                    service,
                    endpoint_url=self._endpoint_url,
                    config=Config(**config_options(service, slow, self._endpoint_url)),
                )
                self._clients[service, slow] = client
            return client

    def close(self) -> None:
        with self._lock:
            clients, self._clients, self._methods = list(self._clients.values()), {}, {}
        for client in clients:
            client.close()


class BotoPort:
    """``Port`` over boto3: one session, one client per service, made at first use."""

    def __init__(
        self,
        region: str | None = None,
        endpoint_url: str | None = None,
        profile: str | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._args = (region, endpoint_url, profile)
        self._clock = clock
        self._mine = _Clients(*self._args)

    def _clients(self) -> _Clients:
        clients = self._mine
        if clients.pid != os.getpid():
            # Dropped, not closed: the sockets are the parent's too.
            clients = self._mine = _Clients(*self._args)
        return clients

    @property
    def region(self) -> str:
        from botocore.exceptions import BotoCoreError

        try:
            name = self._clients().session().region_name
        except BotoCoreError as error:
            raise from_botocore(error, Call("aws", "session", {})) from error
        if not name:
            raise ImproperlyConfigured("no AWS region; set AWS_REGION or ?region=")
        return str(name)

    def call(self, call: Call) -> Answer:
        """See ``Port.call``."""
        from botocore.exceptions import BotoCoreError, ClientError

        waits = backoff(*OWN_BACKOFF)
        for attempt in range(1, OWN_ATTEMPTS + 1):
            mine = self._clients()
            try:
                return self._once(call)
            except (BotoCoreError, ClientError) as error:
                ours = from_botocore(error, call)
                if isinstance(ours, CredentialsError) and self._renew(mine):
                    continue
                if attempt == OWN_ATTEMPTS or not worth_another_try(error):
                    raise ours from error
            self._clock.sleep(next(waits))
        raise AssertionError("unreachable")

    def _renew(self, refused: _Clients) -> bool:
        """Begin anew with whatever credentials there are now; False when that was done a moment ago.

        A session keeps what it has loaded for ever, where it knows of no expiry.
        """
        if self._mine is refused:
            if time.monotonic() - refused.born < RENEW_PAUSE:
                return False
            self._mine = _Clients(*self._args)  # others may be at work with the old ones: dropped, not closed
        return True

    def _once(self, call: Call) -> Answer:
        from botocore.exceptions import ResponseStreamingError
        from urllib3.exceptions import HTTPError

        method = self._clients().method(call.service, call.operation, is_slow(call))
        try:
            answer: dict[str, Any] = method(**call.params)
        except HTTPError as error:  # botocore leaves it as it is where an error's body breaks off
            raise ResponseStreamingError(error=error) from error
        except ValueError as error:  # ... and where a length breaks off before its first digit
            if call.operation != "GetObject" or isinstance(error, UnicodeError):
                raise
            raise ResponseStreamingError(error=error) from error
        refuse_half(call, answer)
        body = answer.get("Body")
        if body is not None and hasattr(body, "read"):
            with body:
                answer["Body"] = body.read()
        return answer

    def close(self) -> None:
        """See ``Port.close``."""
        self._clients().close()


def refuse_half(call: Call, answer: Mapping[str, Any]) -> None:
    """Raise ResponseStreamingError for an answer that broke off before its length was told.

    ``http.client`` takes the end of a connection for the end of the head, so that botocore hands over an answer whose head was
    cut in two as a whole one, with nothing in it: an object without a byte, an item that is not there.
    """
    from botocore.exceptions import ResponseStreamingError

    meta = answer.get("ResponseMetadata", {})
    # moto inside this process tells no lengths
    if call.service not in _TOLD or meta.get("HTTPStatusCode") != 200 or sdk_is_mocked():
        return
    headers = meta.get("HTTPHeaders", {})
    told = headers.get("content-length", "").isdigit() or headers.get("transfer-encoding") == "chunked"
    if not told:
        if hasattr(answer.get("Body"), "close"):
            answer["Body"].close()
        raise ResponseStreamingError(error="the head of the answer broke off")


def worth_another_try(error: Exception) -> bool:
    """Is this what botocore's own retries leave out: throttling by a code it does not know (it
    then made a single try), or an answer whose body broke off?"""
    from botocore.exceptions import ClientError, IncompleteReadError, ResponseStreamingError

    if isinstance(error, ClientError):
        response = error.response
        tries = response.get("ResponseMetadata", {}).get("RetryAttempts", 0)
        return tries == 0 and is_throttled(response.get("Error", {}).get("Code", ""))
    return isinstance(error, ResponseStreamingError | IncompleteReadError)
