"""The control side of the fault proxy ``servers.microburst``."""

from __future__ import annotations

import json
import urllib.request
from typing import Any


class Proxy:
    """Rules in force, and what they have done."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def _ask(self, path: str, data: Any = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(f"{self.url}/_microburst/{path}", body)
        with self._opener.open(request, timeout=10) as answer:
            return json.load(answer)

    def rules(self, rules: list[dict[str, Any]]) -> None:
        """These and no others."""
        self._ask("rules", rules)

    def requests(self) -> dict[str, int]:
        """Numbers of requests since the start: ``total``, ``faulted``, ``forwarded``."""
        found: dict[str, int] = self._ask("stats")["requests"]
        return found
