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
from typing import Any
from urllib.parse import unquote, urlencode


class HttpError(Exception):
    """An answer that is an error, in words for the caller."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


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


def read(event: Any, max_body: int) -> Request:
    """The request in an event. Raises HttpError."""
    if not isinstance(event, Mapping) or not isinstance(event.get("requestContext"), Mapping):
        raise HttpError(400, "this function answers HTTP requests: call it by its URL or an API Gateway")
    context = event["requestContext"]
    if "http" in context:
        http = context["http"]
        method, raw_path = str(http.get("method", "")), str(event.get("rawPath") or http.get("path") or "/")
        raw_query = str(event.get("rawQueryString") or "")
        iam = (context.get("authorizer") or {}).get("iam") or {}
        caller = iam.get("userArn")
    else:
        method, raw_path = str(event.get("httpMethod", "")), str(event.get("path") or "/")
        raw_query = urlencode(_query(event))
        caller = (context.get("identity") or {}).get("userArn")
    stage = str(context.get("stage") or "")
    path = raw_path
    if stage and stage != "$default" and path.startswith(f"/{stage}/"):
        path = path[len(stage) + 1 :]
    return Request(
        method=method.upper(),
        path="/" + unquote(path).strip("/"),
        raw_path=raw_path,
        raw_query=raw_query,
        query=_query(event),
        headers={str(name).lower(): str(value) for name, value in (event.get("headers") or {}).items()},
        body=_body(event, max_body),
        caller=caller if isinstance(caller, str) and caller else None,
        stage=stage,
    )


def _query(event: Mapping[str, Any]) -> dict[str, str]:
    return {str(k): str(v) for k, v in (event.get("queryStringParameters") or {}).items()}


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


def answer(status: int, document: Mapping[str, Any]) -> dict[str, Any]:
    """An answer in both formats."""
    return {
        "statusCode": status,
        "headers": {"content-type": "application/json", "cache-control": "no-store"},
        "body": json.dumps(document, ensure_ascii=False, default=repr),
        "isBase64Encoded": False,
    }
