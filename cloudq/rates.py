"""Rates as people write them: ``"100/m"``."""

from __future__ import annotations

import math
import re
from typing import Final

_RATE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*([smhd]))?\s*", re.ASCII)
_UNITS: Final = {None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def parse_rate(rate: str | float) -> float:
    """Per second: ``"100/m"``, ``"10/s"``, ``"5/h"``, ``"1000/d"``, ``"10"`` or a number (per second).

    Celery's ``rate_limit`` notation, with days added. Raises ValueError.
    """
    if isinstance(rate, str):
        found = _RATE.fullmatch(rate)
        value = float(found[1]) / _UNITS[found[2]] if found else 0.0
    else:
        value = float(rate)
    if not 0 < value < math.inf:
        raise ValueError(f"a rate is a number above 0, or text like '100/m' (s, m, h or d), got {rate!r}")
    return value


def limit_of(rate: str | float | None) -> float | None:
    """As ``parse_rate``; None for no limit, which Celery also writes as 0 or ``"0/m"``."""
    if rate is None:
        return None
    if isinstance(rate, bool) or not isinstance(rate, str | int | float):
        raise ValueError(f"a rate is a number, or text like '100/m' (s, m, h or d), got {rate!r}")
    if isinstance(rate, str):
        found = _RATE.fullmatch(rate)
        if found and float(found[1]) == 0:
            return None
    elif rate == 0:
        return None
    return parse_rate(rate)
