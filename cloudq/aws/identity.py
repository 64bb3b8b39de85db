"""Who calls AWS, and where: credentials, region, endpoints.

botocore knows all the places where these may be written. It is asked unless the environment says
everything plainly (as in Lambda, ECS with keys, CI, local servers): loading it costs a cold start
some 150 ms and 20 MB.
"""

from __future__ import annotations

import os
import re
import threading
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

from cloudq.aws.errors import from_botocore
from cloudq.aws.options import LOCAL_REGION
from cloudq.aws.port import Call
from cloudq.aws.sigv4 import Credentials
from cloudq.errors import ImproperlyConfigured

#: Regions of the commercial partition are ``<area>-<direction>-<number>``, and end in amazonaws.com.
_COMMERCIAL: Final = re.compile(r"(?!us-(gov|iso)|eu-isoe|eusc-|cn-)[a-z]{2}-[a-z]+-\d")
#: Seconds between two looks for other credentials after AWS has refused the present ones.
RENEW_PAUSE: Final = 10.0
#: Whoever sets one of these wants an endpoint that botocore works out.
_SPECIAL: Final = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_SQS",
    "AWS_ENDPOINT_URL_DYNAMODB",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_ACCOUNT_ID_ENDPOINT_MODE",
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a service answers."""

    host: str
    port: int
    tls: bool
    path: str

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host_header}"

    @property
    def host_header(self) -> str:
        """As it is signed: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Raises ImproperlyConfigured when ``url`` is no http(s) URL."""
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise ImproperlyConfigured(f"endpoint_url {url!r}: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ImproperlyConfigured(f"endpoint_url is http://host:port or https://host, got {url!r}")
        if parts.query or parts.username:
            raise ImproperlyConfigured("endpoint_url takes no credentials and no query")
        tls = parts.scheme == "https"
        return cls(parts.hostname, port or (443 if tls else 80), tls, quote(parts.path or "/", safe="/~%"))


class Identity:
    """Credentials, region and endpoints of one profile. Thread-safe; a forked child makes its own."""

    def __init__(self, region: str | None, endpoint_url: str | None, profile: str | None) -> None:
        self._given_region = region
        self._endpoint_url = endpoint_url
        self._profile = profile
        self._lock = threading.Lock()
        self._session: Any = None
        self._source: Any = None
        self._plain: Credentials | None = None
        self._renewed = float("-inf")
        self._endpoints: dict[str, Endpoint] = {}
        self._region: str | None = None

    @property
    def region(self) -> str:
        """The region. Raises ImproperlyConfigured when there is none."""
        if self._region is None:
            self._region = self._find_region()
        return self._region

    def credentials(self) -> Credentials:
        """The credentials of this moment: temporary ones are renewed when they are about to expire.

        Raises CredentialsError when there are none or they cannot be renewed.
        """
        if self._plain is not None:
            return self._plain
        source = self._source
        if source is None:
            with self._lock:
                source = self._source
                if source is None:
                    self._plain = self._from_environment()
                    if self._plain is not None:
                        return self._plain
                    source = self._source = self._from_botocore()
        return self._fresh(source)

    def renew(self, since: float) -> bool:
        """Look for credentials anew: AWS has refused those of the moment ``since`` (monotonic seconds).

        What botocore has loaded it keeps for ever where it knows of no expiry, though another program may long
        have written new ones. False when a look is no use: they come from the environment (``hint`` says so),
        or it was done a moment ago. Raises CredentialsError when none can be loaded.
        """
        if self._plain is not None:
            return False
        with self._lock:
            if self._renewed <= since:
                if time.monotonic() - self._renewed < RENEW_PAUSE:
                    return False
                self._renewed = time.monotonic()
                self._session = self._source = None
        self.credentials()
        return True

    @property
    def hint(self) -> str:
        """What is to be said of refused credentials of this kind."""
        if self._plain is None:
            return ""
        return "; they come from AWS_ACCESS_KEY_ID, which a running process never gets anew: start it again"

    @property
    def refreshes(self) -> bool:
        """May ``credentials`` have to ask a service for new ones?"""
        source = self._source
        return source is not None and hasattr(source, "refresh_needed")

    def endpoint(self, service: str) -> Endpoint:
        """Where a service answers."""
        found = self._endpoints.get(service)
        if found is None:
            found = self._endpoints[service] = Endpoint.parse(self._find_endpoint(service))
        return found

    def setting(self, name: str) -> Any:
        """A variable of AWS's shared configuration (``ca_bundle``); None where nothing is configured."""
        if not _has_config_file():
            return None
        return self._botocore().get_config_variable(name)

    # --- the plain cases ------------------------------------------------------------------------

    def _from_environment(self) -> Credentials | None:
        """As botocore's first provider reads them; a profile named in the URL goes before."""
        read = os.environ.get
        key, secret = read("AWS_ACCESS_KEY_ID"), read("AWS_SECRET_ACCESS_KEY")
        if self._profile is not None or not key or not secret or read("AWS_CREDENTIAL_EXPIRATION"):
            return None
        return Credentials(key, secret, read("AWS_SESSION_TOKEN") or read("AWS_SECURITY_TOKEN"))

    def _find_region(self) -> str:
        region = self._given_region or os.environ.get("AWS_DEFAULT_REGION")
        if not region and (self._profile is not None or _has_config_file()):
            region = self._botocore().get_config_variable("region")
        region = region or os.environ.get("AWS_REGION")
        if not region and self._endpoint_url:
            region = LOCAL_REGION
        if not region:
            raise ImproperlyConfigured("no AWS region; set AWS_REGION or ?region=")
        return str(region)

    def _find_endpoint(self, service: str) -> str:
        if self._endpoint_url:
            return self._endpoint_url
        plain = _COMMERCIAL.fullmatch(self.region) and not any(os.environ.get(name) for name in _SPECIAL)
        if plain and not _has_config_file():
            return f"https://{service}.{self.region}.amazonaws.com"
        # A client is the only public door to botocore's endpoint rules.
        with self._lock:
            client = self._botocore().create_client(service, region_name=self.region)
        try:
            return str(client.meta.endpoint_url)
        finally:
            client.close()

    # --- all others -----------------------------------------------------------------------------

    def _botocore(self) -> Any:
        session = self._session
        if session is None:
            from botocore.exceptions import BotoCoreError
            from botocore.session import Session

            try:
                session = Session(profile=self._profile)
                session.get_scoped_config()
            except BotoCoreError as error:
                raise from_botocore(error, Call("aws", "session", {})) from error
            self._session = session
        return session

    def _from_botocore(self) -> Any:
        from botocore.exceptions import BotoCoreError, NoCredentialsError

        call = Call("aws", "credentials", {})
        try:
            source = self._botocore().get_credentials()
        except BotoCoreError as error:
            raise from_botocore(error, call) from error
        if source is None:
            raise from_botocore(NoCredentialsError(), call)
        return source

    def _fresh(self, source: Any) -> Credentials:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            frozen = source.get_frozen_credentials()
        except (BotoCoreError, ClientError) as error:
            raise from_botocore(error, Call("aws", "credentials", {})) from error
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)


def _has_config_file() -> bool:
    paths = (
        os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config",
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials",
    )
    return any(os.path.exists(os.path.expanduser(path)) for path in paths)
