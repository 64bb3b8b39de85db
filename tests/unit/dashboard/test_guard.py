"""Who may enter a dashboard, from where, and what strangers' pages cannot have it do."""

import asyncio
import re
from typing import Any

import pytest
from dashboard_browser import Browser
from typer.testing import CliRunner

from cloudq import CloudQ
from cloudq.cli.main import cli
from cloudq.dashboard import make_app
from cloudq.dashboard.forms import local_path
from cloudq.dashboard.guard import host_name
from cloudq.errors import ImproperlyConfigured
from cloudq.testing.clock import ManualClock

TOKEN = "a-token-nobody-can-guess"


@pytest.mark.parametrize("path", ["/", "/tasks", "/nope", "/static/style.css", "/static/nope.css"])
def test_every_answer_has_its_security_headers(browser: Browser, path: str) -> None:
    headers = browser.client.get(path).headers
    policy = headers["content-security-policy"]
    for part in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
        assert part in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] == ("public, max-age=3600" if path.startswith("/static") else "no-store")


def test_no_page_has_a_script_or_a_style_of_its_own(browser: Browser) -> None:
    for path in ("/", "/queues/a", "/workers", "/workers/w1", "/tasks", "/tasks/t-0"):
        page = browser.get(path)
        assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
        assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", page) == []


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:5555", ""]
)
def test_a_name_that_was_rebound_to_this_machine_is_refused(app: CloudQ, host: str) -> None:
    browser = Browser(app)
    assert "is not one of this dashboard's" in browser.get("/", 400, host=host)
    assert "set-cookie" not in browser.client.get("/", headers={"host": host}).headers


@pytest.mark.parametrize(
    "host",
    ["localhost:99999", "localhost:x", "localhost:/static/", "localhost:80?x=", "localhost:#", "a/static/", "a b", "[::1", "é", "@"],
)  # fmt: skip
def test_what_is_no_host_name_is_refused_whoever_may_come(app: CloudQ, host: str) -> None:
    for options in ({}, {"token": TOKEN}):
        browser = Browser(app, **options)
        for path in ("/", "/login", "/static/style.css"):
            said = browser.client.get(path, headers={b"host": host.encode("latin-1")})
            assert (said.status_code, "is no host name" in said.text) == (400, True)


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "null", "\x7f", "http://é"])
def test_a_form_of_no_address_at_all_is_refused(app: CloudQ, origin: str) -> None:
    browser = Browser(app)
    fields = {"csrf": browser.csrf("/"), "queue": "a"}
    said = browser.client.post("/do/pause-queue", data=fields, headers={b"origin": origin.encode("latin-1")})
    assert said.status_code == 403


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:5555", "[::1]:5555", "LOCALHOST:80"])
def test_the_machines_own_names_are_taken(app: CloudQ, host: str) -> None:
    Browser(app).get("/", host=host)


def test_names_can_be_allowed(app: CloudQ) -> None:
    browser = Browser(app, host="cloudq.internal", token=TOKEN, allowed_hosts=("CloudQ.internal",))
    browser.get("/login")
    browser.get("/login", 400, host="localhost")


def test_without_a_sign_in_only_this_machine_may_look(app: CloudQ) -> None:
    assert "browsers of its own machine only" in Browser(app, client="10.1.2.3").get("/", 403)
    assert "browsers of its own machine only" in Browser(app).get("/", 403, **{"x-forwarded-for": "8.8.8.8"})
    Browser(app, client="::1").get("/")


def test_a_token_lets_in_and_leads_back(app: CloudQ) -> None:
    browser = Browser(app, host="dash.example", client="10.1.2.3", token=TOKEN)
    sent = browser.client.get("/tasks?state=FAILURE")
    assert (sent.status_code, sent.headers["location"]) == (303, "/login?next=%2Ftasks%3Fstate%3DFAILURE")
    csrf = browser.csrf(sent.headers["location"])
    wrong = browser.post("/login", {"csrf": csrf, "token": TOKEN + "x", "next": "/tasks"}, 403)
    assert "That is not the token" in wrong.text
    right = browser.post("/login", {"csrf": csrf, "token": TOKEN, "next": "/tasks?state=FAILURE"})
    assert right.headers["location"] == "/tasks?state=FAILURE"
    cookie = right.headers["set-cookie"]
    for part in ("HttpOnly", "SameSite=Lax", "Path=/;", "Max-Age=43200"):
        assert part in cookie
    assert TOKEN not in cookie
    browser.get("/tasks")

    kept = dict(browser.client.cookies)
    browser.post("/logout", {"csrf": browser.csrf("/")})
    assert browser.client.get("/").status_code == 303
    browser.client.cookies.clear()
    for name, value in kept.items():  # a copy of the cookie is good no longer
        browser.client.cookies.set(name, value)
    assert browser.client.get("/").status_code == 303


