"""Rate limits of the HTTP API: so many requests per caller, and so many in all (issue 10).

They hold across all copies of the function through the results store, and per copy where there is none or
while it is away. Whoever is turned away is counted by address in memory: a stranger makes nobody write to a store.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import OrderedDict
from typing import Final

from cloudq.aws_lambda.http import HttpError
from cloudq.backends.base import ResultBackend
from cloudq.backends.open import open_backend
from cloudq.callkey import short
from cloudq.clock import Clock
from cloudq.coordination.limits import TokenBucket
from cloudq.errors import ImproperlyConfigured, OperationalError
from cloudq.rates import limit_of

logger = logging.getLogger("cloudq.lambda")

#: Callers, and addresses, that are remembered at a time; the least used are forgotten first.
MOST_KNOWN: Final = 1000
#: How often the store is tried: a caller is waiting.
ATTEMPTS: Final = 3


class Crowd:
    """``each`` and ``total`` are rates like ``"10/s"`` (None: no limit); as many may come at once."""

    def __init__(
        self, store: ResultBackend | None, clock: Clock, each: str | None, total: str | None
    ) -> None:
        """Raises ImproperlyConfigured."""
        self._each, self._total = _checked("api_rate_limit", each), _checked("api_rate_limit_total", total)
        self._clock = clock
        self._memory = open_backend("memory://", clock)
        self._store = self._memory if store is None else store
        self._known: OrderedDict[str, TokenBucket] = OrderedDict()
        self._mutex = threading.Lock()

    def let_in(self, caller: str) -> None:
        """One request of a caller who may come in. Raises HttpError (429)."""
        self._check(self._store, f"api/caller-{short(caller)}", self._each, "you make")
        self._check(self._store, "api/all", self._total, "all callers together make")

    def turn_away(self, address: str) -> None:
        """One request of nobody we know. Raises HttpError (429) once there were too many."""
        self._check(self._memory, f"api/stranger-{short(address)}", self._each, "your address makes")

    def _check(self, store: ResultBackend, name: str, rate: str | None, who: str) -> None:
        if rate is None:
            return
        try:
            wait = self._bucket(store, name, rate).take()
        except OperationalError as error:
            logger.warning("limits hold for this copy of the function alone: %s", error)
            wait = self._bucket(self._memory, name, rate).take()
        if wait > 0:
            after = str(max(1, math.ceil(wait)))
            raise HttpError(429, f"{who} more requests than {rate}: try again later", {"retry-after": after})

    def _bucket(self, store: ResultBackend, name: str, rate: str) -> TokenBucket:
        with self._mutex:
            key = f"{id(store)}/{name}"
            found = self._known.get(key)
            if found is None:
                slow = store.capabilities.writes_per_key is not None
                burst = max(1, math.ceil(float(rate.partition("/")[0]))) * (5 if slow else 1)
                block = burst if slow else None
                found = TokenBucket(
                    store, name, rate, self._clock, burst=burst, block=block, attempts=ATTEMPTS
                )
                self._known[key] = found
                if len(self._known) > MOST_KNOWN:
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
            return found


def _checked(setting: str, rate: str | None) -> str | None:
    try:
        return None if limit_of(rate) is None else str(rate)
    except ValueError as error:
        raise ImproperlyConfigured(f"{setting}: {error}") from None
