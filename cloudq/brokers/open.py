"""A broker from its URL."""

from __future__ import annotations

from dataclasses import replace

from cloudq import plugins
from cloudq.aws.factory import SCHEMES
from cloudq.brokers.base import Broker
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.url import Url


def open_broker(url_text: str, clock: Clock = SYSTEM_CLOCK, aws_driver: str | None = None) -> Broker:
    """The broker a URL names (``sqs://?region=eu-west-1``, ``sqlite:///jobs.db``).

    ``aws_driver`` is used where a URL on AWS names none (``driver=``).
    Raises UnknownScheme, ImproperlyConfigured or MissingExtra; makes no call to any service.
    """
    url = Url.parse(url_text)
    if aws_driver is not None and url.scheme in SCHEMES:
        url = replace(url, query={"driver": aws_driver, **url.query})
    broker: Broker = plugins.load("brokers", url.scheme)(url, clock)
    return broker
