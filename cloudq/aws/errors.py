"""AWS's errors in cloudq's words: what happened, to what, and what to do.

By code and status first (any driver can use that), then botocore's own exceptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cloudq.aws.port import AwsError, Call
from cloudq.errors import (
    AccessDenied,
    CloudQError,
    CredentialsError,
    ImproperlyConfigured,
    ServiceUnavailable,
)

#: SQS spells its codes with this in front where they come from its old query protocol.
SQS_PREFIX: Final = "AWS.SimpleQueueService."

THROTTLED: Final = frozenset(
    {
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "TooManyRequestsException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
        "LimitExceededException",
        "SlowDown",
        "KmsThrottled",
        "KMS.ThrottlingException",
        # SQS: 120,000 messages of the queue are in flight.
        "OverLimit",
    }
)
UNAVAILABLE: Final = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
    }
)
BAD_CREDENTIALS: Final = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "InvalidToken",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)
DENIED: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AllAccessDisabled",
        "AuthorizationError",
        "AuthorizationErrorException",
        "KmsAccessDenied",
        "KMS.AccessDeniedException",
        "NotAuthorized",
        "UnauthorizedAccess",
        "UnauthorizedOperation",
    }
)

_HOW_TO_SIGN_IN: Final = (
    "check the credentials (`aws sts get-caller-identity`), the profile or role, and the machine's clock"
)
#: Operations that IAM knows by another name.
_ACTIONS: Final = {
    ("sqs", "SendMessageBatch"): "SendMessage",
    ("sqs", "DeleteMessageBatch"): "DeleteMessage",
    ("sqs", "ChangeMessageVisibilityBatch"): "ChangeMessageVisibility",
    ("s3", "HeadObject"): "GetObject",
    ("s3", "HeadBucket"): "ListBucket",
    ("s3", "ListObjectsV2"): "ListBucket",
}


def plain_code(code: str) -> str:
    """The code without SQS's old prefix: ``NonExistentQueue``."""
    return code.removeprefix(SQS_PREFIX)


def is_throttled(code: str) -> bool:
    """Did the service ask us to slow down? The same call may work in a moment."""
    return plain_code(code) in THROTTLED


def action(call: Call) -> str:
    """The IAM action a call needs: ``sqs:SendMessage``."""
    return f"{call.service}:{_ACTIONS.get((call.service, call.operation), call.operation)}"


def _subject(call: Call) -> str:
    """What the call was about: the queue, table or bucket."""
    for name in ("QueueUrl", "QueueName", "TableName", "Bucket", "Name"):
        if value := call.params.get(name):
            return f" on {value}"
    return ""


def _line(text: object) -> str:
    return " ".join(str(text).split())


def from_code(
    code: str, message: str, status: int, call: Call, answer: Mapping[str, Any] | None = None
) -> CloudQError:
    """The error for an answer that says no."""
    plain, message = plain_code(code), _line(message)
    where = f"{call.service} {call.operation}{_subject(call)}"
    if plain in THROTTLED:
        return ServiceUnavailable(f"{where}: AWS asks to slow down ({code}: {message}); try again later")
    if plain in BAD_CREDENTIALS:
        return CredentialsError(
            f"{where}: AWS refused the credentials ({code}: {message}); {_HOW_TO_SIGN_IN}"
        )
    if plain in DENIED or (status == 403 and plain in ("403", "Forbidden", "")):
        return AccessDenied(
            f"{where}: the credentials lack {action(call)} ({code}: {message}); add it to the role's policy"
        )
    if status >= 500 or plain in UNAVAILABLE:
        return ServiceUnavailable(f"{where}: AWS answered {status} {code}: {message}; try again later")
    return AwsError(
        code, message, status=status, service=call.service, operation=call.operation, answer=answer
    )


def from_client_error(response: Mapping[str, Any], call: Call) -> CloudQError:
    """The error for botocore's parsed error answer."""
    error = response.get("Error", {})
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return from_code(str(error.get("Code", "")), str(error.get("Message", "")), status, call, response)


def from_botocore(error: Exception, call: Call) -> CloudQError:
    """The error for an exception of botocore's; the caller chains the cause."""
    from botocore import exceptions as boto

    if isinstance(error, boto.ClientError):
        return from_client_error(error.response, call)
    where, text = f"{call.service} {call.operation}", _line(error)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return CredentialsError(
            f"{where}: no usable AWS credentials ({text}); set AWS_PROFILE, run on a role, "
            "or export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if isinstance(error, _credential_errors(boto)):
        return CredentialsError(
            f"{where}: the AWS credentials could not be loaded ({text}); {_HOW_TO_SIGN_IN}"
        )
    if isinstance(error, boto.NoRegionError):
        return ImproperlyConfigured(f"{where}: no AWS region; set AWS_REGION or ?region=")
    if isinstance(error, boto.InvalidRegionError | boto.ProfileNotFound | boto.ConfigParseError):
        return ImproperlyConfigured(f"{where}: {text}; check ?region= and ?profile= (or AWS_PROFILE)")
    if isinstance(error, boto.SSLError):
        return ServiceUnavailable(f"{where}: TLS failed ({text}); check AWS_CA_BUNDLE and any proxy")
    if isinstance(error, _network_errors(boto)):
        return ServiceUnavailable(
            f"{where}: no answer from AWS ({text}); check the network, ?endpoint_url= and any VPC endpoint"
        )
    return AwsError(type(error).__name__, text, service=call.service, operation=call.operation)


def _credential_errors(boto: Any) -> tuple[type[Exception], ...]:
    return (
        boto.CredentialRetrievalError,
        boto.InvalidConfigError,
        boto.SSOError,
        boto.TokenRetrievalError,
        boto.MetadataRetrievalError,
        boto.RefreshWithMFAUnsupportedError,
    )


def _network_errors(boto: Any) -> tuple[type[Exception], ...]:
    from botocore.parsers import ResponseParserError

    return boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, ResponseParserError
