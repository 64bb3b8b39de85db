"""A results store from its URL, or from two joined into tiers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from cloudq import plugins
from cloudq.aws.factory import SCHEMES
from cloudq.backends.base import ResultBackend
from cloudq.backends.tiered import LARGE_OVER, TieredBackend
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.errors import ImproperlyConfigured
from cloudq.url import Url

#: The parameters of a tiered store, taken off before the first store sees its URL.
_TIER: Final = ("large", "large_over")
_PLUS: Final = re.compile(r"\+(?=[a-z][a-z0-9.-]*://)")


def open_backend(url_text: str, clock: Clock = SYSTEM_CLOCK, aws_driver: str | None = None) -> ResultBackend:
    """The results store a URL names; ``large=`` or ``+`` add a second one for large values.

    ``dynamodb://results?large=s3://bucket/prefix&large_over=65536`` and
    ``dynamodb://results+s3://bucket/prefix`` are the same; parameters of the second store that are
    to go into ``large=`` are percent-encoded (``%26`` for ``&``). ``large_over`` is in bytes.
    ``aws_driver`` is used where a URL on AWS names none (``driver=``).
    Raises UnknownScheme, ImproperlyConfigured or MissingExtra; makes no call to any service.
    """
    first, *others = _PLUS.split(url_text)
    url = Url.parse(first)
    large = url.query.get("large")
    if (others and large is not None) or len(others) > 1:
        raise ImproperlyConfigured(f"{url.scheme}://: a tiered store has two stores, one for large values")
    if others:
        large = others[0]
    large_over = int(url.number("large_over", LARGE_OVER, 0, 1 << 40))
    if large is None:
        if "large_over" in url.query:
            raise ImproperlyConfigured(
                f"{url.scheme}://: large_over= needs large=, the store for large values"
            )
        return _open(url, clock, aws_driver)
    second = Url.parse(large)
    if any(name in second.query for name in _TIER):
        raise ImproperlyConfigured(f"{url.scheme}://: large= cannot be tiered itself")
    plain = replace(url, query={name: text for name, text in url.query.items() if name not in _TIER})
    return TieredBackend(
        _open(plain, clock, aws_driver), _open(second, clock, aws_driver), large_over=large_over
    )


def _open(url: Url, clock: Clock, aws_driver: str | None) -> ResultBackend:
    if aws_driver is not None and url.scheme in SCHEMES:
        url = replace(url, query={"driver": aws_driver, **url.query})
    backend: ResultBackend = plugins.load("backends", url.scheme)(url, clock)
    return backend
