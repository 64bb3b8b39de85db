import pytest

from examples.etl.pipeline import BadFile, app, failures, ingest, totals


def test_a_file_is_read_and_stored(cloudq_sandbox) -> None:
    box = cloudq_sandbox(app)

    ingest("a.csv", "3\n4\n")
    box.assert_sent("examples.etl.pipeline.read_file", queue="reading", times=1)
    box.drain()

    assert totals == {"a.csv": 7}
    box.assert_sent("examples.etl.pipeline.store", queue="etl", times=1)
    assert box.buried == []


def test_a_bad_file_is_noted(cloudq_sandbox) -> None:
    box = cloudq_sandbox(app)

    result = ingest("b.csv", "three")
    box.drain()

    assert failures == ["b.csv"]
    with pytest.raises(BadFile, match=r"b\.csv"):
        result.get(timeout=1)
