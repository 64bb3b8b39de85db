"""``solar("sunset", 48.85, 2.35)``: by the sun. Needs the extra ``solar`` (astral)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any, Final

from cloudq.errors import MissingExtra, ScheduleError

#: Celery's names, in the order of a day: astral's function, and degrees below the horizon.
EVENTS: Final[dict[str, tuple[str, float | None]]] = {
    "dawn_astronomical": ("dawn", 18.0),
    "dawn_nautical": ("dawn", 12.0),
    "dawn_civil": ("dawn", 6.0),
    "sunrise": ("sunrise", None),
    "solar_noon": ("noon", None),
    "sunset": ("sunset", None),
    "dusk_civil": ("dusk", 6.0),
    "dusk_nautical": ("dusk", 12.0),
    "dusk_astronomical": ("dusk", 18.0),
}
#: Days to look ahead: beyond the polar circles an event may stay away for half a year.
_DAYS: Final = 370


class solar:  # noqa: N801  Celery's name
    """The moment of ``event`` each day at a place.

    ``event`` is one of Celery's: dawn_astronomical, dawn_nautical, dawn_civil, sunrise, solar_noon,
    sunset, dusk_civil, dusk_nautical, dusk_astronomical. ``lat`` and ``lon`` are degrees, north and
    east positive. Days without the event (polar night) are left out. Exact to about a minute; the
    slot is the full second. Raises ScheduleError; using it without astral raises MissingExtra.
    """

    __slots__ = ("event", "lat", "lon")

    def __init__(self, event: str, lat: float, lon: float) -> None:
        if event not in EVENTS:
            import difflib

            near = difflib.get_close_matches(str(event), EVENTS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ScheduleError(f"solar: {event!r} is no event ({', '.join(EVENTS)}){hint}")
        for name, value, most in (("lat", lat, 90), ("lon", lon, 180)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not -most <= value <= most:
                raise ScheduleError(
                    f"solar: {name} is a number of degrees from -{most} to {most}, got {value!r}"
                )
        self.event, self.lat, self.lon = event, float(lat), float(lon)

    def next_after(self, moment: float, zone: tzinfo) -> float | None:
        """See ``Schedule.next_after``; the sun knows no time zone."""
        find = self._finder()
        day = datetime.fromtimestamp(moment, UTC).date() - timedelta(days=1)
        for _ in range(_DAYS):
            found = find(day)
            if found is not None and found > moment:
                return found
            day += timedelta(days=1)
        return None

    def _finder(self) -> Callable[[date], float | None]:
        try:
            from astral import Observer, sun
        except ImportError as error:
            raise MissingExtra("solar(...)", "solar") from error
        name, depression = EVENTS[self.event]
        function = getattr(sun, name)
        observer = Observer(self.lat, self.lon)
        more = {} if depression is None else {"depression": depression}

        def find(day: date) -> float | None:
            try:
                return float(int(function(observer, day, tzinfo=UTC, **more).timestamp()))
            except ValueError:  # the sun does not get there on that day
                return None

        return find

    def plain(self) -> dict[str, Any]:
        """``{"solar": {"event": "sunset", "lat": 48.85, "lon": 2.35}}``."""
        return {"solar": {"event": self.event, "lat": self.lat, "lon": self.lon}}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, solar) and self.plain() == other.plain()

    def __hash__(self) -> int:
        return hash((self.event, self.lat, self.lon))

    def __repr__(self) -> str:
        return f"<solar: {self}>"

    def __str__(self) -> str:
        return f"{self.event} at {self.lat:g}, {self.lon:g}"
