"""When calls are due and when they expire: what ``countdown``, ``eta`` and ``expires`` mean."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cloudq.conf import Conf
from cloudq.delays import hop
from cloudq.errors import ImproperlyConfigured


def due(options: Mapping[str, Any], now: float, zone: tzinfo) -> float | None:
    """When a call with these options is to run (epoch seconds), or None: at once. Raises TypeError, ValueError."""
    countdown, eta = options.get("countdown"), options.get("eta")
    if countdown is None:
        return moment("eta", eta, now, zone, relative=False)
    if eta is not None:
        raise ValueError("give countdown or eta, not both")
    if isinstance(countdown, bool) or not isinstance(countdown, int | float) or countdown != countdown:
        raise TypeError(f"countdown is a number of seconds, got {countdown!r}")
    return hop.checked("countdown", countdown, now + countdown) if countdown > 0 else None


def moment(name: str, value: Any, now: float, zone: tzinfo, relative: bool = True) -> float | None:
    """``value`` as seconds since the epoch: a datetime, or a number (of seconds from now if relative)."""
    if value is None:
        return None
    if isinstance(value, datetime):
        return (value if value.tzinfo is not None else value.replace(tzinfo=zone)).timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return hop.checked(name, value, now + value if relative else float(value))
    if isinstance(value, str):
        try:
            return moment(name, datetime.fromisoformat(value), now, zone)
        except ValueError:
            raise ValueError(f"{name}: {value!r} is no ISO-8601 time") from None
    raise TypeError(f"{name} is a datetime or a number of seconds, got {value!r}")


def zone_of(conf: Conf) -> tzinfo:
    """The zone that naive datetimes are in. Raises ImproperlyConfigured for an unknown one."""
    if conf.enable_utc and not conf.explicit("timezone"):
        return UTC
    try:
        return ZoneInfo(conf.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ImproperlyConfigured(
            f"timezone: {conf.timezone!r} is not a known zone; example: Europe/Paris"
        ) from None
