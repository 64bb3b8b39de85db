"""Records: exceptions there and back, serializers, documents that cannot be read, sizes."""

import json
import sys
import types
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from cloudq import CloudQ, states
from cloudq.backends.base import BackendCapabilities
from cloudq.clock import SYSTEM_CLOCK
from cloudq.errors import (
    AccessDenied,
    CorruptRecord,
    CredentialsError,
    ImproperlyConfigured,
    MissingExtra,
    RemoteError,
    SendError,
    SerializationError,
    ServiceUnavailable,
    StoreNotFound,
    UnknownScheme,
    ValueTooLarge,
)
from cloudq.execution.call import NoWatch
from cloudq.results import failure
from cloudq.results.record import Record, load
from cloudq.results.store import task_key
from cloudq.runtime.verdict import Ack, Bury, Release
from cloudq.serializers.codec import Codec
from cloudq.testing.stores import MemoryStore, Wrapper

CODEC = Codec()


class Coded(Exception):
    """Its constructor takes something else than its args say."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Keywords(Exception):
    def __init__(self, *, name: str, where: str = "here") -> None:
        super().__init__(f"{name} {where}")
        self.name = name


class Holding(Exception):
    """Carries something that cannot be written."""

    def __init__(self, message: str, response: Any = None) -> None:
        super().__init__(message)
        self.response = response


class Nested:
    class Inner(ValueError):
        pass


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("broken")


class BadReduce(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("broken")


def round_trip(error: BaseException) -> BaseException:
    plain = msgspec.json.decode(msgspec.json.encode(failure.to_plain(error, CODEC.pack)))
    return failure.from_plain(plain, CODEC.unpack)


# --- exceptions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x", 2),
        KeyError("k"),
        FileNotFoundError(2, "No such file", "a.txt"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        Nested.Inner("deep"),
        SystemExit(3),
        SerializationError("bad", "$.x"),
        Coded(5),
        Keywords(name="n"),
        RemoteError("their.Error", "said"),
        StopIteration(4),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_comes_back_as_it_was(error: BaseException) -> None:
    back = round_trip(error)
    assert type(back) is type(error)
    assert (str(back), back.args, vars(back)) == (str(error), error.args, vars(error))


def test_what_cannot_be_written_is_left_out_and_the_exception_still_comes_back() -> None:
    back = round_trip(Holding("no answer", response=object()))
    assert type(back) is Holding
    assert str(back) == "no answer"


@pytest.mark.parametrize("error", [ValueError(object()), BadReduce("x")], ids=["args", "reduce"])
def test_arguments_that_cannot_be_written_make_a_stand_in_of_that_name(error: Exception) -> None:
    back = round_trip(error)
    assert isinstance(back, RemoteError)
    assert back.type_name == f"{type(error).__module__}.{type(error).__qualname__}"
    assert back.message == str(error)


def test_a_broken_message_does_not_hide_the_failure() -> None:
    assert type(round_trip(Mute())) is Mute


def test_the_cause_comes_with_it_and_a_long_chain_ends_somewhere() -> None:
    def chain(depth: int) -> BaseException:
        error: BaseException = ValueError(0)
        for n in range(1, depth):
            outer = ValueError(n)
            outer.__cause__ = error
            error = outer
        return error

    back = round_trip(chain(3))
    assert isinstance(back.__cause__, ValueError)
    assert back.__cause__.__cause__ is not None
    assert back.__cause__.__cause__.args == (0,)
    length, at = 1, round_trip(chain(50))
    while at.__cause__ is not None:
        length, at = length + 1, at.__cause__
    assert length == 9
    circle = ValueError("circle")
    circle.__cause__ = circle
    assert str(round_trip(circle)) == "circle"


def test_a_class_unknown_here_has_a_stand_in_that_keeps_its_name_when_it_is_written_again() -> None:
    plain = {"type": "Outer.Gone", "module": "their.module", "message": "said", "args": ["said"]}
    back = failure.from_plain(plain, CODEC.unpack)
    assert isinstance(back, RemoteError)
    assert (back.type_name, str(back)) == ("their.module.Outer.Gone", "their.module.Outer.Gone: said")
    again = round_trip(back)
    assert isinstance(again, RemoteError)
    assert again.type_name == back.type_name
    assert "their" not in sys.modules


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "KeyboardInterrupt"),
        ("builtins", "dict"),
        ("os", "path.join"),
        ("", ""),
    ],
)
def test_only_exception_classes_are_called(module: str, name: str) -> None:
    back = failure.from_plain({"type": name, "module": module, "message": "m", "args": ["x"]}, CODEC.unpack)
    assert isinstance(back, RemoteError)


def test_a_module_is_never_imported_for_a_document() -> None:
    assert "antigravity" not in sys.modules
    failure.from_plain({"type": "X", "module": "antigravity", "message": "", "args": []}, CODEC.unpack)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("module", "name", "imports"),
    [
        ("lazy_shop", "Lazy", "antigravity"),
        ("lazy_shop", "Lazy.Inner", "antigravity"),
    ],
)
def test_a_module_is_not_even_asked_for_a_name_that_it_would_import(
    monkeypatch: pytest.MonkeyPatch, module: str, name: str, imports: str
) -> None:
    def lazily(name: str) -> Any:
        raise AssertionError(f"asked for {name}")

    shop: Any = types.ModuleType(module)
    shop.__getattr__ = lazily
    monkeypatch.setitem(sys.modules, module, shop)
    plain = {"type": name, "module": module, "message": "m", "args": ["x"]}
    assert isinstance(failure.from_plain(plain, CODEC.unpack), RemoteError)


def test_a_nested_class_is_found_without_asking_anybody() -> None:
    error = Nested.Inner("x")
    assert type(round_trip(error)) is Nested.Inner


def test_a_class_is_only_found_where_it_is_defined() -> None:
    """Else an accepted module would stand for all that it imports."""
    plain = {"type": "SerializationError", "module": __name__, "message": "m", "args": ["m", "$"]}
    assert hasattr(sys.modules[__name__], "SerializationError")
    assert isinstance(failure.from_plain(plain, CODEC.unpack), RemoteError)


@pytest.mark.parametrize(
    ("names", "module", "rebuilt"),
    [
        (["builtins"], "builtins", True),
        (["json"], "json.decoder", True),
        (["jso"], "json.decoder", False),
        (["json.decoder.x"], "json.decoder", False),
        (["*"], "json.decoder", True),
        ([], "builtins", False),
    ],
)
def test_exceptions_are_rebuilt_from_accepted_modules_alone(
    names: list[str], module: str, rebuilt: bool
) -> None:
    error = ValueError("v") if module == "builtins" else json.JSONDecodeError("m", "doc", 0)
    plain = failure.to_plain(error, CODEC.pack)
    back = failure.from_plain(plain, CODEC.unpack, failure.only_of(lambda: names))
    assert isinstance(back, type(error)) == rebuilt
    assert str(error) in str(back)


def test_a_cause_is_rebuilt_from_accepted_modules_alone_too() -> None:
    error = ValueError("v")
    error.__cause__ = json.JSONDecodeError("m", "doc", 0)
    plain = failure.to_plain(error, CODEC.pack)
    back = failure.from_plain(plain, CODEC.unpack, failure.only_of(lambda: ["builtins"]))
    assert isinstance(back, ValueError)
    assert isinstance(back.__cause__, RemoteError)


def test_arguments_in_content_that_is_not_accepted_here_leave_a_stand_in() -> None:
    codec = Codec(result_serializer="msgpack", accept_content=("json", "msgpack"))
    plain = failure.to_plain(ValueError("x"), codec.pack)
    assert isinstance(failure.from_plain(plain, CODEC.unpack), RemoteError)
    assert isinstance(failure.from_plain(plain, codec.unpack), ValueError)


def test_errors_of_a_batch_are_told_by_name_and_text() -> None:
    back = round_trip(SendError({0: ValueError("x")}, {1: "m"}))
    assert isinstance(back, RemoteError)
    assert "1 of 2 messages were not sent" in back.message


# --- documents that cannot be read -------------------------------------------------------------------


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"id":"a"}',
        b'{"v":1,"id":"a","state":3}',
        b'{"v":1,"state":"SUCCESS"}',
        b'{"v":1,"id":"a","state":"RETRY","retries":"x"}',
        b'{"v":1,"id":"a","state":"SUCCESS","children":3}',
        b'{"v":1,"id":"a","state":"FAILURE","error":"text"}',
        b'{"v":1,"id":"a","state":"SUCCESS","arguments":1}',
        b'{"v":1,"id":"a","state":"SUCCESS","done_at":"now"}',
        b'{"v":1,"id":"a","state":"SUCCESS","result":{"__content__":{"type":"x/y","encoding":"base64","data":""}}}',
        b'{"v":1,"id":"a","state":"SUCCESS","result":{"__content__":3}}',
        b'{"v":true,"id":"a","state":"SUCCESS"}',
        b'{"v":0,"id":"a","state":"SUCCESS"}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_record_is_an_error_that_names_key_and_store(document: bytes) -> None:
    app = CloudQ("x", broker="memory://", backend=MemoryStore(SYSTEM_CLOCK))
    assert app.backend is not None
    app.backend.write(task_key("a"), document)
    with pytest.raises(CorruptRecord, match=r"task/a in memory://"):
        app.AsyncResult("a").get(timeout=1)


def test_a_record_of_a_newer_release_says_so() -> None:
    with pytest.raises(
        CorruptRecord, match=r"task/a has format 2; this release reads up to 1: upgrade cloudq"
    ):
        load(b'{"v":2,"id":"a","state":"SUCCESS"}', CODEC.unpack, "task/a")


# --- the worker's side -------------------------------------------------------------------------------


class Limited(Wrapper):
    """A store with DynamoDB's limit, scaled down."""

    @property
    def capabilities(self) -> BackendCapabilities:
        return BackendCapabilities(max_value=20_000)

    def write(self, key: str, value: bytes, *rest: Any) -> Any:
        if len(value) > 20_000:
            raise ValueTooLarge(f"{key} has {len(value)} bytes")
        return super().write(key, value, *rest)


