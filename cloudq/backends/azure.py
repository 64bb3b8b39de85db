"""The results store on Azure Blob Storage (extra ``azure``): conditional writes by ETag.

Permissions: the role *Storage Blob Data Contributor* on the container. Signs in with
``DefaultAzureCredential`` (environment, workload or managed identity, Azure CLI), or with a
connection string from the environment, which never stands in a URL. The expiry is also kept as
metadata; Azure does not delete by it: give the prefix a lifecycle rule.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from cloudq.backends.adapter import mount
from cloudq.backends.base import BackendCapabilities
from cloudq.backends.blob import Blob, BlobBackend, Get, Listed, Mismatch, Put, Remove, Request
from cloudq.backends.names import check_prefix
from cloudq.backends.perprocess import PerProcess
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.errors import (
    AccessDenied,
    CloudQError,
    CredentialsError,
    ImproperlyConfigured,
    MissingExtra,
    OperationalError,
    ServiceUnavailable,
    StoreNotFound,
    ValueTooLarge,
)
from cloudq.url import Url

T = TypeVar("T")

CAPABILITIES: Final = BackendCapabilities(conflict_has_entry=True)
CONNECTION_STRING_ENV: Final = "AZURE_STORAGE_CONNECTION_STRING"
#: Seconds to connect, and to wait for an answer.
CONNECT_TIMEOUT: Final = 5
READ_TIMEOUT: Final = 60
CONNECTIONS: Final = 32
#: The SDK's own tries of one call (its default waits 15 s before the second).
RETRIES: Final = 4
RETRY_FIRST: Final = 1
#: Reads of a large blob that is replaced while its parts are fetched.
READ_ATTEMPTS: Final = 4
_EXPIRES: Final = "cloudq_expires_at"

_NO_CONTAINER: Final = (
    "ContainerNotFound",
    "ContainerBeingDeleted",
    "ContainerDisabled",
    "InvalidResourceName",
)
_MISMATCH: Final = ("ConditionNotMet", "TargetConditionNotMet", "BlobAlreadyExists")
_BAD_CREDENTIALS: Final = ("AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation")


def from_url(url: Url, clock: Clock = SYSTEM_CLOCK) -> BlobBackend:
    """``azureblob://container/prefix?account_url=https://ACCOUNT.blob.core.windows.net``

    Without ``account_url`` the environment variable ``connection_string_env`` names (by default
    ``AZURE_STORAGE_CONNECTION_STRING``) holds a connection string.
    """
    options = url.options(("account_url", "connection_string_env"))
    if not url.host:
        raise ImproperlyConfigured(
            "azureblob:// names a container: write azureblob://results/cloudq?account_url=https://..."
        )
    _require_extra()
    account_url = options.get("account_url")
    variable = options.get("connection_string_env", CONNECTION_STRING_ENV)
    if account_url and "connection_string_env" in options:
        raise ImproperlyConfigured("azureblob://: give account_url or connection_string_env, not both")
    if account_url:
        _check_account_url(account_url)
    elif not os.environ.get(variable):
        raise ImproperlyConfigured(
            "azureblob://: which storage account? Add ?account_url=https://ACCOUNT.blob.core.windows.net "
            f"or set the environment variable {variable}"
        )
    container = AzureContainer(url.host, account_url, variable)
    return BlobBackend(container, check_prefix("azureblob", url.path), str(url), CAPABILITIES, clock)


def _check_account_url(account_url: str) -> None:
    parts = urlsplit(account_url)
    if parts.scheme not in ("https", "http") or not parts.netloc:
        raise ImproperlyConfigured("azureblob://: account_url is like https://ACCOUNT.blob.core.windows.net")
    if parts.query or parts.username or parts.password:
        raise ImproperlyConfigured(
            "azureblob://: account_url takes no shared access signature or password; use a managed identity, or "
            f"put a connection string into the environment variable {CONNECTION_STRING_ENV}"
        )


def _require_extra() -> None:
    try:
        import azure.storage.blob  # noqa: F401
    except ImportError as error:
        raise MissingExtra("the results store azureblob://", "azure") from error


class AzureContainer:
    """``Bucket`` on an Azure container."""

    def __init__(
        self,
        container: str,
        account_url: str | None = None,
        connection_string_env: str = CONNECTION_STRING_ENV,
    ) -> None:
        self._container = container
        self._account_url = account_url
        self._variable = connection_string_env
        self._clients: PerProcess[Any] = PerProcess(self._connect, lambda client: client.close())

    @property
    def place(self) -> str:
        return f"azureblob://{self._container}"

    def _connect(self) -> Any:
        from azure.storage.blob import ContainerClient, ExponentialRetry

        options: dict[str, Any] = {
            "transport": _transport(),
            "retry_policy": ExponentialRetry(RETRY_FIRST, 2, retry_total=RETRIES, random_jitter_range=1),
            "connection_timeout": CONNECT_TIMEOUT,
            "read_timeout": READ_TIMEOUT,
        }
        if self._account_url:
            return ContainerClient(self._account_url, self._container, self._credential(), **options)
        text = os.environ.get(self._variable, "")
        try:
            return ContainerClient.from_connection_string(text, self._container, **options)
        except ValueError as error:
            # The string holds the account's key: neither it nor the error's text is repeated.
            raise ImproperlyConfigured(
                f"azureblob://: the environment variable {self._variable} holds no valid connection string"
            ) from error

    def _credential(self) -> Any:
        try:
            from azure.identity import DefaultAzureCredential
        except ImportError as error:
            raise MissingExtra("signing in to Azure", "azure") from error
        return DefaultAzureCredential()

    def perform(self, request: Request) -> Any:
        match request:
            case Get():
                return self._guarded(request.name, lambda: self._get(request))
            case Put():
                return self._guarded(request.name, lambda: self._put(request))
            case Remove():
                return self._guarded(request.name, lambda: self._remove(request))
            case _:
                raise TypeError(f"not for a container: {request!r}")

    def list(self, prefix: str) -> Iterator[Listed]:
        from azure.storage.blob import BlobPrefix

        listing = iter(self._clients.get().walk_blobs(prefix, include=["metadata"], delimiter="/"))
        end: Any = object()
        while (each := self._guarded(prefix, lambda: next(listing, end))) is not end:
            if not isinstance(each, BlobPrefix):
                expiry = (each.metadata or {}).get(_EXPIRES)
                yield Listed(each.name, float(expiry) if expiry else None)

    def close(self) -> None:
        self._clients.close()

    def _get(self, get: Get) -> Blob | None:
        from azure.core.exceptions import HttpResponseError, ResourceModifiedError, ResourceNotFoundError

        for _ in range(READ_ATTEMPTS):
            try:
                part = {} if get.most is None else {"offset": 0, "length": get.most}
                stream = self._clients.get().download_blob(get.name, **part)
                return Blob(stream.readall(), str(stream.properties.etag))
            except ResourceNotFoundError as error:
                if _code(error) in _NO_CONTAINER:
                    raise
                return None
            except ResourceModifiedError:
                continue
            except HttpResponseError as error:
                if _code(error) == "InvalidRange":  # of an empty blob there is no first byte
                    return Blob(b"", "")
                raise
        raise ServiceUnavailable(f"{self.place}/{get.name} was replaced during each of {READ_ATTEMPTS} reads")

    def _put(self, put: Put) -> str:
        from azure.core import MatchConditions

        options: dict[str, Any] = {"overwrite": True}
        if put.when == "absent":
            # With an etag as well the SDK raises TypeError; without overwrite it makes a condition of its own.
            options["match_condition"] = MatchConditions.IfMissing
        elif put.when == "tag":
            options |= {"etag": put.tag, "match_condition": MatchConditions.IfNotModified}
        if put.expires_at is not None:
            options["metadata"] = {_EXPIRES: repr(float(put.expires_at))}
        client = self._clients.get().get_blob_client(put.name)
        answer = self._conditional(lambda: client.upload_blob(put.data, **options))
        return str(answer["etag"])

    def _remove(self, remove: Remove) -> None:
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceNotFoundError

        options: dict[str, Any] = {}
        if remove.tag is not None:
            options = {"etag": remove.tag, "match_condition": MatchConditions.IfNotModified}
        try:
            self._conditional(lambda: self._clients.get().delete_blob(remove.name, **options))
        except ResourceNotFoundError as error:
            if _code(error) in _NO_CONTAINER:
                raise
            if remove.tag is not None:
                raise Mismatch(str(error)) from error

    def _conditional(self, call: Callable[[], T]) -> T:
        from azure.core.exceptions import HttpResponseError

        try:
            return call()
        except HttpResponseError as error:
            if _code(error) in _MISMATCH:
                raise Mismatch(_text(error)) from error
            raise

    def _guarded(self, name: str, call: Callable[[], T]) -> T:
        """Make the call, with Azure's exceptions turned into ours."""
        from azure.core.exceptions import AzureError

        try:
            return call()
        except AzureError as error:
            raise self._ours(name, error) from error

    def _ours(self, name: str, error: Exception) -> CloudQError:
        where, text, code = f"{self.place}/{name}", _text(error), _code(error)
        status = getattr(error, "status_code", None)
        if code in _NO_CONTAINER:
            return StoreNotFound(
                f"there is no container {self._container!r} in this storage account ({code}): create it, or "
                "check the URL"
            )
        if code in _BAD_CREDENTIALS or status == 401 or _is_sign_in(error, status):
            return CredentialsError(
                f"{where}: Azure refused the credentials ({text}); run on a managed identity, `az login`, or check "
                f"{self._variable} and the machine's clock"
            )
        if status == 403:
            return AccessDenied(
                f"{where}: the credentials lack a permission ({text}); grant Storage Blob Data Contributor on "
                f"the container {self._container!r}, and check the account's network rules"
            )
        if status == 413:
            return ValueTooLarge(f"{where}: larger than a blob may be ({text})")
        if status is not None and status < 500 and status not in (408, 429):
            return OperationalError(f"{where}: Azure refused the request ({code}: {text})")
        return ServiceUnavailable(
            f"{where}: Azure did not do it ({text}); check the network, try again later"
        )


def _transport() -> Any:
    import requests
    from azure.core.pipeline.transport import RequestsTransport

    session = requests.Session()
    mount(session, CONNECTIONS)  # its retries are the pipeline's, not the adapter's
    return RequestsTransport(session=session)


def _code(error: Exception) -> str:
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code or ""))


def _text(error: Exception) -> str:
    """The first line: the rest are request ids and headers."""
    return (str(getattr(error, "message", "") or error).strip().splitlines() or [""])[0]


def _is_sign_in(error: Exception, status: int | None) -> bool:
    """Was it the signing in? A 403 is that only when Azure says so: else it is a permission."""
    from azure.core.exceptions import ClientAuthenticationError

    if status == 403:
        return _text(error).startswith("Server failed to authenticate")
    return isinstance(error, ClientAuthenticationError)
