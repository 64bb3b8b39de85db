"""The EC2 instance metadata service, version 2: what an instance may ask about itself.

Source: "Use the Instance Metadata Service to access instance metadata", EC2 User Guide.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from cloudq.errors import OperationalError

#: Seconds that a session token is good for; AWS allows up to six hours.
TOKEN_TTL: Final = 21600
TIMEOUT: Final = 2.0
#: botocore's names, so that one setting does for both.
ENDPOINT: Final = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
DISABLED: Final = "AWS_EC2_METADATA_DISABLED"
_IPV4: Final = "http://169.254.169.254"
_IPV6: Final = "http://[fd00:ec2::254]"
_VENDOR: Final = "/sys/class/dmi/id/sys_vendor"


class MetadataUnavailable(OperationalError):
    """The metadata service did not answer, or not as documented."""


class Imds:
    """Reads metadata with a session token, which it gets and renews itself. One thread at a time."""

    def __init__(self, endpoint: str | None = None) -> None:
        mode = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "").lower()
        default = _IPV6 if mode == "ipv6" else _IPV4
        self.endpoint = (endpoint or os.environ.get(ENDPOINT) or default).rstrip("/")
        self._token: str | None = None
        # never through a proxy: the address is the instance's own
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str) -> str | None:
        """The metadata at ``path`` below ``/latest/meta-data/``; None when there is none.

        Raises MetadataUnavailable.
        """
        for fresh in (False, True):
            if self._token is None or fresh:
                self._token = self._new_token()
            try:
                return self._ask("GET", f"meta-data/{path}", {"X-aws-ec2-metadata-token": self._token})
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return None
                if error.code != 401 or fresh:
                    raise MetadataUnavailable(f"instance metadata {path}: HTTP {error.code}") from error
        raise AssertionError("a fresh token was refused without an error")

    def _new_token(self) -> str:
        try:
            return self._ask("PUT", "api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL)})
        except urllib.error.HTTPError as error:
            raise MetadataUnavailable(f"instance metadata gives no token: HTTP {error.code}") from error

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(f"{self.endpoint}/latest/{path}", headers=headers, method=method)  # noqa: S310  the instance itself
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                text: str = answer.read().decode()
                return text
        except urllib.error.HTTPError as error:
            error.close()
            raise
        except (OSError, ValueError) as error:
            raise MetadataUnavailable(f"no instance metadata at {self.endpoint}: {error}") from error


def on_ec2() -> bool:
    """Is this machine an EC2 instance, as far as its firmware says, and may it be asked?"""
    if os.environ.get(DISABLED, "").lower() == "true":
        return False
    try:
        return "amazon ec2" in Path(_VENDOR).read_text().lower()
    except OSError:
        return False
