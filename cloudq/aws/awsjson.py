"""AWS's JSON protocol (1.0), for the operations that a queue makes all day: calls to bytes, answers to mappings.

What comes out is what boto3 gives for the same answer, less its ``ResponseMetadata``. Operations
that are not listed here are botocore's.
"""

from __future__ import annotations

import binascii
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec

from cloudq.aws.errors import THROTTLED, UNAVAILABLE, from_code, plain_code
from cloudq.aws.http1 import BrokenAnswer, HttpAnswer
from cloudq.aws.port import Answer, Call
from cloudq.errors import CloudQError, ImproperlyConfigured

CONTENT_TYPE: Final = "application/x-amz-json-1.0"
#: Services spoken here, and how their operations are prefixed.
TARGETS: Final = {"sqs": "AmazonSQS", "dynamodb": "DynamoDB_20120810"}
_OPERATIONS: Final = {
    "sqs": (
        "ChangeMessageVisibility",
        "ChangeMessageVisibilityBatch",
        "DeleteMessage",
        "DeleteMessageBatch",
        "GetQueueAttributes",
        "GetQueueUrl",
        "ReceiveMessage",
        "SendMessage",
        "SendMessageBatch",
    ),
    "dynamodb": (
        "BatchExecuteStatement",
        "BatchGetItem",
        "BatchWriteItem",
        "DeleteItem",
        "GetItem",
        "PutItem",
        "Query",
        "TransactWriteItems",
        "UpdateItem",
    ),
}
#: (service, operation) -> the header that names it.
HOT: Final[Mapping[tuple[str, str], str]] = {
    (service, name): f"{TARGETS[service]}.{name}" for service, names in _OPERATIONS.items() for name in names
}
_RETRIED: Final = THROTTLED | UNAVAILABLE | {"TransactionInProgressException", "EC2ThrottledException"}
_encoder: Final = msgspec.json.Encoder()
_decode: Final = msgspec.json.decode


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that says no. ``again``: the same call may work in a moment."""

    error: CloudQError
    code: str
    again: bool
    throttled: bool


def encode(call: Call) -> bytes:
    """The request's body. Bytes become base64, as both services want them."""
    try:
        return _encoder.encode(call.params)
    except (TypeError, msgspec.MsgspecError) as error:
        raise ImproperlyConfigured(
            f"{call.service} {call.operation}: parameters no JSON can hold: {error}"
        ) from error


def read(call: Call, answer: HttpAnswer) -> Answer | Refusal:
    """The answer's meaning. Raises BrokenAnswer when it is not what was sent (checksums, no JSON)."""
    checksum = answer.headers.get("x-amz-crc32")
    if checksum is not None and checksum.strip() != str(zlib.crc32(answer.body)):
        raise BrokenAnswer("the answer's CRC-32 is not the one its header gives")
    if answer.status >= 300:
        return _refusal(call, answer)
    if not answer.body:
        return {}
    found = _mapping(answer)
    if call.service == "dynamodb":
        _DYNAMO_ANSWERS.get(call.operation, _nothing)(found)
    elif call.operation == "ReceiveMessage":
        _received(found)
    elif call.operation in ("SendMessage", "SendMessageBatch"):
        _sent(call, found)
    return found