class House:
    def __init__(self, wrap: Callable[[Any], Any] = lambda store: store, **settings: Any) -> None:
        self.store = wrap(MemoryStore(SYSTEM_CLOCK))
        self.app = CloudQ("records", broker="memory://", backend=self.store, **settings)
        self.lifecycle = self.app.lifecycle("w")

    def run(self) -> list[Any]:
        deliveries = self.app.broker.receive("cloudq", 10, 0.0, 30.0)
        verdicts = [self.lifecycle.run(each, NoWatch()) for each in deliveries]
        for each, verdict in zip(deliveries, verdicts, strict=True):
            if isinstance(verdict, Release):
                self.app.broker.release([each], 0.0)
            elif isinstance(verdict, Ack):
                self.app.broker.ack([each])
        return verdicts


def test_a_task_says_how_its_results_are_written() -> None:
    house = House(accept_content=["json", "msgpack"])

    @house.app.task(name="packed", result_serializer="msgpack")
    def packed() -> dict[str, Any]:
        return {"a": b"\x00"}

    @house.app.task(name="plain")
    def plain() -> list[int]:
        return [1]

    first, second = packed.delay(), plain.delay()
    assert house.run() == [Ack(), Ack()]
    assert (first.get(timeout=1), second.get(timeout=1)) == ({"a": b"\x00"}, [1])
    assert b"application/x-msgpack" in house.store.read(task_key(first.id)).value
    assert b'"result":[1]' in house.store.read(task_key(second.id)).value


