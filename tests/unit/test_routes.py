"""task_routes: names, globs, patterns, functions, lists."""

import re

import pytest

from cloudq.errors import ImproperlyConfigured
from cloudq.routes import compile_routes


def test_exact_names_win_over_patterns() -> None:
    router = compile_routes(
        {"shop.*": "slow", "shop.add": "fast", re.compile(r".*\.mail"): {"queue": "m", "priority": 1}}
    )

    assert router("shop.add") == {"queue": "fast"}
    assert router("shop.other") == {"queue": "slow"}
    assert router("x.mail") == {"queue": "m", "priority": 1}
    assert router("x.other") is None


def test_the_first_router_of_a_list_that_answers_wins() -> None:
    router = compile_routes([lambda name: None, lambda name: "second", {"*": "third"}])

    assert router("any") == {"queue": "second"}


def test_a_celery_style_router_is_called_its_way() -> None:
    def route(name, args, kwargs, options, task=None, **kw):  # type: ignore[no-untyped-def]
        return {"queue": "celery"}

    assert compile_routes(route)("x") == {"queue": "celery"}


def test_an_error_inside_a_router_is_not_hidden() -> None:
    def route(name):  # type: ignore[no-untyped-def]
        return {}["missing"] + int(None)

    with pytest.raises(KeyError):
        compile_routes(route)("x")


@pytest.mark.parametrize("bad", [3, "queue", {"a": 3}, {3: "q"}, {"a": {1: 2}}])
def test_nonsense_is_refused(bad: object) -> None:
    with pytest.raises(ImproperlyConfigured, match="task_routes"):
        compile_routes(bad)
