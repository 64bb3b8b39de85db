"""Every serializer keeps the serializer contract."""

from typing import Any

import pytest

from cloudq.errors import DecodeError
from cloudq.serializers.json import JsonSerializer
from cloudq.serializers.msgpack import MsgpackSerializer
from cloudq.serializers.pickle import PickleSerializer
from cloudq.serializers.yaml import YamlSerializer
from cloudq.testing.contracts import SerializerContract


class TestJson(SerializerContract):
    @pytest.fixture
    def serializer(self) -> Any:
        return JsonSerializer()


class TestMsgpack(SerializerContract):
    @pytest.fixture
    def serializer(self) -> Any:
        return MsgpackSerializer()

    def test_an_extension_type_is_refused_not_handed_to_the_task(self, serializer: Any) -> None:
        with pytest.raises(DecodeError, match="extension type 5"):
            serializer.loads(b"\x91\xd4\x05\x01")


class TestYaml(SerializerContract):
    @pytest.fixture
    def serializer(self) -> Any:
        return YamlSerializer()


class TestPickle(SerializerContract):
    keeps_types = True

    @pytest.fixture
    def serializer(self) -> Any:
        return PickleSerializer()
