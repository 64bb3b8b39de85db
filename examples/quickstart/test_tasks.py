import pytest

from examples.quickstart.tasks import add, answers, app, forecast


def test_a_task_is_a_function() -> None:
    assert add(2, 3) == 5


def test_inline_it_runs_where_it_is_called(cloudq_inline) -> None:
    cloudq_inline(app)

    assert add.delay(2, 3).get() == 5
    answers.append(ValueError("no such city"))
    with pytest.raises(ValueError, match="no such city"):
        forecast.delay("Atlantis")


def test_the_forecast_is_tried_again_after_ten_and_twenty_seconds(cloudq_sandbox) -> None:
    box = cloudq_sandbox(app)
    answers.extend([ConnectionError(), ConnectionError(), "rain"])
    started = box.clock.time()

    result = forecast.delay("Oslo")
    box.drain()

    assert result.get(timeout=1) == "Oslo: rain"
    assert box.clock.time() - started == pytest.approx(30, abs=1)


def test_with_a_real_worker_in_a_thread(cloudq_worker) -> None:
    cloudq_worker(app)

    assert [each.get(timeout=10) for each in app.send_many(add.s(n, n) for n in range(20))] == [
        2 * n for n in range(20)
    ]
