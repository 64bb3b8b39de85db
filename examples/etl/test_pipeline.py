from collections.abc import Iterator

import pytest

from examples.etl.pipeline import BadFile, app, failures, files, ingest, outages, totals


@pytest.fixture(autouse=True)
def file_server() -> Iterator[None]:
    files.update({"a.csv": "3\n4\n", "b.csv": "three"})
    yield
    for each in (files, outages, totals, failures):
        each.clear()


def test_a_file_is_read_and_stored(cloudq_sandbox) -> None:
    box = cloudq_sandbox(app)

    ingest("a.csv")
    box.assert_sent("examples.etl.pipeline.read_file", queue="reading", times=1)
    box.drain()

    assert totals == {"a.csv": 7}
    box.assert_sent("examples.etl.pipeline.store", queue="etl", times=1)
    assert (failures, box.buried) == ([], [])


def test_an_outage_of_a_minute_is_waited_for(cloudq_sandbox) -> None:
    box = cloudq_sandbox(app)
    outages.extend([ConnectionError(), ConnectionError()])
    started = box.clock.time()

    ingest("a.csv")
    box.drain()

    assert totals == {"a.csv": 7}
    assert box.clock.time() - started == pytest.approx(30 + 60, abs=1)


def test_an_outage_that_does_not_end_is_noted(cloudq_sandbox) -> None:
    box = cloudq_sandbox(app)
    outages.extend(ConnectionError("down") for _ in range(10))

    result = ingest("a.csv")
    box.drain()

    assert (totals, failures) == ({}, ["a.csv"])
    with pytest.raises(ConnectionError, match="down"):
        result.get(timeout=1)
    assert len(outages) == 10 - (1 + 3)


def test_a_bad_file_is_noted_and_not_tried_again(cloudq_sandbox) -> None:
    box = cloudq_sandbox(app)

    result = ingest("b.csv")
    box.drain()

    assert failures == ["b.csv"]
    with pytest.raises(BadFile, match=r"b\.csv"):
        result.get(timeout=1)
    box.assert_sent("examples.etl.pipeline.read_file", times=1)


def test_a_file_that_is_announced_twice_has_one_result(cloudq_sandbox) -> None:
    box = cloudq_sandbox(app)

    first = ingest("a.csv")
    box.drain()
    files["a.csv"] = "100"
    second = ingest("a.csv")
    box.drain()

    assert second.id == first.id
    assert second.get(timeout=1) == {"name": "a.csv", "total": 7}
    assert totals == {"a.csv": 7}