def _mapping(answer: HttpAnswer) -> dict[str, Any]:
    try:
        found = _decode(answer.body)
    except msgspec.DecodeError as error:
        raise BrokenAnswer(f"the answer is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise BrokenAnswer(f"the answer is no JSON object but {type(found).__name__}")
    return found


# --- errors ---------------------------------------------------------------------------------------


def _refusal(call: Call, answer: HttpAnswer) -> Refusal:
    try:
        body = _mapping(answer) if answer.body else {}
    except BrokenAnswer:
        body = {}  # a proxy's or load balancer's page: the status says enough
    code = _code(body, answer)
    message = str(body.get("message") or body.get("Message") or "")
    more: dict[str, Any] = {"Error": {"Code": code, "Message": message}}
    if "Item" in body:
        more["Item"] = _item(body["Item"])
    if "CancellationReasons" in body:
        more["CancellationReasons"] = [_reason(each) for each in body["CancellationReasons"]]
    plain = plain_code(code)
    again = answer.status >= 500 or plain in _RETRIED
    error = from_code(code, message, answer.status, call, more)
    return Refusal(error, code, again, plain in THROTTLED or answer.status == 503)


def _code(body: Mapping[str, Any], answer: HttpAnswer) -> str:
    """SQS gives its older code in a header; DynamoDB puts a namespace in front and URLs behind."""
    legacy = answer.headers.get("x-amzn-query-error", "").partition(";")[0]
    if legacy:
        return legacy
    named = body.get("__type") or body.get("code") or ""
    code = str(named).partition(":")[0] if "#" not in str(named) else str(named).rpartition("#")[2]
    return code.partition(":")[0] or str(answer.status)


def _reason(reason: Any) -> Any:
    return {**reason, "Item": _item(reason["Item"])} if reason.get("Item") else reason


# --- DynamoDB: binary values come as base64 ----------------------------------------------------------


def _item(item: dict[str, Any]) -> dict[str, Any]:
    """Turn a typed item's binary values into bytes, in place."""
    for value in item.values():
        _value(value)
    return item


def _value(value: dict[str, Any]) -> None:
    for kind, inner in value.items():
        if kind == "B":
            value["B"] = _bytes(inner)
        elif kind == "BS":
            value["BS"] = [_bytes(each) for each in inner]
        elif kind == "M":
            _item(inner)
        elif kind == "L":
            for each in inner:
                _value(each)


def _bytes(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text)
    except ValueError as error:
        raise BrokenAnswer(f"a binary value that is no base64: {error}") from error


def _nothing(answer: dict[str, Any]) -> None:
    pass


def _one(answer: dict[str, Any]) -> None:
    for name in ("Item", "Attributes"):
        if name in answer:
            _item(answer[name])


def _queried(answer: dict[str, Any]) -> None:
    for item in answer.get("Items", ()):
        _item(item)
    if "LastEvaluatedKey" in answer:
        _item(answer["LastEvaluatedKey"])


def _batch_got(answer: dict[str, Any]) -> None:
    for items in answer.get("Responses", {}).values():
        for item in items:
            _item(item)
    for rest in answer.get("UnprocessedKeys", {}).values():
        for key in rest.get("Keys", ()):
            _item(key)


def _batch_written(answer: dict[str, Any]) -> None:
    for requests in answer.get("UnprocessedItems", {}).values():
        for request in requests:
            for each in request.values():
                _item(each.get("Item") or each.get("Key") or {})


def _executed(answer: dict[str, Any]) -> None:
    for each in answer.get("Responses", ()):
        _one(each)
        if each.get("Error", {}).get("Item"):
            _item(each["Error"]["Item"])


_DYNAMO_ANSWERS: Final = {
    "GetItem": _one,
    "PutItem": _one,
    "UpdateItem": _one,
    "DeleteItem": _one,
    "Query": _queried,
    "BatchGetItem": _batch_got,
    "BatchWriteItem": _batch_written,
    "BatchExecuteStatement": _executed,
}


# --- SQS: what arrived is what was sent --------------------------------------------------------------


def _md5(text: str) -> str:
    return hashlib.md5(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def _received(answer: dict[str, Any]) -> None:
    for message in answer.get("Messages") or ():
        told = message.get("MD5OfBody")
        if told is not None and told != _md5(message.get("Body", "")):
            raise BrokenAnswer(
                f"message {message.get('MessageId')} is not what its MD5 says: damaged on the way"
            )
        for attribute in (message.get("MessageAttributes") or {}).values():
            if "BinaryValue" in attribute:
                attribute["BinaryValue"] = _bytes(attribute["BinaryValue"])


def _sent(call: Call, answer: dict[str, Any]) -> None:
    if call.operation == "SendMessage":
        _check_sent(cast("str", call.params["MessageBody"]), answer)
        return
    told = {each["Id"]: each for each in answer.get("Successful") or ()}
    for entry in call.params["Entries"]:
        if entry["Id"] in told:
            _check_sent(entry["MessageBody"], told[entry["Id"]])


def _check_sent(body: str, told: Mapping[str, Any]) -> None:
    md5 = told.get("MD5OfMessageBody")
    if md5 is not None and md5 != _md5(body):
        raise BrokenAnswer(
            f"SQS took message {told.get('MessageId')} with another MD5 than ours: damaged on the way"
        )
