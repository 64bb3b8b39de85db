"""Dead letters sent back on a schedule, by rules: some kinds of trouble pass by themselves.

A rule is ``{"queue": "orders", "reason": "worker_lost", "older_than": "15m", "limit": 100, "rate": 5, "most": 3}``:
only ``queue`` is needed. ``most`` is how often one message may be sent back (default 3): what is
truly broken stays buried.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Final

from cloudq.app import CloudQ
from cloudq.aws_lambda.budget import Budget
from cloudq.control.deadletters import DeadLetters, Filter, parse_age
from cloudq.errors import CloudQError, ImproperlyConfigured, OperationalError
from cloudq.loader import load_app

logger = logging.getLogger("cloudq.lambda")

#: Messages per second and per run, and times per message, unless a rule says otherwise.
RATE: Final = 10.0
LIMIT: Final = 1000
MOST: Final = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """``older_than`` is seconds (or text like ``15m``); ``rate`` messages per second."""

    queue: str
    task: str | None = None
    reason: str | None = None
    older_than: float | str | None = None
    to: str | None = None
    rate: float = RATE
    limit: int = LIMIT
    most: int = MOST

    @property
    def filter(self) -> Filter:
        """Which dead letters it means."""
        age = self.older_than
        assert age is None or isinstance(age, float)
        return Filter(task=self.task, reason=self.reason, older_than=age, fewer_redrives=self.most)


def rules_of(given: Any) -> list[Rule]:
    """Rules from JSON. Raises ImproperlyConfigured, naming what is wrong."""
    if not isinstance(given, list) or not given:
        raise ImproperlyConfigured(
            'redrive rules are a JSON list like [{"queue": "orders", "older_than": "15m"}]'
        )
    return [_rule(each, number) for number, each in enumerate(given, 1)]


def _rule(given: Any, number: int) -> Rule:
    names = list(Rule.__dataclass_fields__)
    if not isinstance(given, dict) or not isinstance(given.get("queue"), str) or not given["queue"]:
        raise ImproperlyConfigured(f"redrive rule {number} names no queue: {given!r:.200}")
    for name, value in given.items():
        if name not in names:
            near = get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(names)}"
            raise ImproperlyConfigured(f"redrive rule {number} has {name!r}, which is nothing{hint}")
        number_wanted = name in ("rate", "limit", "most")
        if number_wanted and (isinstance(value, bool) or not isinstance(value, int | float) or value <= 0):
            raise ImproperlyConfigured(f"redrive rule {number}: {name} is a number above 0, got {value!r}")
        if name in ("task", "reason", "to") and not isinstance(value, str | None):
            raise ImproperlyConfigured(f"redrive rule {number}: {name} is text, got {value!r}")
    rule = Rule(**given)
    if rule.older_than is None:
        return rule
    try:
        return replace(rule, older_than=parse_age(str(rule.older_than)))
    except ValueError as error:
        raise ImproperlyConfigured(f"redrive rule {number}: older_than: {error}") from None


def make_redrive(app: CloudQ | str | None = None, rules: list[dict[str, Any]] | None = None) -> Redrive:
    """The handler of a scheduled function. ``rules`` default to the setting ``redrive_rules``; those in
    the event (``{"rules": [...]}``) go before. Raises ImproperlyConfigured."""
    found = app if isinstance(app, CloudQ) else load_app(app)
    given = found.conf.redrive_rules if rules is None else rules
    return Redrive(found, rules_of(given) if given else [])


class Redrive:
    """Callable as Lambda calls handlers. Raises at the end when a rule failed: a schedule has no other
    way to say so, and Lambda's own alarms count it."""

    def __init__(self, app: CloudQ, rules: list[Rule]) -> None:
        self.app = app
        self._rules = rules
        _ = app.broker  # opened now, in the init phase

    def __call__(self, event: Any, context: Any = None) -> dict[str, Any]:
        """Apply every rule while time lasts: ``{"redriven": [{"queue": ..., "count": ...}]}``."""
        given = event.get("rules") if isinstance(event, dict) else None
        rules = rules_of(given) if given is not None else self._rules
        if not rules:
            raise ImproperlyConfigured(
                "no redrive rules: set redrive_rules (CLOUDQ_REDRIVE_RULES), or give {'rules': [...]} as input"
            )
        budget = Budget.of(context)
        done: list[dict[str, Any]] = []
        failures: list[str] = []
        for rule in rules:
            counted = {"queue": rule.queue, "reason": rule.reason, "task": rule.task, "count": 0}
            done.append(counted)
            try:
                counted["count"] = self._apply(rule, budget)
            except CloudQError as error:
                logger.exception("redriving the dead letters of %s", rule.queue)
                failures.append(f"{rule.queue}: {error}")
            logger.info("redriven: %s", counted)
        if failures:
            raise OperationalError(
                f"{len(failures)} of {len(rules)} redrive rules failed: {'; '.join(failures)}"
            )
        return {"redriven": done, "in_time": budget.left() > 0}

    def _apply(self, rule: Rule, budget: Budget) -> int:
        if budget.left() <= 0:
            return 0
        letters = DeadLetters(self.app.broker, rule.queue)
        return letters.redrive(
            rule.filter,
            limit=int(rule.limit),
            to=rule.to,
            rate=rule.rate,
            stop=lambda: time.monotonic() > budget.soft_at,
        )
