"""The results store on Google Cloud Storage (extra ``gcs``): conditional writes by generation.

Permissions: ``roles/storage.objectUser`` on the bucket (get, create, update, delete and list objects).
One object name stands one write a second (https://cloud.google.com/storage/quotas#objects); more is
answered with 429 and tried again. The expiry is also set as the object's custom time, for a
lifecycle rule ``daysSinceCustomTime``.
"""

from __future__ import annotations

import datetime
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
)
from cloudq.url import Url

T = TypeVar("T")

CAPABILITIES: Final = BackendCapabilities(conflict_has_entry=True, writes_per_key=1.0)
#: Seconds to connect, and to wait for an answer.
TIMEOUT: Final = (5.0, 60.0)
#: Seconds for all tries of one call, and between them (from, to). Every call may be tried again: a
#: conditional write knows its own nonce, the others end in the same state.
RETRY_FOR: Final = 30.0
RETRY_WAITS: Final = (0.3, 8.0)
CONNECTIONS: Final = 32
_EXPIRES: Final = "cloudq-expires-at"
#: The last moment a datetime can say.
_LATEST: Final = datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC).timestamp()


def from_url(url: Url, clock: Clock = SYSTEM_CLOCK) -> BlobBackend:
    """``gs://bucket/prefix?project=&endpoint_url=`` (an ``http://`` endpoint is an emulator: no credentials)"""
    options = url.options(("project", "endpoint_url"))
    if not url.host:
        raise ImproperlyConfigured(f"gs:// names a bucket, got {url}: write gs://my-bucket/cloudq")
    _require_extra()
    bucket = GcsBucket(url.host, options.get("project"), options.get("endpoint_url"))
    return BlobBackend(bucket, check_prefix("gs", url.path), str(url), CAPABILITIES, clock)


def _require_extra() -> None:
    try:
        import google.cloud.storage  # noqa: F401
    except ImportError as error:
        raise MissingExtra("the results store gs://", "gcs") from error


