"""HTTP requests as Lambda is given them, and answers as it takes them.

Shapes: payload format 2.0 (Function URLs, API Gateway HTTP APIs) and 1.0 (REST APIs, and load balancers, whose
events look alike): "Lambda function URL" and "Create Lambda proxy integrations" in AWS's guides.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlencode

#: What every answer carries, so that a browser that is led here makes nothing of it but text (OWASP's "REST
#: Security Cheat Sheet"). No answer redirects, and none allows another origin to read it.
HEADERS: Final[Mapping[str, str]] = {
    "content-type": "application/json",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "strict-transport-security": "max-age=63072000",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class HttpError(Exception):
    """An answer that is an error, in words for the caller; ``headers`` beside the usual ones."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class Request:
    """``path`` is without the stage's name, ``raw_path`` and ``raw_query`` as the caller signed them."""

    method: str
    path: str
    raw_path: str
    raw_query: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    #: Who AWS says it is (an ARN), or None when nobody was checked.
    caller: str | None = None
    stage: str = field(default="")
    #: The caller's address as AWS saw it; "" when it does not say.
    address: str = ""


def read(event: Any, max_body: int) -> Request:
    """The request in an event. Raises HttpError."""
    if not isinstance(event, Mapping) or not isinstance(event.get("requestContext"), Mapping):
        raise HttpError(400, "this function answers HTTP requests: call it by its URL or an API Gateway")
    context = event["requestContext"]
    if "http" in context:
        http = _part(context, "http")
        method, raw_path = str(http.get("method", "")), str(event.get("rawPath") or http.get("path") or "/")
        raw_query = str(event.get("rawQueryString") or "")
        iam = _part(_part(context, "authorizer"), "iam")
        caller, address = iam.get("userArn"), http.get("sourceIp")
    else:
        method, raw_path = str(event.get("httpMethod", "")), str(event.get("path") or "/")
        raw_query = urlencode(_query(event))
        identity = _part(context, "identity")
        caller, address = identity.get("userArn"), identity.get("sourceIp")
    headers = {name.lower(): value for name, value in _texts(event, "headers").items()}
    if not address:  # a load balancer appends whom it saw to what the caller claims
        address = headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    stage = str(context.get("stage") or "")
    path = raw_path
    if stage and stage != "$default" and path.startswith(f"/{stage}/"):
        path = path[len(stage) + 1 :]
    return Request(
        method=method.upper(),
        path="/" + unquote(path).strip("/"),
        raw_path=_text(raw_path, "path"),
        raw_query=_text(raw_query, "query"),
        query=_query(event),
        headers=headers,
        body=_body(event, max_body),
        caller=caller if isinstance(caller, str) and caller else None,
        stage=stage,
        address=str(address),
    )


def _part(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part that is an object, or empty. Raises HttpError: AWS sends nothing else."""
    found = of.get(name) or {}
    if not isinstance(found, Mapping):
        raise HttpError(400, f"{name} in the event is no object: this function answers HTTP requests")
    return found


def _query(event: Mapping[str, Any]) -> dict[str, str]:
    return _texts(event, "queryStringParameters")


def _texts(event: Mapping[str, Any], name: str) -> dict[str, str]:
    return {_text(str(k), name): _text(str(v), name) for k, v in _part(event, name).items()}


def _text(text: str, what: str) -> str:
    """Half a surrogate pair (``"\\ud800"`` in the event's JSON) is no character. Raises HttpError."""
    try:
        text.encode()
    except UnicodeError:
        raise HttpError(400, f"{what}: it holds what is no Unicode text") from None
    return text


def _body(event: Mapping[str, Any], most: int) -> bytes:
    given = event.get("body")
    if given is None:
        return b""
    if not isinstance(given, str):
        raise HttpError(400, "the body is no text")
    if len(given) > 2 * most:
        raise HttpError(413, f"the body is longer than {most} bytes")
    try:
        body = base64.b64decode(given, validate=True) if event.get("isBase64Encoded") else given.encode()
    except (binascii.Error, UnicodeError):
        raise HttpError(400, "the body is not what it says it is") from None
    if len(body) > most:
        raise HttpError(413, f"the body is longer than {most} bytes")
    return body


def answer(
    status: int, document: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """An answer in both formats."""
    return {
        "statusCode": status,
        "headers": {**HEADERS, **(headers or {})},
        "body": json.dumps(document, ensure_ascii=False, default=repr),
        "isBase64Encoded": False,
    }
