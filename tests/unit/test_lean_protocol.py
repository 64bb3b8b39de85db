"""The lean driver's parts: signatures beside botocore's own, HTTP in pieces, JSON answers."""

from __future__ import annotations

import base64
import itertools
import json
import zlib
from datetime import UTC, datetime
from typing import Any
from unittest import mock

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from botocore.parsers import create_parser
from botocore.session import get_session
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudq.aws import awsjson
from cloudq.aws.http1 import AnswerReader, BrokenAnswer, HttpAnswer, head
from cloudq.aws.identity import Identity
from cloudq.aws.port import AwsError, Call
from cloudq.aws.sigv4 import Credentials, Signature, Signer, timestamp
from cloudq.aws.wire import Wire
from cloudq.clock import SYSTEM_CLOCK
from cloudq.errors import AccessDenied, ImproperlyConfigured, ServiceUnavailable

# --- signatures -----------------------------------------------------------------------------------

_words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
_values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
_names = st.from_regex(r"x-amz-[a-z]{1,12}", fullmatch=True)


def authorization(
    signer: Signer, credentials: Credentials, now: str, headers: dict[str, str], body: bytes
) -> str:
    others = {name: value for name, value in headers.items() if name != "x-amz-date"}
    return Signature(signer, credentials, others).of(now, body)


def botocores_word(
    key: str,
    secret: str,
    token: str | None,
    service: str,
    region: str,
    when: float,
    headers: dict[str, str],
    body: bytes,
) -> str:
    asked = AWSRequest("POST", f"https://{headers['host']}/", data=body, headers=dict(headers))
    moment = datetime.fromtimestamp(when, UTC)
    with mock.patch("botocore.auth.get_current_datetime", return_value=moment.replace(tzinfo=None)):
        SigV4Auth(BotoCredentials(key, secret, token), service, region).add_auth(asked)
    return str(asked.headers["Authorization"])


@settings(max_examples=200, deadline=None)
@given(
    key=_words.filter(lambda text: "/" not in text and "," not in text),
    secret=_words,
    token=st.none() | _words,
    service=st.sampled_from(["sqs", "dynamodb"]),
    region=st.sampled_from(["eu-west-1", "us-gov-east-1", "cn-north-1"]),
    when=st.integers(0, 4_000_000_000),
    extra=st.dictionaries(_names, _values, max_size=4),
    body=st.binary(max_size=200),
)
def test_a_signature_is_the_one_botocore_makes(
    key: str,
    secret: str,
    token: str | None,
    service: str,
    region: str,
    when: int,
    extra: dict[str, str],
    body: bytes,
) -> None:
    headers = {**extra, "content-type": awsjson.CONTENT_TYPE, "host": f"{service}.{region}.amazonaws.com"}
    headers["x-amz-date"] = timestamp(when)
    if token:
        headers["x-amz-security-token"] = token
    theirs = botocores_word(key, secret, token, service, region, when, headers, body)
    signer = Signer(service, region)
    for _ in range(2):  # with a new day's key, and with the kept one
        ours = authorization(signer, Credentials(key, secret, token), headers["x-amz-date"], headers, body)
        assert ours == theirs


def test_what_requests_have_in_common_is_prepared_once_for_all_days() -> None:
    signer = Signer("sqs", "eu-west-1")
    headers = {"host": "h", "x-amz-target": "T", "content-type": "c", "x-amzn-query-mode": "true"}
    prepared = Signature(signer, Credentials("k", "s", "t"), headers)
    for now, body in (("20261121T235959Z", b"a"), ("20261122T000001Z", b"b"), ("20261121T235959Z", b"c")):
        fresh = authorization(Signer("sqs", "eu-west-1"), Credentials("k", "s", "t"), now, headers, body)
        assert prepared.of(now, body) == fresh


def test_requests_are_signed_with_the_credentials_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = Identity("eu-west-1", "http://127.0.0.1:1", None)
    moment = [Credentials("first", "s"), Credentials("first", "s"), Credentials("second", "s", "token")]
    monkeypatch.setattr(identity, "credentials", lambda: moment.pop(0))
    wire = Wire("sqs", identity, SYSTEM_CLOCK)
    call = Call("sqs", "SendMessage", {})
    sent = [wire.request(call, b"{}") for _ in range(3)]
    assert [b"Credential=first/" in each for each in sent] == [True, True, False]
    assert b"Credential=second/" in sent[2]
    assert b"x-amz-security-token: token\r\n" in sent[2]
    assert b"x-amz-security-token;" in sent[2]


