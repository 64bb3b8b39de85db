"""Settings: checked when set, from every place they may come from."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from cloudq import CloudQ
from cloudq.conf import Conf
from cloudq.errors import ImproperlyConfigured, SettingError


def test_a_value_is_kept() -> None:
    conf = Conf({"task_time_limit": 5})

    assert conf.task_time_limit == 5.0
    assert conf["task_time_limit"] == conf.get("task_time_limit") == 5.0
    assert conf.explicit("task_time_limit")
    assert not conf.explicit("task_soft_time_limit")


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    conf = Conf()
    with pytest.raises(SettingError, match="did you mean 'task_time_limit'"):
        conf.task_time_limt = 3
    with pytest.raises(AttributeError, match="did you mean 'broker_url'"):
        _ = conf.brokr_url


def test_a_celery_setting_that_means_nothing_here_says_what_does() -> None:
    with pytest.raises(SettingError, match="put options into the URL"):
        Conf({"broker_transport_options": {"region": "x"}})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task_time_limit", "5"),
        ("task_time_limit", True),
        ("task_track_started", 1),
        ("accept_content", "json"),
        ("security_keys", ["a"]),
        ("worker_concurrency", 1.5),
        ("task_default_queue", None),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(SettingError, match=name):
        Conf({name: value})


def test_update_changes_all_or_nothing() -> None:
    conf = Conf()
    with pytest.raises(SettingError):
        conf.update(task_default_queue="other", no_such_thing=1)

    assert conf.task_default_queue == "cloudq"


def test_the_environment_is_read_as_text() -> None:
    conf = Conf()
    conf.load_environment(
        {
            "CLOUDQ_TASK_TIME_LIMIT": "2.5",
            "CLOUDQ_ACCEPT_CONTENT": "json, msgpack",
            "CLOUDQ_TASK_ACKS_LATE": "no",
            "CLOUDQ_RESULT_EXPIRES": "none",
            "CLOUDQ_SECURITY_KEYS": '{"k1": "secret"}',
            "CLOUDQ_TASK_ROUTES": '{"a.*": "fast"}',
            "CLOUDQ_APP": "module:app",
            "PATH": "/bin",
        }
    )

    assert conf.task_time_limit == 2.5
    assert conf.accept_content == ["json", "msgpack"]
    assert conf.task_acks_late is False
    assert conf.result_expires is None
    assert conf.security_keys == {"k1": "secret"}
    assert conf.task_routes == {"a.*": "fast"}


def test_an_unknown_environment_variable_is_named() -> None:
    with pytest.raises(SettingError, match="CLOUDQ_BROKER.*did you mean 'broker_url'"):
        Conf().load_environment({"CLOUDQ_BROKER": "sqs://"})
    with pytest.raises(SettingError, match="CLOUDQ_TASK_TIME_LIMIT"):
        Conf().load_environment({"CLOUDQ_TASK_TIME_LIMIT": "soon"})


def test_pyproject_of_the_nearest_folder_above_is_read(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.cloudq]\ntask_default_queue = "mine"\n')
    below = tmp_path / "src" / "deep"
    below.mkdir(parents=True)
    conf = Conf()

    assert conf.load_pyproject(below) == str(tmp_path.resolve() / "pyproject.toml")
    assert conf.task_default_queue == "mine"


def test_an_error_in_pyproject_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.cloudq]\ntask_default_que = 1\n")
    with pytest.raises(SettingError, match=r"pyproject\.toml.*did you mean 'task_default_queue'"):
        Conf().load_pyproject(tmp_path)


def test_an_object_with_a_namespace_is_read_as_django_does() -> None:
    conf = Conf()
    conf.load_object(SimpleNamespace(CLOUDQ_TASK_TIME_LIMIT=3, DEBUG=True), namespace="CLOUDQ")

    assert conf.task_time_limit == 3.0


def test_a_module_of_settings_is_read_and_its_errors_are_too() -> None:
    conf = Conf()
    conf.load_object(SimpleNamespace(task_time_limit=3, os=pytest, _private=1))
    assert conf.task_time_limit == 3.0
    with pytest.raises(SettingError, match="task_time_limt"):
        conf.load_object(SimpleNamespace(task_time_limt=3))


def test_later_places_win(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.cloudq]\ntask_default_queue = "p"\ntask_serializer = "msgpack"\ntask_time_limit = 1.0\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLOUDQ_TASK_DEFAULT_QUEUE", "e")
    monkeypatch.setenv("CLOUDQ_TASK_TIME_LIMIT", "2")
    app = CloudQ("x", task_time_limit=3)

    assert (app.conf.task_serializer, app.conf.task_default_queue, app.conf.task_time_limit) == (
        "msgpack",
        "e",
        3.0,
    )


def test_a_url_cannot_change_once_it_is_open() -> None:
    app = CloudQ("x", broker="memory://", backend="memory://")
    assert app.broker is app.broker
    with pytest.raises(SettingError, match="can no longer change"):
        app.conf.broker_url = "sqs://"


def test_in_production_a_missing_url_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    app = CloudQ("x", env="production")
    with pytest.raises(ImproperlyConfigured, match="CLOUDQ_BROKER_URL"):
        _ = app.broker
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "f")
    with pytest.raises(ImproperlyConfigured, match="inside Lambda"):
        _ = CloudQ("x").backend


@pytest.mark.parametrize("name", ["security_keys", "security_encryption_keys", "api_keys"])
def test_an_error_about_a_secret_does_not_tell_it(name: str) -> None:
    with pytest.raises(SettingError, match=name) as caught:
        Conf({name: ["hunter2"]})
    assert "hunter2" not in str(caught.value)
