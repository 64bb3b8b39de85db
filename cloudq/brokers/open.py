"""A broker from its URL."""

from __future__ import annotations

from cloudq import plugins
from cloudq.brokers.base import Broker
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.url import Url


def open_broker(url_text: str, clock: Clock = SYSTEM_CLOCK) -> Broker:
    """The broker a URL names (``sqs://?region=eu-west-1``, ``sqlite:///jobs.db``).

    Raises UnknownScheme, ImproperlyConfigured or MissingExtra; makes no call to any service.
    """
    url = Url.parse(url_text)
    broker: Broker = plugins.load("brokers", url.scheme)(url, clock)
    return broker
