"""YAML, by PyYAML's safe loader only (extra ``yaml``)."""

from __future__ import annotations

from typing import Any

from cloudq.errors import DecodeError, MissingExtra
from cloudq.serializers import tagged


class YamlSerializer:
    """For people who read their queues. Safe: no tag builds an object."""

    name = "yaml"
    content_type = "application/x-yaml"
    safe = True

    def __init__(self) -> None:
        try:
            import yaml
        except ImportError as error:
            raise MissingExtra("the yaml serializer", "yaml") from error
        self._yaml = yaml
        self._loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    def dumps(self, value: Any) -> bytes:
        text: str = self._yaml.safe_dump(tagged.to_plain(value), allow_unicode=True, default_flow_style=None)
        return text.encode()

    def loads(self, data: bytes) -> Any:
        if b"&" in data and b"*" in data and data.count(b"*") > 1000:
            raise DecodeError("YAML with more than a thousand aliases is not read")
        try:
            plain = self._yaml.load(data, Loader=self._loader)
        except (self._yaml.YAMLError, UnicodeError, RecursionError, ValueError) as error:
            raise DecodeError(f"not YAML: {error}") from error
        return tagged.from_plain(plain)