def test_a_wrong_result_serializer_is_refused_where_it_is_declared() -> None:
    app = CloudQ("x", broker="memory://", backend="memory://")
    with pytest.raises(UnknownScheme, match="no serializer is called 'msgpak'; did you mean 'msgpack'"):
        app.task(result_serializer="msgpak")(lambda: None)


def test_a_serializer_that_needs_keys_fails_the_task_and_does_not_loop() -> None:
    house = House()

    @house.app.task(name="pickled", result_serializer="pickle")
    def pickled() -> int:
        return 1

    result = pickled.delay()
    assert house.run() == [Ack()]
    assert result.state == states.FAILURE
    assert "set security_keys" in str(result.result)
    with pytest.raises(SerializationError):
        result.get(timeout=1)
    with pytest.raises(ImproperlyConfigured):
        house.app.codec.pack(1, "pickle")


def test_a_result_too_large_for_the_store_is_a_failure_that_says_so() -> None:
    house = House(Limited)

    @house.app.task(name="big")
    def big() -> str:
        return "x" * 30_000

    result = big.delay()
    assert house.run() == [Ack()]
    with pytest.raises(ValueTooLarge, match="the result of big cannot be stored: task/"):
        result.get(timeout=1)


def test_a_failure_too_large_for_the_store_is_told_in_fewer_words() -> None:
    house = House(Limited, result_extended=True)

    @house.app.task(name="wordy")
    def wordy(argument: str) -> None:
        raise ValueError("word " * 10_000)

    result = wordy.delay("x" * 30_000)
    assert house.run() == [Ack()]
    assert result.state == states.FAILURE
    assert isinstance(result.result, RemoteError)
    assert result.result.type_name == "builtins.ValueError"
    assert result.result.message.endswith("[...]")
    assert result.args is None
    assert result.name == "wordy"