def test_a_session_ends_in_time_and_cannot_be_made_up(app: CloudQ, clock: ManualClock) -> None:
    browser = signed_in(app)
    clock.advance(11 * 3600.0)
    first = browser.client.get("/")
    assert "set-cookie" in first.headers  # renewed: it is used
    clock.advance(13 * 3600.0)
    assert browser.client.get("/").status_code == 303

    other = Browser(app, token="another-token-of-another-one")
    other.client.cookies.update(signed_in(app).client.cookies)
    assert other.client.get("/").status_code == 303


def test_processes_with_one_token_know_each_others_sessions(app: CloudQ) -> None:
    other = Browser(app, token=TOKEN)
    other.client.cookies.update(signed_in(app).client.cookies)
    other.get("/")


def test_streams_and_forms_of_strangers_are_told_to_sign_in(app: CloudQ) -> None:
    browser = Browser(app, token=TOKEN)
    browser.get("/live/queues", 401)
    browser.post("/do/pause-queue", {"queue": "a"}, 401)
    assert "a" not in app.control.paused()


def test_signing_in_can_be_tried_so_often_only(app: CloudQ, clock: ManualClock) -> None:
    browser = Browser(app, token=TOKEN, logins_per_minute=3)
    csrf = browser.csrf("/login")
    for _ in range(3):
        browser.post("/login", {"csrf": csrf, "token": "guess"}, 403)
    assert "Too many attempts" in browser.post("/login", {"csrf": csrf, "token": TOKEN}, 429).text
    clock.advance(21.0)
    browser.post("/login", {"csrf": csrf, "token": TOKEN})


@pytest.mark.parametrize(
    "next_", ["https://evil.example", "//evil.example", "/\\evil.example", "evil", "/a\nb", ""]
)
def test_nobody_is_led_away_after_signing_in(app: CloudQ, next_: str) -> None:
    browser = Browser(app, token=TOKEN)
    fields = {"csrf": browser.csrf("/login"), "token": TOKEN, "next": next_}
    assert browser.post("/login", fields).headers["location"] == "/"


def test_a_mounted_dashboard_leads_to_its_own_pages_only() -> None:
    assert local_path("/ops/tasks", "/ops") == "/ops/tasks"
    for text in ("/other", "/ops", "/opsx/", "//ops/", "https:/ops/"):
        assert local_path(text, "/ops") == "/ops/"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_forms_of_other_pages_are_refused(browser: Browser, app: CloudQ, headers: dict[str, str]) -> None:
    fields = {"csrf": browser.csrf(), "queue": "a", "back": "/"}
    assert (
        "not sent from a page of this dashboard"
        in browser.post("/do/pause-queue", fields, 403, **headers).text
    )
    assert "a" not in app.control.paused()


def test_a_form_without_the_sessions_own_mark_does_nothing(browser: Browser, app: CloudQ) -> None:
    stranger = Browser(app)
    for csrf in ("", "0" * 64, stranger.csrf(), "ü"):
        page = browser.post("/do/pause-queue", {"csrf": csrf, "queue": "a"}, 403).text
        assert "belongs to another session" in page
    browser.post("/login", {"csrf": "x", "token": "y"}, 404)  # nobody signs in here
    assert "a" not in app.control.paused()


def test_actions_are_post_only(browser: Browser) -> None:
    browser.get("/do/pause-queue?queue=a", 405)
    assert browser.client.request("DELETE", "/").status_code == 405


def test_actions_can_be_done_so_often_only(app: CloudQ) -> None:
    browser = Browser(app, actions_per_minute=2)
    fields = {"csrf": browser.csrf(), "queue": "a", "back": "/"}
    for _ in range(2):
        browser.post("/do/pause-queue", fields)
    assert "more than 2 actions" in browser.post("/do/pause-queue", fields, 429).text


def test_a_read_only_dashboard_offers_and_does_nothing(app: CloudQ) -> None:
    browser = Browser(app, token=TOKEN, read_only=True)
    browser.post("/login", {"csrf": browser.csrf("/login"), "token": TOKEN})
    for path in ("/", "/queues/a", "/workers/w1", "/tasks/t-0"):
        assert "/do/" not in browser.get(path)
    fields = {"csrf": browser.csrf("/"), "queue": "a"}
    assert "only shows" in browser.post("/do/pause-queue", fields, 403).text
    assert "a" not in app.control.paused()