class GcsBucket:
    """``Bucket`` on Google Cloud Storage."""

    def __init__(self, bucket: str, project: str | None = None, endpoint_url: str | None = None) -> None:
        self._bucket = bucket
        self._project = project
        self._endpoint_url = endpoint_url
        self._clients: PerProcess[Any] = PerProcess(self._connect, lambda client: client.close())
        self._seen = False

    @property
    def place(self) -> str:
        return f"gs://{self._bucket}"

    def _connect(self) -> Any:
        from google.auth import credentials
        from google.cloud import storage

        arguments: dict[str, Any] = {"project": self._project}
        if self._endpoint_url:
            arguments["client_options"] = {"api_endpoint": self._endpoint_url}
            if urlsplit(self._endpoint_url).scheme == "http":
                anonymous: Any = credentials.AnonymousCredentials
                arguments["credentials"] = anonymous()
        client = storage.Client(**arguments)
        mount(client._http, CONNECTIONS)
        return client

    def perform(self, request: Request) -> Any:
        match request:
            case Get():
                return self._guarded(request.name, lambda: self._get(request))
            case Put():
                return self._guarded(request.name, lambda: self._put(request))
            case Remove():
                return self._guarded(request.name, lambda: self._remove(request))
            case _:
                raise TypeError(f"not for a bucket: {request!r}")

    def list(self, prefix: str) -> Iterator[Listed]:
        listing = self._guarded(prefix, lambda: iter(self._listing(prefix)))
        end: Any = object()
        while (each := self._guarded(prefix, lambda: next(listing, end))) is not end:
            expiry = (each.metadata or {}).get(_EXPIRES)
            yield Listed(each.name, float(expiry) if expiry else None)

    def close(self) -> None:
        self._clients.close()

    def _listing(self, prefix: str, limit: int | None = None) -> Any:
        return self._clients.get().list_blobs(
            self._bucket,
            prefix=prefix,
            delimiter="/",
            max_results=limit,
            fields="items(name,metadata),nextPageToken",
            **_call_options(),
        )

    def _object(self, name: str) -> Any:
        return self._clients.get().bucket(self._bucket).blob(name)

    def _get(self, get: Get) -> Blob | None:
        from google.api_core.exceptions import NotFound, RequestRangeNotSatisfiable

        item = self._object(get.name)
        end = None if get.most is None else get.most - 1
        try:
            data = item.download_as_bytes(end=end, raw_download=True, **_call_options())
        except RequestRangeNotSatisfiable:  # of an empty object there is no first byte
            return Blob(b"", "")
        except NotFound:
            self._require_bucket()
            return None
        return Blob(data, str(item.generation))

    def _put(self, put: Put) -> str:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        item = self._object(put.name)
        if put.expires_at is not None:
            item.metadata = {_EXPIRES: repr(float(put.expires_at))}
            item.custom_time = datetime.datetime.fromtimestamp(min(put.expires_at, _LATEST), datetime.UTC)
        condition = _generation(put.tag) if put.when == "tag" else {"always": None, "absent": 0}[put.when]
        try:
            item.upload_from_string(
                put.data, "application/octet-stream", if_generation_match=condition, **_call_options()
            )
        except PreconditionFailed as error:
            raise Mismatch(str(error)) from error
        except NotFound as error:
            self._require_bucket()
            raise Mismatch(str(error)) from error
        return str(item.generation)

    def _remove(self, remove: Remove) -> None:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        condition = None if remove.tag is None else _generation(remove.tag)
        try:
            self._object(remove.name).delete(if_generation_match=condition, **_call_options())
        except PreconditionFailed as error:
            raise Mismatch(str(error)) from error
        except NotFound as error:
            self._require_bucket()
            if remove.tag is not None:
                raise Mismatch(str(error)) from error

    def _require_bucket(self) -> None:
        """Is it the object that is not there, or the bucket? Asked once; both are answered with 404."""
        if not self._seen:
            list(self._listing("cloudq-is-the-bucket-there/", 1))
            self._seen = True

    def _guarded(self, name: str, call: Callable[[], T]) -> T:
        """Make the call, with Google's exceptions turned into ours."""
        try:
            return call()
        except CloudQError:
            raise
        except _foreign() as error:
            raise self._ours(name, error) from error

    def _ours(self, name: str, error: Exception) -> CloudQError:
        from google.auth import exceptions as auth

        where, text = f"{self.place}/{name}", " ".join(str(error).split())
        if isinstance(error, auth.TransportError):
            return ServiceUnavailable(f"{where}: no answer from Google's sign-in ({text}); check the network")
        if isinstance(error, auth.GoogleAuthError):
            return CredentialsError(
                f"{where}: no usable Google credentials ({text}); run on a service account, set "
                "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`"
            )
        code = getattr(error, "code", None)
        if code == 404:
            return StoreNotFound(
                f"there is no bucket {self._bucket!r} in Google Cloud Storage: create it, or check the name in "
                "the URL"
            )
        if code == 401:
            return CredentialsError(f"{where}: Google refused the credentials ({text}); sign in again")
        if code == 403:
            return AccessDenied(
                f"{where}: the credentials lack a permission ({text}); grant roles/storage.objectUser on the "
                f"bucket {self._bucket!r} (without storage.objects.list an absent object is answered so too)"
            )
        if code == 400:
            return OperationalError(f"{where}: Google Cloud Storage refused the request ({text})")
        return ServiceUnavailable(f"{where}: Google Cloud Storage did not do it ({text}); try again later")


def _generation(tag: str) -> int:
    if not tag.isdecimal():
        raise Mismatch(f"{tag!r} is no generation")
    return int(tag)


def _call_options() -> dict[str, Any]:
    from google.cloud.storage.retry import DEFAULT_RETRY

    first, last = RETRY_WAITS
    retry = DEFAULT_RETRY.with_delay(initial=first, maximum=last, multiplier=2.0).with_timeout(RETRY_FOR)
    return {"retry": retry, "timeout": TIMEOUT}


def _foreign() -> tuple[type[Exception], ...]:
    """Everything the client library raises: its own, its sign-in's and its transport's."""
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from google.resumable_media import DataCorruption, InvalidResponse
    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError

    return (
        GoogleAPIError,
        GoogleAuthError,
        DataCorruption,
        InvalidResponse,
        RequestException,
        HTTPError,
        OSError,
    )