def test_a_retry_whose_error_is_too_large_is_tried_again_all_the_same() -> None:
    house = House(Limited)

    @house.app.task(name="again", bind=True, default_retry_delay=0)
    def again(self: Any) -> str:
        if self.request.retries == 0:
            raise self.retry(exc=ValueError("word " * 10_000), countdown=0)
        return "done"

    result = again.delay()
    house.run()
    assert result.state == states.RETRY
    house.run()
    assert result.get(timeout=1) == "done"


def test_a_damaged_record_keeps_the_message_and_names_the_key(caplog: pytest.LogCaptureFixture) -> None:
    house = House()
    ran: list[int] = []

    @house.app.task(name="works")
    def works() -> int:
        ran.append(1)
        return 1

    result = works.delay()
    house.store.write(task_key(result.id), b'{"v":99,"id":"x","state":"SUCCESS"}')

    [verdict] = house.run()

    assert isinstance(verdict, Release)
    assert not isinstance(verdict, Bury)
    assert house.app.broker.depth("cloudq").total == 1
    assert "in memory:// has format 99" in caplog.text
    house.store.delete(task_key(result.id))  # an upgraded worker, or somebody who tidied up
    assert house.run() == [Ack()]
    assert result.get(timeout=1) == 1


# --- stores that say no ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        AccessDenied("dynamodb://t: PutItem on task/a is denied"),
        StoreNotFound("there is no table 't'"),
        ServiceUnavailable("throttled"),
        CredentialsError("expired"),
        CorruptRecord("s3://b/task/a is not a document"),
        KeyError("a bug of a plug-in"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("verb", ["write", "read"])
def test_whatever_the_store_says_the_message_is_given_back_and_the_error_is_told(
    error: Exception, verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing(Wrapper):
        refuses = True

        def before(self, called: str, key: str) -> None:
            if self.refuses and called == verb:
                raise error

    house = House(Refusing, worker_settle_timeout=0.0)

    @house.app.task(name="works")
    def works() -> int:
        return 1

    sent = works.delay()
    if verb == "read":  # a second delivery reads what the first has left
        house.app.broker.release(house.app.broker.receive("cloudq", 1, 0.0, 30.0))
    assert [type(each) for each in house.run()] == [Release]
    assert house.app.broker.depth("cloudq").total == 1
    assert str(error) in caplog.text
    house.store.refuses = False
    assert house.run() == [Ack()]
    assert sent.get(timeout=1) == 1


@pytest.mark.parametrize(
    ("url", "kind", "says"),
    [
        ("dynamo://t", UnknownScheme, "did you mean 'dynamodb'"),
        ("redis://x", UnknownScheme, "Known: azureblob, dynamodb"),
        ("s3://", ImproperlyConfigured, "s3://"),
    ],
)
def test_a_wrong_url_is_refused_before_any_message_is_taken(
    url: str, kind: type[Exception], says: str
) -> None:
    app = CloudQ("x", broker="memory://", backend=url)
    app.producer.post("cloudq", '{"task": "x"}')
    with pytest.raises(kind, match=says):
        app.lifecycle("w")
    assert app.broker.depth("cloudq").visible == 1


def test_a_missing_extra_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    app = CloudQ("x", broker="memory://", backend="gs://bucket")
    with pytest.raises(MissingExtra, match=r'pip install "cloudq-tasks\[gcs\]"'):
        app.AsyncResult("a").get(timeout=1)


def test_a_store_that_cannot_read_one_entry_itself_fails_that_one_only() -> None:
    class Picky(Wrapper):
        def before(self, verb: str, key: str) -> None:
            if verb == "read" and key == task_key("b"):
                raise CorruptRecord("s3://x/task/b is not a document")

        def read_many(self, keys: Any) -> Any:
            return {each: entry for each in keys if (entry := self.read(each)) is not None}

    house = House(Picky)
    for each in "ac":
        house.app.need_store().finish(Record(each, states.SUCCESS, each))
    found = house.app.need_store().read_each("abcd")
    assert {each for each in found if isinstance(found[each], Record)} == {"a", "c"}
    assert isinstance(found["b"], CorruptRecord)
    assert "d" not in found
    with pytest.raises(CorruptRecord, match="task/b"):
        house.app.need_store().read_many("abc")


@pytest.mark.parametrize(
    "task_id",
    ["9afb2773-7027-4344-a72f-3c5705e0005d", "a.b_c~d", "a/b", "ü", "a b", "a\n", "", "%", "٣", "a+b"],
)
def test_the_key_of_a_record_is_the_task_s_id_percent_encoded(task_id: str) -> None:
    assert task_key(task_id) == "task/" + quote(task_id, safe="")
