"""The ground floor: ids, URLs, retry delays, plug-ins, loader, errors."""

import copy
import pickle
import uuid
from pathlib import Path

import pytest

from cloudq import CloudQ, errors, ids, plugins, states
from cloudq.errors import ImproperlyConfigured, UnknownScheme
from cloudq.loader import load_app
from cloudq.retry import RetryPolicy, backoff, exponential_delay
from cloudq.url import Url


def test_ids_are_uuids_and_derived_ones_repeat() -> None:
    assert uuid.UUID(ids.new_id()).version == 4
    assert ids.new_id() != ids.new_id()
    assert ids.derived_id("a", 1) == ids.derived_id("a", 1)
    assert ids.derived_id("a", 1) != ids.derived_id("a", 2)
    assert ids.derived_id("ab", "c") != ids.derived_id("a", "bc")


def test_urls_are_taken_apart() -> None:
    url = Url.parse("dynamodb://my-table/a%20b?region=eu-west-1&flag=&endpoint_url=http://127.0.0.1:5000")

    assert (url.scheme, url.host, url.path) == ("dynamodb", "my-table", "a b")
    assert url.options(("region", "flag", "endpoint_url"))["endpoint_url"] == "http://127.0.0.1:5000"
    assert url.flag("flag")
    assert url.number("missing", 3, 0, 9) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sqs", "not a URL"),
        ("://x", "not a URL"),
        ("sqs://key:secret@host", "credentials do not belong"),
        ("sqs://?a=1&a=2", "given twice"),
    ],
)
def test_bad_urls(text: str, says: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=says):
        Url.parse(text)


def test_url_parameters_are_checked() -> None:
    url = Url.parse("sqs://?regoin=x&wait=99&on=maybe")
    with pytest.raises(ImproperlyConfigured, match="did you mean 'region'"):
        url.options(("region", "wait"))
    with pytest.raises(ImproperlyConfigured, match="wait is 0 to 20"):
        url.number("wait", 1, 0, 20)
    with pytest.raises(ImproperlyConfigured, match="true or false"):
        url.flag("on")


def test_secrets_are_not_shown() -> None:
    assert str(Url.parse("x://h/p?sas_token=abc&region=r")) == "x://h/p?sas_token=***&region=r"


def test_backoff_doubles_up_to_the_maximum() -> None:
    assert [exponential_delay(1, n, 600, False) for n in range(11)] == [
        1,
        2,
        4,
        8,
        16,
        32,
        64,
        128,
        256,
        512,
        600,
    ]
    assert exponential_delay(1, 10**9, 600, False) == 600
    assert 0 <= exponential_delay(1, 5, 600, True) <= 32
    policy = RetryPolicy(backoff=3, jitter=False)
    assert (policy.delay(0), policy.delay(2), RetryPolicy(default_delay=7).delay(5)) == (3, 12, 7)


def test_our_own_waits_grow_and_stay_bounded() -> None:
    waits = backoff(0.1, 1.0, rand=lambda: 1.0)

    assert [round(next(waits), 3) for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_plugins_are_found_by_name() -> None:
    assert plugins.load("pools", "threads").__name__ == "ThreadsPool"
    assert {"sqs", "sqlite", "memory"} <= set(plugins.names("brokers"))
    with pytest.raises(UnknownScheme, match="did you mean 'sqlite'"):
        plugins.load("brokers", "sqlit")


def test_every_error_survives_pickling() -> None:
    made = [
        errors.MissingExtra("x", "gcs"),
        errors.SendError({0: ValueError("a")}, {1: "m"}),
        errors.Conflict("k"),
        errors.SerializationError("no", "$[0]"),
        errors.RemoteError("a.B", "text"),
        errors.NotRegistered("no task"),
    ]
    for error in made:
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(again) is type(error)
            assert str(again) == str(error)


def test_final_states_are_final() -> None:
    assert {s for s in states.ALL_STATES if states.is_final(s)} == {
        "SUCCESS",
        "FAILURE",
        "REVOKED",
        "REJECTED",
        "IGNORED",
    }


# --- the loader ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def module(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.py").write_text(text)
    return name


APP = "from cloudq import CloudQ\napp = CloudQ('loaded')\n"


def test_an_app_is_found_with_and_without_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = module(folder, "loader_one", APP)

    assert load_app(f"{name}:app").main == "loaded"
    assert load_app(name) is load_app(f"{name}:app")
    monkeypatch.setenv("CLOUDQ_APP", f"{name}:app")
    assert load_app(None).main == "loaded"


def test_what_cannot_be_loaded_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOUDQ_APP", raising=False)
    two = module(folder, "loader_two", APP + "other = CloudQ('second')\nthing = 3\n")
    broken = module(folder, "loader_broken", "import no_such_dependency\n")
    for path, says in (
        (None, "-A module:app"),
        ("no_such_module:app", "no module 'no_such_module'"),
        (f"{two}:nothing", "is nothing, not a CloudQ app; there is loader_two:app"),
        (f"{two}:thing", "is a int, not a CloudQ app"),
        (two, "say which app"),
    ):
        with pytest.raises(ImproperlyConfigured, match=says):
            load_app(path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        load_app(f"{broken}:app")


def test_included_modules_are_imported(folder: Path) -> None:
    module(folder, "loader_tasks", "from loader_main import app\n@app.task\ndef t(): ...\n")
    module(folder, "loader_main", APP.replace("'loaded'", "'loaded', include=['loader_tasks']"))

    assert "loader_tasks.t" in load_app("loader_main:app").tasks


def test_autodiscover_imports_tasks_modules_and_shows_their_errors(folder: Path) -> None:
    for package, text in (
        ("disc_one", "found = 1\n"),
        ("disc_two", "import no_such_dependency\n"),
        ("disc_none", None),
    ):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text("")
        if text:
            (folder / package / "tasks.py").write_text(text)
    app = CloudQ("x")
    app.autodiscover_tasks(["disc_one", "disc_none"])
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        app.autodiscover_tasks(["disc_two"])
