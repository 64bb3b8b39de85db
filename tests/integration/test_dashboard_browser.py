"""The dashboard in a real browser, before a real worker on SQLite: every page, an action each, live, on a phone.

``CLOUDQ_TEST_SCREENSHOTS=docs/img`` keeps pictures of the main pages.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from worker_processes import eventually

from cloudq import CloudQ
from cloudq.control.deadletters import DeadLetters

playwright = pytest.importorskip(
    "playwright.sync_api", reason="no Playwright: pip install -r requirements/dev.txt"
)
pytest.importorskip("uvicorn")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TOKEN = "a-token-nobody-can-guess"
PATIENCE = 60_000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(BROWSER is None, reason="no browser: apt-get install chromium"),
]

APP = textwrap.dedent(
    """
    import time
    from cloudq import CloudQ, crontab

    app = CloudQ("shop", monitoring="history", result_extended=True, worker_heartbeat_interval=1.0)

    @app.task(name="shop.orders.price", queue="orders")
    def price(order, rate=1.0):
        return {"order": order, "total": round(19.9 * rate, 2)}

    @app.task(name="shop.orders.total", queue="orders")
    def total(parts):
        return sum(each["total"] for each in parts)

    @app.task(name="shop.mail.send", queue="mail", sensitive="address")
    def send(address, subject):
        if subject == "broken":
            raise ValueError(f"no template {subject!r} <script>document.title = 'broken'</script>")
        return "sent"

    @app.task(name="shop.reports.nightly", queue="reports")
    def nightly(seconds=0):
        time.sleep(seconds)
        return "done"

    app.add_periodic_task(crontab(hour=3, minute=30), nightly.s(), name="nightly report")
    app.add_periodic_task(900.0, price.s(7), name="price check")
    """
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dashboard")
    (folder / "shopapp.py").write_text(APP)
    return folder


@pytest.fixture(scope="module")
def app(place: Path) -> Iterator[CloudQ]:
    url = f"sqlite:///{place / 'shop.db'}"
    with CloudQ("shop", broker=url, backend=url) as app:
        yield app


def started(place: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    url = f"sqlite:///{place / 'shop.db'}"
    environment = {
        **os.environ, "PYTHONPATH": f"{place}{os.pathsep}{os.getcwd()}", "CLOUDQ_APP": "shopapp:app",
        "CLOUDQ_BROKER_URL": url, "CLOUDQ_RESULT_BACKEND": url, **more,
    }  # fmt: skip
    with (place / f"{arguments[0]}.log").open("a") as log:
        command = [sys.executable, "-m", "cloudq", *arguments]
        return subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=log, text=True)


def stopped(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture(scope="module")
def worker(place: Path) -> Iterator[None]:
    process = started(
        place, "worker", "-c", "2", "-P", "prefork", "-n", "worker1@shop", "-Q", "orders,mail,reports"
    )
    yield
    stopped(process)


@pytest.fixture(scope="module")
def url(place: Path, worker: None) -> Iterator[str]:
    process = started(place, "dashboard", "--port", "0", "--interval", "0.5", CLOUDQ_DASHBOARD_TOKEN=TOKEN)
    log = place / "dashboard.log"
    until = time.monotonic() + 150
    while not (found := re.search(r"dashboard: (http://\S+)/ ", log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)
    yield found[1]
    stopped(process)
    assert "Traceback" not in log.read_text()
    assert process.returncode == 0, log.read_text()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        made = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


@pytest.fixture
def page(chromium: Any, url: str) -> Iterator[Any]:
    context = chromium.new_context(viewport={"width": 1240, "height": 800})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if "Content Security" in said.text else None)
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(f"{url}/")
    page.fill("input[name=token]", TOKEN)
    page.click("button.main")
    page.wait_for_selector("h1:has-text('Queues')")
    yield page
    context.close()
    assert faults == []


@pytest.fixture
def picture(url: str) -> Callable[..., None]:
    folder = os.environ.get("CLOUDQ_TEST_SCREENSHOTS")

    def keep(page: Any, name: str, **options: Any) -> None:
        if folder:
            page.wait_for_load_state("load")
            page.screenshot(path=f"{folder}/dashboard-{name}.png", **options)

    return keep


def said(page: Any, text: str) -> None:
    page.wait_for_selector(f".flash:has-text({text!r})")


def test_every_page_and_an_action_each(
    page: Any, url: str, app: CloudQ, picture: Callable[..., None]
) -> None:
    from cloudq import chord

    def price(order: int) -> Any:
        return app.signature("shop.orders.price", (order,), options={"queue": "orders"})

    # live: a queue fills and empties under the eyes of whoever looks
    page.wait_for_selector("#status .pulse.good:has-text('1 worker')")
    page.wait_for_selector("html[data-looks]", state="attached")
    app.control.pause("mail")
    page.wait_for_selector("tr:has-text('mail') .state.warn:has-text('paused')")
    eventually("the worker has stopped taking mail", lambda: "mail" in app.control.workers()[0].paused)
    for n in range(30):
        app.send_task("shop.mail.send", (f"card-{n}@example.org", "welcome"), queue="mail")
    page.wait_for_selector("tr:has(a:text-is('mail')) td[data-l=Ready]:text-is('30')")

    # queues: resume
    page.click("tr:has(a:text-is('mail')) button:has-text('Resume')")
    said(page, "mail goes on.")
    page.wait_for_selector("tr:has(a:text-is('mail')) td[data-l=Ready]:text-is('0')")
    workflow = chord(
        [price(n) for n in range(6)], app.signature("shop.orders.total", options={"queue": "orders"})
    )
    total = workflow.delay()
    assert total.get(timeout=60) > 0
    broken = app.send_task("shop.mail.send", ("ada@example.org", "broken"), queue="mail")
    with pytest.raises(ValueError, match="no template"):
        broken.get(timeout=60)
    app.send_task("shop.orders.prise", (12,), queue="orders")
    slow = app.send_task("shop.reports.nightly", (300,), queue="reports")
    letters = DeadLetters(app.broker, "orders", 0.0)
    page.wait_for_selector("tr:has(a:text-is('orders')) td[data-l=Dead] a:text-is('1')")
    picture(page, "queues")
    page.click("td a:text-is('orders')")
    page.wait_for_selector("figure")

    # workers
    page.click("nav a:has-text('Workers')")
    page.wait_for_selector(".state.good:has-text('online')")
    page.click("a:text-is('worker1@shop')")
    page.wait_for_selector("h2:has-text('Running')")
    page.click("button:has-text('One more at once')")
    said(page, "one task more at once")
    page.wait_for_selector("dd:has-text('prefork × 3')")
    picture(page, "worker")

    # tasks, searched
    page.click("nav a:has-text('Tasks')")
    page.wait_for_selector("tr:has-text('shop.reports.nightly')")
    page.wait_for_selector("td:has-text('ValueError')")
    assert "example.org" not in page.content()
    picture(page, "tasks")
    page.select_option("select[name=state]", "FAILURE")
    page.click("button:has-text('Search')")
    page.wait_for_selector("h2:has-text('Found')")
    assert page.locator("tbody tr").count() == 1
    page.click("tbody a:has-text('shop.mail.send')")
    page.wait_for_selector("dd.value.bad:has-text('document.title')")
    assert page.title().startswith("shop.mail.send")
    page.click("button:has-text('Retry')")
    said(page, "Sent anew, as")

    # one task: its workflow; revoked while it runs
    page.goto(f"{url}/tasks/{total.id}")
    page.wait_for_selector(".tree .group:has-text('group of 6')")
    assert page.locator(".tree .node.good").count() == 8
    picture(page, "task")
    page.goto(f"{url}/tasks/{slow.id}")
    page.wait_for_selector("dt:has-text('Runs on')")
    page.click("button:has-text('Terminate')")
    said(page, "is revoked")

    # dead letters: edited and sent back
    page.click("nav a:has-text('Dead letters')")
    page.click("td a:text-is('orders')")
    page.wait_for_selector("tr:has-text('shop.orders.prise') .state.bad")
    picture(page, "letters")
    page.click("td a:has-text('shop.orders.prise')")
    page.fill("textarea", page.input_value("textarea").replace("prise", "price"))
    picture(page, "letter")
    page.click("button:has-text('Send back with changes')")
    said(page, "was changed and sent back")
    assert letters.peek(10) == []

    # schedules: run now, pause
    page.click("nav a:has-text('Schedules')")
    picture(page, "schedules")
    page.click("tr:has-text('price check') button:has-text('Run now')")
    said(page, "one run was sent")
    page.click("tr:has-text('nightly report') button:has-text('Pause')")
    said(page, "nightly report is paused")
    page.wait_for_selector("tr:has-text('nightly report') .state.warn")

    page.click("button:has-text('Sign out')")
    page.wait_for_selector("input[name=token]")


def test_on_a_phone_no_page_is_wider_than_the_screen(
    chromium: Any, page: Any, url: str, app: CloudQ, picture: Callable[..., None]
) -> None:
    app.send_task("shop.mail.send", ("ada@example.org", "welcome"), queue="mail").get(timeout=60)
    eventually("the pages have something to show", lambda: app.history.query().entries)
    page.set_viewport_size({"width": 375, "height": 760})
    for path in (
        "/",
        "/queues/orders",
        "/workers",
        "/workers/worker1@shop",
        "/tasks",
        "/dead",
        "/dead/orders",
        "/schedules",
    ):
        page.goto(url + path)
        page.wait_for_selector("main h1")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, path
    page.emulate_media(color_scheme="dark")
    page.goto(f"{url}/")
    page.wait_for_selector("main table")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 18, 24)"
    picture(page, "phone")
    page.set_viewport_size({"width": 1240, "height": 800})
    page.goto(f"{url}/tasks")
    page.wait_for_selector("main table")
    picture(page, "dark")
