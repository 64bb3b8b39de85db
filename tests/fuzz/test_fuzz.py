"""Whatever comes in from outside: never an unhandled error, never an execution, always a reason (issue 10).

Texts are made from seeds (rightly written ones, kept in ``SEEDS`` and ``tests/golden/wire``) by
cutting, repeating, swapping and replacing parts, and from nothing at all. 750 examples in CI, 60,000
by ``make long``; CLOUDQ_TEST_FUZZ_FACTOR multiplies. A failure prints the text, to be kept below ``found/``.
Beside these tests CI also runs ``hunt.py``, which breeds many more by what they reach.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from fuzz_targets import API, FEEDS, SEEDS, TOKENS, found_of, seeds_of
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cloudq.aws_lambda.events import parse
from cloudq.schedules.reading import as_schedule


@st.composite
def mutated(draw: Callable[..., Any], kind: str) -> str:
    """A seed with some of its parts changed."""
    text: str = draw(st.sampled_from(seeds_of(kind)))
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 40)))
        other = draw(
            st.sampled_from(TOKENS) | st.text(max_size=5) | st.just(text[start:end] * 2) | st.just("")
        )
        text = text[:start] + other + text[end:]
    return text


def often(count: int) -> Callable[[Any], Any]:
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    factor = float(os.environ.get("CLOUDQ_TEST_FUZZ_FACTOR", "1"))
    return settings(max_examples=int(count * factor), deadline=None, suppress_health_check=checks)


@often(150)
@given(mutated("message") | st.text(max_size=200))
@example('{"task": "t", "args": ' + "[" * 100_000)
def test_messages(text: str) -> None:
    FEEDS["message"](text)


@often(150)
@given(mutated("cron") | st.text(max_size=40))
def test_cron_texts(text: str) -> None:
    FEEDS["cron"](text)


@often(100)
@given(mutated("plain"))
def test_stored_schedules(text: str) -> None:
    FEEDS["plain"](text)


@often(150)
@given(mutated("event"))
def test_lambda_events(text: str) -> None:
    FEEDS["event"](text)


@often(100)
@given(mutated("request"))
def test_api_requests(text: str) -> None:
    FEEDS["request"](text)


@often(100)
@given(mutated("secrets"))
def test_api_requests_under_shared_secrets(text: str) -> None:
    FEEDS["secrets"](text)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", FEEDS)
def test_much_more_of_each(kind: str) -> None:
    feed: Callable[[str], None] = FEEDS[kind]

    @often(10_000)
    @given(mutated(kind))
    def run(text: str) -> None:
        feed(text)

    run()


@pytest.mark.parametrize("kind", FEEDS)
def test_what_was_found_once_is_refused_with_a_reason_each_time(kind: str) -> None:
    feed: Callable[[str], None] = FEEDS[kind]
    for text in found_of(kind):
        feed(text)


def test_the_seeds_themselves_are_right() -> None:
    for text in SEEDS["cron"]:
        assert as_schedule(text).plain()
    for text in SEEDS["plain"]:
        as_schedule(json.loads(text))
    for text in SEEDS["event"]:
        assert len(parse(json.loads(text), lambda arn: "q", 1.0, 2.0).deliveries) == 1
    assert [API(json.loads(text), None)["statusCode"] for text in SEEDS["request"]] == [202, 200]
