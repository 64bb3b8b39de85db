"""The lean AWS port: the hot operations of SQS and DynamoDB at the bare protocol's price.

botocore costs about 0.8 ms of CPU a call, most of it spent on what these few operations do not
need. Here a call is encoded, signed with the day's key and written to a kept-alive connection.
Everything else (rare operations, S3, proxies) is the boto3 port's.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Collection

from cloudq.aws import awsjson
from cloudq.aws.connection import Connection, Connections
from cloudq.aws.http1 import BrokenAnswer, HttpAnswer
from cloudq.aws.identity import Endpoint, Identity
from cloudq.aws.mock import sdk_is_mocked
from cloudq.aws.options import POOL_SIZE
from cloudq.aws.port import Answer, Call, Pause, Port
from cloudq.aws.quota import RetryQuota
from cloudq.aws.wire import Renew, Send, Wire, conversation
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.errors import ImproperlyConfigured, ServiceUnavailable


class _Mine:
    """One process's identity, connections and wires; a forked child must not share sockets."""

    def __init__(self, region: str | None, endpoint_url: str | None, profile: str | None) -> None:
        self.pid = os.getpid()
        self.identity = Identity(region, endpoint_url, profile)
        self.connections = Connections(POOL_SIZE)
        self.wires: dict[str, Wire] = {}
        self.quota = RetryQuota()
        self.lock = threading.Lock()
        self.context: ssl.SSLContext | None = None


class LeanPort:
    """``Port`` without botocore for the operations in ``awsjson.HOT``."""

    def __init__(
        self,
        region: str | None = None,
        endpoint_url: str | None = None,
        profile: str | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._args = (region, endpoint_url, profile)
        self._clock = clock
        self._mine = _Mine(*self._args)
        self._boto: Port | None = None

    @property
    def region(self) -> str:
        return self._state().identity.region

    def call(self, call: Call) -> Answer:
        """See ``Port.call``."""
        if (call.service, call.operation) not in awsjson.HOT or sdk_is_mocked():
            return self._other().call(call)
        mine = self._state()
        wire = mine.wires.get(call.service) or self._wire(mine, call.service)
        if wire is None:
            return self._other().call(call)
        talk = conversation(wire, call, mine.quota)
        try:
            step = next(talk)
            while True:
                if isinstance(step, Pause):
                    self._clock.sleep(step.seconds)
                    step = talk.send(None)
                    continue
                if isinstance(step, Renew):
                    step = talk.send(mine.identity.renew(step.since))
                    continue
                try:
                    answer = self._exchange(mine, wire.endpoint, step)
                except (OSError, BrokenAnswer) as error:
                    step = talk.throw(error)
                else:
                    step = talk.send(answer)
        except StopIteration as stop:
            result: Answer = stop.value
            return result

    def _exchange(self, mine: _Mine, endpoint: Endpoint, send: Send) -> HttpAnswer:
        connection = mine.connections.take(endpoint)
        if connection is not None:
            try:
                return self._over(mine, connection, send)
            except (OSError, BrokenAnswer) as error:
                # Kept too long: the other side had closed it. Any other failure is a real one.
                if isinstance(error, TimeoutError) or connection.began:
                    raise
        connection = Connection(endpoint, self._context(mine) if endpoint.tls else None)
        return self._over(mine, connection, send)

    def _over(self, mine: _Mine, connection: Connection, send: Send) -> HttpAnswer:
        mine.connections.busy(connection)
        try:
            answer = connection.exchange(send.data, send.timeout)
        except BaseException:
            mine.connections.drop(connection)
            if connection.ended:
                raise ServiceUnavailable("the call was ended by this process") from None
            raise
        mine.connections.give(connection, answer.keep)
        return answer

    def hang_up(self, threads: Collection[int]) -> None:
        """End the calls that these threads (``ident``) are in: with the answer, if it has come, else with
        ServiceUnavailable, not tried again. Any thread; never blocks. SQS may still give a message to a poll
        that was hung up; it then stays unseen until its visibility timeout."""
        self._state().connections.hang_up(threads)

    # --- what a process has -----------------------------------------------------------------------

    def _state(self) -> _Mine:
        mine = self._mine
        if mine.pid != os.getpid():
            # Dropped, not closed: the sockets are the parent's too.
            mine = self._mine = _Mine(*self._args)
            self._boto = None
        return mine

    def _wire(self, mine: _Mine, service: str) -> Wire | None:
        """The service's wire; None when a proxy stands before it: botocore speaks to those."""
        wire = Wire(service, mine.identity, self._clock)
        return None if needs_proxy(wire.endpoint) else mine.wires.setdefault(service, wire)

    def _context(self, mine: _Mine) -> ssl.SSLContext:
        with mine.lock:
            if mine.context is None:
                mine.context = tls_context(mine.identity)
            return mine.context

    def _other(self) -> Port:
        if self._boto is None:
            from cloudq.aws.boto import BotoPort

            self._boto = BotoPort(*self._args, clock=self._clock)
        return self._boto

    def close(self) -> None:
        """See ``Port.close``. Calls in flight end with an error: their connections are closed."""
        self._state().connections.close()
        if self._boto is not None:
            self._boto.close()


def tls_context(identity: Identity) -> ssl.SSLContext:
    """Verified TLS: the bundle that AWS's tools are told of, else certifi's, else the system's."""
    bundle = os.environ.get("AWS_CA_BUNDLE") or identity.setting("ca_bundle")
    if not bundle:
        try:
            import certifi
        except ImportError:
            return ssl.create_default_context()
        bundle = certifi.where()
    try:
        return ssl.create_default_context(cafile=bundle)
    except OSError as error:
        raise ImproperlyConfigured(
            f"the CA bundle {bundle} cannot be read ({error}); check AWS_CA_BUNDLE and ca_bundle"
        ) from error


def needs_proxy(endpoint: Endpoint) -> bool:
    """Do the environment's proxy variables apply to this endpoint?"""
    scheme = "https" if endpoint.tls else "http"
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
    if not any(os.environ.get(name) for name in names):
        return False
    from urllib.request import getproxies, proxy_bypass

    return scheme in getproxies() and not proxy_bypass(endpoint.host)
