"""YAML, by PyYAML's safe loader only (extra ``yaml``)."""

from __future__ import annotations

from typing import Any, Final

from cloudq.errors import DecodeError, MissingExtra
from cloudq.serializers import tagged

#: NEL and the line and paragraph separators; PyYAML writes them as they are and folds them when reading.
_BREAKS: Final = ("\x85", "\u2028", "\u2029")


class YamlSerializer:
    """For people who read their queues. Safe: no tag builds an object, and aliases are not read."""

    name = "yaml"
    content_type = "application/x-yaml"
    safe = True

    def __init__(self) -> None:
        try:
            import yaml
        except ImportError as error:
            raise MissingExtra("the yaml serializer", "yaml") from error
        self._yaml = yaml
        self._loader = _loader(yaml)
        self._dumper = _dumper(yaml)

    def dumps(self, value: Any) -> bytes:
        plain = tagged.to_plain(value)
        text: str = self._yaml.dump(plain, Dumper=self._dumper, allow_unicode=True, default_flow_style=None)
        return text.encode()

    def loads(self, data: bytes) -> Any:
        try:
            self._check(data)
            plain = self._yaml.load(data, Loader=self._loader)
        except (DecodeError, MemoryError):
            raise
        except Exception as error:  # PyYAML's constructors raise KeyError, IndexError and more
            raise DecodeError(f"not YAML: {error or type(error).__name__}") from error
        return tagged.from_plain(plain)

    def _check(self, data: bytes) -> None:
        """Refuse what the loader does not survive, event by event.

        libyaml's binding builds nodes by recursion in C (a deep document is a segmentation fault),
        and a few hundred bytes of aliases unfold to billions of values.
        """
        yaml, depth = self._yaml, 0
        for event in yaml.parse(data, Loader=self._loader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > 3 * tagged.MAX_DEPTH:  # a tagged dict takes three levels for one
                    raise DecodeError(f"nested deeper than {tagged.MAX_DEPTH} levels")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            elif isinstance(event, yaml.AliasEvent):
                raise DecodeError(f"YAML aliases (*{event.anchor}) are not read: write the value out")


def _dumper(yaml: Any) -> Any:
    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        """The safe one, which escapes YAML's other line breaks: plain keys with them are read otherwise."""

        def represent_text(self, text: str) -> Any:
            style = '"' if any(each in text for each in _BREAKS) else None
            return self.represent_scalar("tag:yaml.org,2002:str", text, style)

    Dumper.add_representer(str, Dumper.represent_text)
    return Dumper


def _loader(yaml: Any) -> Any:
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]
        """The safe one, which does not spend minutes on an integer written as 1:59:59:59..."""

        def construct_yaml_int(self, node: Any) -> int:
            if len(node.value) > tagged.MAX_DIGITS:
                raise ValueError(f"an integer of more than {tagged.MAX_DIGITS} characters")
            return int(super().construct_yaml_int(node))

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
    return Loader