def test_a_reverse_proxy_names_the_user(app: CloudQ, caplog: pytest.LogCaptureFixture) -> None:
    options: dict[str, Any] = {"auth_header": "X-Forwarded-User", "trusted_proxies": ("10.0.0.0/8",)}
    browser = Browser(app, host="dash.example", client="10.9.9.9", **options)
    assert "has not named a user" in browser.get("/", 403)
    browser.client.headers["x-forwarded-user"] = "ada"
    browser.client.headers["x-forwarded-proto"] = "https"
    assert "; Secure" in browser.client.get("/").headers["set-cookie"]
    browser = Browser(app, scheme="https", host="dash.example", client="10.9.9.9", **options)
    browser.client.headers.update({"x-forwarded-user": "ada", "x-forwarded-host": "cloudq.example"})
    browser.origin = "https://cloudq.example"
    with caplog.at_level("INFO", "cloudq.dashboard"):
        assert "is paused" in browser.said("pause-queue", queue="a")
    assert "'ada' (10.9.9.9): pause-queue {'queue': 'a'}" in caplog.text

    elsewhere = Browser(app, host="dash.example", client="192.168.1.1", **options)
    elsewhere.get("/", 403, **{"x-forwarded-user": "ada"})


def test_the_app_it_is_mounted_in_may_say_who_enters(app: CloudQ) -> None:
    async def known(request: Any) -> str | None:
        await asyncio.sleep(0)
        return request.headers.get("x-session-of")

    browser = Browser(app, host="shop.example", client="8.8.8.8", authenticate=known)
    browser.get("/", 403)
    browser.get("/", **{"x-session-of": "ada"})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"token": "short"}, "at least 16 characters"),
        ({"token": TOKEN, "auth_header": "X-User"}, "in one way"),
        ({"auth_header": "X User"}, "a header's name"),
        ({"trusted_proxies": ("nowhere",)}, "addresses or networks"),
        ({"interval": 0}, "seconds above 0"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(app: CloudQ, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=said):
        make_app(app, **options)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "::", "dash.example"])
def test_a_public_address_without_a_sign_in_does_not_start(host: str) -> None:
    done = CliRunner().invoke(cli, ["dashboard", "--host", host, "--broker", "memory://"])
    assert done.exit_code == 1
    assert "without a sign-in: set CLOUDQ_DASHBOARD_TOKEN" in done.stderr


def test_an_app_without_results_has_no_dashboard() -> None:
    done = CliRunner().invoke(cli, ["dashboard", "--broker", "memory://", "--result-backend", "disabled://"])
    assert done.exit_code == 1
    assert "stores no results" in done.stderr


def test_forms_that_are_none_are_refused(browser: Browser) -> None:
    csrf = browser.csrf()
    for content, kind, status in (
        (b"{}", "application/json", 415),
        (b"a=%ff%fe", "application/x-www-form-urlencoded", 400),
        (b"x" * (4 * 1024 * 1024 + 1), "application/x-www-form-urlencoded", 413),
        (b"&".join([b"a=1"] * 6_000), "application/x-www-form-urlencoded", 400),
        (f"csrf={csrf}".encode(), "application/x-www-form-urlencoded", 303),
    ):
        headers = {"content-type": kind, "origin": browser.origin}
        response = browser.client.post("/do/pause-queue", content=content, headers=headers)
        assert response.status_code == status
    assert "the form has no" in browser.get("/")


@pytest.mark.parametrize("task_id", ["x" * 2_000, ".."])
def test_an_id_that_no_task_can_have_is_told(browser: Browser, task_id: str) -> None:
    if task_id != "..":  # browsers take that for the page above
        assert "No task can have this id" in browser.get(f"/tasks/{task_id}", 404)
    for verb in ("revoke", "retry", "revoke-workflow"):
        assert "key" in browser.said(verb, id=task_id)


def test_hosts_are_read_without_their_ports() -> None:
    assert [host_name(each) for each in ("a.b:80", "[::1]:5", "A", "")] == ["a.b", "::1", "a", ""]


def signed_in(app: CloudQ) -> Browser:
    browser = Browser(app, token=TOKEN)
    browser.post("/login", {"csrf": browser.csrf("/login"), "token": TOKEN})
    return browser