def test_the_kept_key_changes_with_the_day_and_with_the_secret() -> None:
    signer = Signer("sqs", "eu-west-1")
    headers = {"host": "h", "x-amz-date": "20261121T235959Z"}
    one = authorization(signer, Credentials("k", "s"), "20261121T235959Z", headers, b"")
    other_day = authorization(signer, Credentials("k", "s"), "20261122T000001Z", headers, b"")
    other_secret = authorization(signer, Credentials("k", "t"), "20261121T235959Z", headers, b"")
    again = authorization(signer, Credentials("k", "s"), "20261121T235959Z", headers, b"")
    assert len({one, other_day, other_secret}) == 3
    assert again == one


def test_credentials_do_not_show_their_secret() -> None:
    assert "hunter2" not in repr(Credentials("AKIAEXAMPLE", "hunter2", "hunter2"))


# --- HTTP -----------------------------------------------------------------------------------------


def fed(data: bytes, cuts: list[int]) -> HttpAnswer | None:
    reader = AnswerReader()
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    found = None
    for start, end in itertools.pairwise(places):
        assert found is None
        found = reader.feed(data[start:end])
    return found


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x;ext=1\r\n%s\r\n" % (len(each), each) for each in pieces) + b"0\r\nTrailer: x\r\n\r\n"


@settings(max_examples=200, deadline=None)
@given(
    body=st.binary(max_size=300),
    cuts=st.lists(st.integers(0, 600), max_size=8),
    size=st.none() | st.integers(1, 100),
    interim=st.booleans(),
)
def test_an_answer_may_come_in_any_pieces(
    body: bytes, cuts: list[int], size: int | None, interim: bool
) -> None:
    head = b"HTTP/1.1 100 Continue\r\n\r\n" if interim else b""
    head += b"HTTP/1.1 200 OK\r\nX-One:  two \r\n"
    if size is None:
        data = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    else:
        data = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, size)
    answer = fed(data, cuts)
    assert answer is not None
    assert (answer.status, answer.body, answer.headers["x-one"], answer.keep) == (200, body, "two", True)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_bytes_that_are_no_answer_are_refused_and_nothing_else_happens(data: bytes, begun: bool) -> None:
    reader = AnswerReader()
    try:
        reader.feed(b"HTTP/1.1 " + data if begun else data)
        reader.feed(b"")
    except BrokenAnswer:
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 2OO OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
    ],
)
def test_a_broken_answer_is_refused(data: bytes) -> None:
    with pytest.raises(BrokenAnswer):
        AnswerReader().feed(data)


def test_an_answer_cut_short_says_whether_it_had_begun() -> None:
    with pytest.raises(BrokenAnswer) as caught:
        AnswerReader().feed(b"")
    assert caught.value.began is False
    reader = AnswerReader()
    reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
    with pytest.raises(BrokenAnswer) as caught:
        reader.feed(b"")
    assert caught.value.began is True


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n",
    ],
)
def test_a_connection_that_the_other_side_ends_is_not_kept(head: bytes) -> None:
    answer = AnswerReader().feed(head + b"{}")
    assert answer is not None
    assert (answer.body, answer.keep) == (b"{}", False)


def test_an_answer_without_length_ends_with_the_connection() -> None:
    reader = AnswerReader()
    assert reader.feed(b"HTTP/1.1 503 Busy\r\n\r\nno") is None
    answer = reader.feed(b"")
    assert answer is not None
    assert (answer.status, answer.body, answer.keep) == (503, b"no", False)


def test_a_header_cannot_smuggle_another() -> None:
    with pytest.raises(ValueError, match="line break"):
        head("/", {"host": "h", "x-amz-security-token": "a\r\nx-evil: 1"})


# --- answers, as boto3 reads them --------------------------------------------------------------------


