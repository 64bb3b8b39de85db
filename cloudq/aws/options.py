"""How botocore clients are set up, the same for both drivers."""

from __future__ import annotations

from typing import Any, Final

from cloudq.aws.port import Call

CONNECT_TIMEOUT: Final = 5.0
#: Tries of one call by botocore (network errors, 5xx, the throttling codes it knows).
MAX_ATTEMPTS: Final = 4
#: Further tries of ours, for throttling that botocore's standard mode does not retry (SQS answers
#: HTTP 400 with ``AWS.SimpleQueueService.RequestThrottled``), and for broken streams.
OWN_ATTEMPTS: Final = 4
#: Seconds before and between our own tries: from, to.
OWN_BACKOFF: Final = (0.1, 2.0)
#: Waits of the lean driver between its tries of one call (``MAX_ATTEMPTS`` in all): from, to.
LEAN_BACKOFF: Final = (0.2, 5.0)
POOL_SIZE: Final = 64
#: Seconds to wait for an answer. SQS and DynamoDB answer in milliseconds; objects may be large.
READ_TIMEOUT: Final = 60.0
READ_TIMEOUTS: Final = {"sqs": 15.0, "dynamodb": 15.0}
#: ... of these, which are small and must be through before a lease has run out (the lean driver).
SHORT_TIMEOUTS: Final = {
    ("sqs", "ChangeMessageVisibilityBatch"): 5.0,
    ("sqs", "DeleteMessageBatch"): 5.0,
}
#: The longest wait a service offers (an SQS long poll), on top of the usual.
LONGEST_WAIT: Final = 20.0
#: With an endpoint of one's own the region is a mere label of the signature.
LOCAL_REGION: Final = "us-east-1"


def is_slow(call: Call) -> bool:
    """A long poll needs a client with a longer read timeout; others should not hang as long."""
    return call.timeout > 0


def config_options(service: str, slow: bool, endpoint_url: str | None) -> dict[str, Any]:
    """Arguments of ``botocore.config.Config``."""
    read = READ_TIMEOUTS.get(service, READ_TIMEOUT) + (LONGEST_WAIT if slow else 0.0)
    options: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT,
        "read_timeout": read,
        "max_pool_connections": POOL_SIZE,
        "retries": {"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
        "parameter_validation": False,
        "tcp_keepalive": True,
        "disable_request_compression": True,
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "user_agent_extra": "cloudq",
    }
    if service == "s3" and endpoint_url:
        options["s3"] = {"addressing_style": "path"}
    return options
