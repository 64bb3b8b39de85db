"""The AWS port over aioboto3 (extra ``aio``), for asyncio."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import AsyncExitStack
from typing import Any

from cloudq.aws.boto import refuse_half, worth_another_try
from cloudq.aws.errors import from_botocore
from cloudq.aws.options import LOCAL_REGION, OWN_ATTEMPTS, OWN_BACKOFF, config_options, is_slow
from cloudq.aws.port import Answer, Call
from cloudq.errors import ImproperlyConfigured, MissingExtra
from cloudq.retry import backoff


class _LoopClients:
    """The clients entered in one event loop. aiohttp's sessions belong to the loop they began in."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.stack = AsyncExitStack()
        self.clients: dict[tuple[str, bool], Any] = {}


class AioPort:
    """``AsyncPort`` over aioboto3. One client per service and event loop, made at first use."""

    def __init__(
        self, region: str | None = None, endpoint_url: str | None = None, profile: str | None = None
    ) -> None:
        try:
            import aioboto3
        except ImportError as error:
            raise MissingExtra("asyncio on AWS", "aio") from error
        from botocore.exceptions import BotoCoreError

        try:
            session = aioboto3.Session(region_name=region, profile_name=profile)
            if session.region_name is None and endpoint_url:
                session = aioboto3.Session(region_name=LOCAL_REGION, profile_name=profile)
        except BotoCoreError as error:
            raise from_botocore(error, Call("aws", "session", {})) from error
        self._session = session
        self._endpoint_url = endpoint_url
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopClients] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def region(self) -> str:
        if not self._session.region_name:
            raise ImproperlyConfigured("no AWS region; set AWS_REGION or ?region=")
        return str(self._session.region_name)

    async def call(self, call: Call) -> Answer:
        """See ``Port.call``."""
        from botocore.exceptions import BotoCoreError, ClientError

        waits = backoff(*OWN_BACKOFF)
        for attempt in range(1, OWN_ATTEMPTS + 1):
            try:
                return await self._once(call)
            except (BotoCoreError, ClientError) as error:
                if attempt == OWN_ATTEMPTS or not worth_another_try(error):
                    raise from_botocore(error, call) from error
            await asyncio.sleep(next(waits))
        raise AssertionError("unreachable")

    async def _once(self, call: Call) -> Answer:
        from aiohttp import ClientError
        from botocore import xform_name
        from botocore.exceptions import ResponseStreamingError

        client = await self._client(call.service, is_slow(call))
        try:
            answer: dict[str, Any] = await getattr(client, xform_name(call.operation))(**call.params)
        except ClientError as error:  # aiobotocore leaves it as it is where an error's body breaks off
            raise ResponseStreamingError(error=error) from error
        refuse_half(call, answer)
        body = answer.get("Body")
        if body is not None and hasattr(body, "read"):
            answer["Body"] = await _read(body)
        return answer

    async def _client(self, service: str, slow: bool) -> Any:
        mine = self._loops.setdefault(asyncio.get_running_loop(), _LoopClients())
        client = mine.clients.get((service, slow))
        if client is not None:
            return client
        from aiobotocore.config import AioConfig

        async with mine.lock:
            if (service, slow) not in mine.clients:
                context = self._session.client(
                    service,
                    endpoint_url=self._endpoint_url,
                    config=AioConfig(**config_options(service, slow, self._endpoint_url)),
                )
                mine.clients[service, slow] = await mine.stack.enter_async_context(context)
            return mine.clients[service, slow]

    async def close(self) -> None:
        """Close the clients of the running event loop; a later call opens new ones."""
        mine = self._loops.pop(asyncio.get_running_loop(), None)
        if mine is not None:
            await mine.stack.aclose()


async def _read(body: Any) -> bytes:
    """The whole stream; a broken one ends in botocore's own word for it."""
    from aiohttp import ClientError
    from botocore.exceptions import ResponseStreamingError

    async with body:
        try:
            data: bytes = await body.read()
        except ClientError as error:
            raise ResponseStreamingError(error=error) from error
    return data