def parsed_by_botocore(call: Call, answer: HttpAnswer) -> dict[str, Any]:
    model = get_session().get_service_model(call.service)
    response = {"status_code": answer.status, "headers": dict(answer.headers), "body": answer.body}
    shape = model.operation_model(call.operation).output_shape
    found: dict[str, Any] = create_parser("json").parse(response, shape)
    found.pop("ResponseMetadata", None)
    return found


def answer_of(body: Any, status: int = 200, **headers: str) -> HttpAnswer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpAnswer(status, {name.replace("_", "-"): text for name, text in headers.items()}, data, True)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


ITEM = {
    "pk": {"S": "k"},
    "value": {"B": b64(b"\x00\xff")},
    "n": {"N": "1.5"},
    "deep": {
        "M": {"list": {"L": [{"B": b64(b"in")}, {"BOOL": True}, {"NULL": True}]}, "many": {"BS": [b64(b"x")]}}
    },
}
MD5_OF_X = "9dd4e461268c8034f5c8564e155c67a6"
ANSWERS = [
    (Call("dynamodb", "GetItem", {}), {"Item": ITEM}),
    (Call("dynamodb", "GetItem", {}), {}),
    (Call("dynamodb", "UpdateItem", {}), {"Attributes": ITEM}),
    (Call("dynamodb", "PutItem", {}), {"Attributes": ITEM}),
    (Call("dynamodb", "DeleteItem", {}), {"Attributes": ITEM}),
    (Call("dynamodb", "Query", {}), {"Items": [ITEM, {}], "Count": 2, "ScannedCount": 2, "LastEvaluatedKey": {"pk": {"B": b64(b"k")}}}),
    (Call("dynamodb", "BatchGetItem", {}), {"Responses": {"t": [ITEM]}, "UnprocessedKeys": {"t": {"Keys": [{"pk": {"B": b64(b"k")}}]}}}),
    (Call("dynamodb", "BatchWriteItem", {}), {"UnprocessedItems": {"t": [{"PutRequest": {"Item": ITEM}}, {"DeleteRequest": {"Key": {"pk": {"B": b64(b"k")}}}}]}}),
    (Call("dynamodb", "BatchExecuteStatement", {}), {"Responses": [{"Item": ITEM, "TableName": "t"}, {"Error": {"Code": "ConditionalCheckFailed", "Message": "no", "Item": ITEM}}]}),
    (Call("dynamodb", "TransactWriteItems", {}), {}),
    (Call("sqs", "SendMessage", {"MessageBody": "x"}), {"MessageId": "m", "MD5OfMessageBody": MD5_OF_X}),
    (Call("sqs", "SendMessageBatch", {"Entries": [{"Id": "0", "MessageBody": "x"}]}), {"Successful": [{"Id": "0", "MessageId": "m", "MD5OfMessageBody": MD5_OF_X}], "Failed": [{"Id": "1", "Code": "c", "SenderFault": False}]}),
    (Call("sqs", "ReceiveMessage", {}), {"Messages": [{"MessageId": "m", "Body": "x", "MD5OfBody": MD5_OF_X, "Attributes": {"SentTimestamp": "1"}, "MessageAttributes": {"a": {"DataType": "Binary", "BinaryValue": b64(b"\x00")}, "b": {"DataType": "String", "StringValue": "s"}}}]}),
    (Call("sqs", "ReceiveMessage", {}), {}),
    (Call("sqs", "GetQueueUrl", {}), {"QueueUrl": "https://q"}),
    (Call("sqs", "GetQueueAttributes", {}), {"Attributes": {"VisibilityTimeout": "30"}}),
    (Call("sqs", "DeleteMessageBatch", {}), {"Successful": [{"Id": "0"}], "Failed": []}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "body"), ANSWERS, ids=lambda each: each.operation if isinstance(each, Call) else ""
)
def test_an_answer_means_what_botocore_reads_in_it(call: Call, body: Any) -> None:
    answer = answer_of(body)
    assert awsjson.read(call, answer) == parsed_by_botocore(call, answer)


