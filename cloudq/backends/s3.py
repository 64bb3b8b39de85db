"""The results store on Amazon S3: one object a key, conditional writes by ``If-None-Match`` and ``If-Match``.

Permissions: ``s3:GetObject``, ``s3:PutObject``, ``s3:DeleteObject`` on the prefix, and ``s3:ListBucket``
on the bucket (without it S3 answers 403 instead of 404 for an object that is not there).
S3 does not delete by an object's own expiry: give the prefix a lifecycle rule. Listings do not tell
the expiry either, so ``keys`` may name expired entries (``keys_may_list_expired``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from cloudq.aws.factory import make_port
from cloudq.aws.port import Answer, AwsError, Call, Operation, Pause, Port, run
from cloudq.backends.base import BackendCapabilities
from cloudq.backends.blob import (
    Blob,
    BlobBackend,
    Get,
    Listed,
    Mismatch,
    Put,
    Remove,
    Request,
    TryAgain,
    Wait,
)
from cloudq.backends.names import check_prefix
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.errors import (
    AccessDenied,
    ImproperlyConfigured,
    ServiceUnavailable,
    StoreNotFound,
    ValueTooLarge,
)
from cloudq.url import Url

#: A conflict is looked at before it is reported, to know our own writes again: so the entry is known.
CAPABILITIES: Final = BackendCapabilities(conflict_has_entry=True, keys_may_list_expired=True)

_MISSING: Final = ("NoSuchKey", "404", "NotFound")
_ELSEWHERE: Final = (
    "PermanentRedirect",
    "301",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
)
_CONTENDED: Final = ("ConditionalRequestConflict", "OperationAborted", "409")


def from_url(url: Url, clock: Clock = SYSTEM_CLOCK) -> BlobBackend:
    """``s3://bucket/prefix?region=&endpoint_url=&profile=``"""
    options = url.options(("region", "endpoint_url", "profile"))
    if not url.host:
        raise ImproperlyConfigured(f"s3:// names a bucket, got {url}: write s3://my-bucket/cloudq")
    port = make_port(options.get("region"), options.get("endpoint_url"), options.get("profile"))
    bucket = S3Bucket(port, url.host, clock)
    return BlobBackend(bucket, check_prefix("s3", url.path), str(url), CAPABILITIES, clock)


class S3Bucket:
    """``Bucket`` on S3. ``perform`` drives ``request`` on a sync port."""

    def __init__(self, port: Port, bucket: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._port = port
        self._bucket = bucket
        self._clock = clock

    @property
    def place(self) -> str:
        return f"s3://{self._bucket}"

    def perform(self, request: Request) -> Any:
        return run(self._port, self.request(request), self._clock)

    def list(self, prefix: str) -> Iterator[Listed]:
        token: str | None = None
        while True:
            answer = run(self._port, self._page(prefix, token), self._clock)
            for each in answer.get("Contents", []):
                yield Listed(each["Key"])
            token = answer.get("NextContinuationToken")
            if not answer.get("IsTruncated") or not token:
                return

    def close(self) -> None:
        self._port.close()

    def request(self, request: Request) -> Operation[Any]:
        """What to call for a request of ``blob``, and how to read the answer."""
        match request:
            case Wait(seconds):
                yield Pause(seconds)
                return None
            case Get():
                return (yield from self._get(request))
            case Put():
                return (yield from self._put(request))
            case Remove():
                return (yield from self._remove(request))

    def _get(self, get: Get) -> Operation[Blob | None]:
        params = {"Key": get.name}
        if get.most is not None:
            params["Range"] = f"bytes=0-{get.most - 1}"
        try:
            answer = yield from self._call("GetObject", params)
        except AwsError as error:
            if error.code in _MISSING:
                return None
            if (
                error.status == 416 or error.code == "InvalidRange"
            ):  # of an empty object there is no first byte
                return Blob(b"", "")
            raise
        return Blob(bytes(answer["Body"]), self._version(answer))

    def _put(self, put: Put) -> Operation[str]:
        params: dict[str, Any] = {
            "Key": put.name,
            "Body": put.data,
            "ContentType": "application/octet-stream",
        }
        if put.when == "absent":
            params["IfNoneMatch"] = "*"
        elif put.when == "tag":
            params["IfMatch"] = put.tag
        answer = yield from self._conditional("PutObject", params, put.when != "always")
        return self._version(answer)

    def _version(self, answer: Answer) -> str:
        """Raises ServiceUnavailable where it is missing: the answer broke off, and botocore took what there was for all."""
        tag = answer.get("ETag")
        if not tag:
            raise ServiceUnavailable(f"S3 gave no ETag: its answer about {self.place} broke off; try again")
        return str(tag)

    def _remove(self, remove: Remove) -> Operation[None]:
        params = {"Key": remove.name}
        if remove.tag is not None:
            params["IfMatch"] = remove.tag
        try:
            yield from self._conditional("DeleteObject", params, remove.tag is not None)
        except AwsError as error:
            if error.code not in _MISSING:
                raise

    def _conditional(self, operation: str, params: Mapping[str, Any], conditional: bool) -> Operation[Answer]:
        try:
            return (yield from self._call(operation, params))
        except AwsError as error:
            if error.status == 409 or error.code in _CONTENDED:
                raise TryAgain(str(error)) from error
            # If-Match on an object that is not there answers 404, on another ETag 412.
            if conditional and (
                error.status in (404, 412) or error.code in (*_MISSING, "PreconditionFailed")
            ):
                raise Mismatch(str(error)) from error
            raise

    def _page(self, prefix: str, token: str | None) -> Operation[Answer]:
        params: dict[str, Any] = {"Prefix": prefix, "Delimiter": "/"}
        if token is not None:
            params["ContinuationToken"] = token
        return (yield from self._call("ListObjectsV2", params))

    def _call(self, operation: str, params: Mapping[str, Any]) -> Operation[Answer]:
        try:
            return (yield Call("s3", operation, {"Bucket": self._bucket, **params}))
        except AwsError as error:
            if error.code in ("NoSuchBucket", "InvalidBucketName"):
                raise StoreNotFound(
                    f"there is no S3 bucket {self._bucket!r}: create it with Terraform (modules/results), "
                    "or check the name in the URL"
                ) from error
            if error.code in _ELSEWHERE:
                raise StoreNotFound(
                    f"the S3 bucket {self._bucket!r} is not in this region ({error.code}: {error.message}): "
                    "set ?region= to the bucket's"
                ) from error
            if error.code == "EntityTooLarge":
                raise ValueTooLarge(
                    f"{params.get('Key')!r} in {self.place}: S3 takes at most 5 GB at once"
                ) from error
            raise
        except AccessDenied as error:
            text = f"{error}; object {params.get('Key') or params.get('Prefix')!r}"
            if operation == "GetObject":
                text += (
                    ". S3 also says this of an object that is not there, unless the credentials have "
                    f"s3:ListBucket on {self._bucket!r}: grant both"
                )
            raise AccessDenied(text) from error
