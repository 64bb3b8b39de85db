"""What a message says of its past: may its task have run before?"""

from __future__ import annotations

from cloudq.brokers.base import Delivery
from cloudq.conf import Conf
from cloudq.delays import hop
from cloudq.message import Envelope
from cloudq.outgoing import UNIQUE
from cloudq.runtime.limits import was_deferred
from cloudq.workflows.words import AGAIN, JOINED


def may_have_run(delivery: Delivery, envelope: Envelope, conf: Conf) -> bool:
    """Is a second message or run of this task likely enough to look at its record, which costs a call?"""
    if delivery.receive_count > 1 or envelope.retries > 0 or conf.task_check_revoked:
        return True
    # A signature does not say that a message is sent for the first time: only the record does.
    if conf.security_required:
        return True
    headers = envelope.headers
    if not headers:
        return False
    marked = UNIQUE in headers or AGAIN in headers or JOINED in headers
    return marked or hop.hops(envelope) > 0 or was_deferred(envelope)