def test_an_empty_answer_means_nothing_more_than_yes() -> None:
    assert awsjson.read(Call("sqs", "DeleteMessage", {}), answer_of(b"")) == {}


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "gone"}, {"x_amzn_query_error": "AWS.SimpleQueueService.NonExistentQueue;Sender"}),
        ({"__type": "com.amazonaws.dynamodb.v20120810#ResourceNotFoundException", "message": "no table"}, {}),
        ({"__type": "ConditionalCheckFailedException", "Message": "no", "Item": ITEM}, {}),
        ({"message": "no type"}, {"x_amzn_errortype": "ValidationException:http://docs/"}),
    ],
)  # fmt: skip
def test_an_error_has_the_code_that_botocore_gives_it(body: Any, headers: dict[str, str]) -> None:
    call = Call(
        "sqs" if "x_amzn_query_error" in headers else "dynamodb",
        "SendMessage" if "x_amzn_query_error" in headers else "PutItem",
        {},
    )
    answer = answer_of(body, 400, **headers)
    theirs = parsed_by_botocore(call, answer)
    refusal = awsjson.read(call, answer)
    assert isinstance(refusal, awsjson.Refusal)
    error = refusal.error
    assert isinstance(error, AwsError)
    legacy = headers.get("x_amzn_query_error", "").partition(";")[0]
    assert error.code == (legacy or theirs["Error"]["Code"])
    assert error.message == theirs["Error"]["Message"]
    if "Item" in body:
        assert error.answer["Item"]["value"]["B"] == b"\x00\xff"
    assert not refusal.again


def test_what_may_work_in_a_moment_is_told_from_what_will_not() -> None:
    call = Call("dynamodb", "PutItem", {})

    def again(code: str, status: int) -> bool:
        refusal = awsjson.read(call, answer_of({"__type": code}, status))
        assert isinstance(refusal, awsjson.Refusal)
        return refusal.again

    assert again("ProvisionedThroughputExceededException", 400)
    assert again("InternalServerError", 500)
    assert again("WhateverIsNew", 502)
    assert not again("ValidationException", 400)
    assert not again("AccessDeniedException", 400)


def test_an_error_page_that_is_no_json_has_its_status_for_a_code() -> None:
    for status, kind in ((503, ServiceUnavailable), (403, AccessDenied), (404, AwsError)):
        refusal = awsjson.read(Call("sqs", "SendMessage", {}), answer_of(b"<html>", status))
        assert isinstance(refusal, awsjson.Refusal)
        assert type(refusal.error) is kind
        assert refusal.code == str(status)


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (Call("sqs", "ReceiveMessage", {}), answer_of({"Messages": [{"Body": "y", "MD5OfBody": MD5_OF_X}]})),
        (Call("sqs", "SendMessage", {"MessageBody": "y"}), answer_of({"MD5OfMessageBody": MD5_OF_X})),
        (Call("sqs", "SendMessageBatch", {"Entries": [{"Id": "0", "MessageBody": "y"}]}), answer_of({"Successful": [{"Id": "0", "MD5OfMessageBody": MD5_OF_X}]})),
        (Call("dynamodb", "GetItem", {}), answer_of({"Item": {}}, x_amz_crc32="1")),
        (Call("dynamodb", "GetItem", {}), answer_of({"Item": {"v": {"B": "a"}}})),
        (Call("dynamodb", "GetItem", {}), answer_of([1])),
        (Call("dynamodb", "GetItem", {}), answer_of(b"{")),
    ],
)  # fmt: skip
def test_what_was_damaged_on_the_way_is_not_believed(call: Call, answer: HttpAnswer) -> None:
    with pytest.raises(BrokenAnswer):
        awsjson.read(call, answer)


def test_a_right_checksum_is_believed() -> None:
    body = b'{"Item":{}}'
    answer = answer_of(body, x_amz_crc32=str(zlib.crc32(body)))
    assert awsjson.read(Call("dynamodb", "GetItem", {}), answer) == {"Item": {}}


def test_bytes_are_sent_as_base64_and_nonsense_is_refused() -> None:
    call = Call("dynamodb", "PutItem", {"Item": {"v": {"B": b"\x00\xff"}}})
    assert json.loads(awsjson.encode(call)) == {"Item": {"v": {"B": b64(b"\x00\xff")}}}
    with pytest.raises(ImproperlyConfigured, match="dynamodb PutItem"):
        awsjson.encode(Call("dynamodb", "PutItem", {"Item": object()}))
