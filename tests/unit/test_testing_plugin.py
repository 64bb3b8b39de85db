"""The pytest plugin in projects of its users, run by a pytest of their own."""

import contextlib
import importlib
import pkgutil

import pytest

import cloudq

pytest_plugins = ["pytester"]

SHOP = """
from cloudq import CloudQ

app = CloudQ("shop", broker="sqs://?region=eu-west-1", backend="dynamodb://t?region=eu-west-1")
ran = []

@app.task(queue="tills")
def charge(order, cents=0):
    ran.append(order)
    if cents < 0:
        raise ValueError("a negative amount")
    return f"{order}: {cents}"
"""

#: What every project's last test asks: is the app as the project made it?
UNTOUCHED = """
def test_z_untouched():
    from shop import app
    assert app.conf.broker_url == "sqs://?region=eu-west-1"
    assert app.conf.task_always_eager is False
    assert type(app.clock).__name__ == "SystemClock"
    app.conf.broker_url = "memory://"  # refused while the app has it open
"""


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    """All of cloudq, before pytester notes what is loaded.

    It unloads afterwards what its pytest has loaded: later tests in this process would get those modules anew, with
    classes and constants (the stores' ABSENT) that are not those which the modules loaded earlier know.
    """
    for each in pkgutil.walk_packages(cloudq.__path__, "cloudq."):
        if not each.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # an extra that is not installed
                importlib.import_module(each.name)


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.syspathinsert()
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(shop=SHOP)
    return pytester


def test_pytest_lists_the_fixtures_with_what_they_are_for(project: pytest.Pytester) -> None:
    listed = project.runpytest("--fixtures", "-q")

    for name in ("cloudq_sandbox", "cloudq_inline", "cloudq_worker", "cloudq_moto"):
        listed.stdout.re_match_lines([rf"{name}\b.* -- .*cloudq/testing/plugin\.py.*", r"    `+\w+.*"])


def test_a_sandbox_lasts_as_long_as_its_test(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
from shop import app, charge, ran

def test_first(cloudq_sandbox):
    box = cloudq_sandbox(app)
    charge.delay(1, 5)
    box.assert_sent("shop.charge", (1, 5), queue="tills", times=1)
    assert ran == []
    assert [each.result for each in box.drain()] == ["1: 5"]

def test_second(cloudq_sandbox):
    assert cloudq_sandbox(app).drain() == []
"""
        + UNTOUCHED
    )

    project.runpytest().assert_outcomes(passed=3)


def test_a_failed_assert_sent_shows_what_was_sent(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
from shop import app, charge

def test_it(cloudq_sandbox):
    box = cloudq_sandbox(app)
    charge.delay(1, cents=5)
    box.assert_sent("shop.charge", (2,))
"""
    )

    failed = project.runpytest()

    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(
        ["E*no such call of shop.charge was sent; sent were:", "E*shop.charge(1, cents=5) to tills"]
    )


def test_inline_runs_at_the_call_and_raises_there(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
import pytest
from shop import app, charge

def test_it(cloudq_inline):
    cloudq_inline(app)
    assert charge.delay(1, 5).get() == "1: 5"
    with pytest.raises(ValueError, match="negative"):
        charge.delay(1, -5)

def test_failures_can_be_kept_in_the_result(cloudq_inline):
    cloudq_inline(app, propagate=False)
    assert charge.delay(1, -5).state == "FAILURE"
"""
        + UNTOUCHED
    )

    project.runpytest().assert_outcomes(passed=3)


def test_a_worker_runs_the_app_in_memory_whatever_its_broker(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
import threading
from shop import app, charge

def test_it(cloudq_worker):
    worker = cloudq_worker(app, "tills", concurrency=2)
    assert app.broker.url == "memory://"
    assert [charge.delay(n).get(timeout=10) for n in range(3)] == ["0: 0", "1: 0", "2: 0"]
    assert worker.concurrency == 2

def test_it_is_gone():
    assert not [each for each in threading.enumerate() if each.name.startswith("cloudq-test-worker")]
"""
        + UNTOUCHED
    )

    project.runpytest().assert_outcomes(passed=3)


def test_a_worker_handles_no_signals(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
import signal
from shop import app

def test_it(cloudq_worker):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    cloudq_worker(app)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
"""
    )

    project.runpytest().assert_outcomes(passed=1)


def test_fixtures_may_be_used_together_in_any_order(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
import pytest
from shop import app, charge

@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_it(order, cloudq_sandbox, cloudq_worker, cloudq_inline):
    for each in order:
        (cloudq_sandbox, cloudq_worker, cloudq_inline)[each](app)
"""
        + UNTOUCHED
    )

    project.runpytest().assert_outcomes(passed=4)


def test_without_moto_its_tests_are_skipped_with_the_way_to_get_it(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.makeconftest("import sys\nsys.modules['moto.server'] = None")
    project.makepyfile(
        """
def test_one(cloudq_moto):
    raise AssertionError

def test_two(cloudq_moto):
    raise AssertionError
"""
    )

    done = project.runpytest_subprocess("-rs")

    done.assert_outcomes(skipped=2)
    done.stdout.fnmatch_lines(["SKIPPED*pip install *cloudq-tasks?testing?*"])


@pytest.mark.slow
def test_moto_serves_each_test_an_empty_account(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
import os
from shop import app, charge

def test_it(cloudq_moto):
    cloudq_moto(app, "tills")
    assert app.broker.url.startswith("sqs://")
    assert charge.delay(1, 5).get(timeout=20) == "1: 5"

def test_another_queue(cloudq_moto):
    cloudq_moto(app, "other")
    import boto3
    sqs = boto3.client("sqs", "us-east-1", endpoint_url=app.broker.url.partition("endpoint_url=")[2])
    assert not [url for url in sqs.list_queues()["QueueUrls"] if "tills" in url]

def test_the_environment_is_as_it_was():
    assert (os.environ["AWS_PROFILE"], os.environ["AWS_ACCESS_KEY_ID"]) == ("nobody", "mine")
"""
        + UNTOUCHED
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_PROFILE", "nobody")
        patch.setenv("AWS_ACCESS_KEY_ID", "mine")
        done = project.runpytest_subprocess()

    done.assert_outcomes(passed=4)
