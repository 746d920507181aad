"""The daemon's page in a browser: headless Chromium, driven by Playwright."""

import re
import shutil
from pathlib import Path

import pytest
from daemon_harness import another, samples

import edgerev.daemon

pytest.importorskip("waitress", reason="the package waitress is not installed")

PAGE = Path(edgerev.daemon.__file__).parent / "page"
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no browser; on Debian: apt install chromium")
    with playwright.sync_playwright() as made:
        found = made.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def running(tmp_path, cache):
    with another(tmp_path, listen="127.0.0.1:0") as daemon:
        yield daemon


def visit(browser, daemon, **options):
    """Return the daemon's page, and what it complained of so far."""
    page, problems = browser.new_page(**{"viewport": DESK, **options}), []
    page.on("console", lambda message: problems.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if f":{daemon.port}/" not in request.url else None)
    page.goto(f"http://127.0.0.1:{daemon.port}/")
    return page, problems


def teach(daemon, count=64):
    assert daemon.ask("POST", "/v1/samples", {"samples": samples(count)})[0] == 202
    assert daemon.ask("POST", "/v1/predict", {"samples": [[3, 0, 0, 0]]})[0] == 200


def test_it_is_small_and_needs_nothing_from_elsewhere():
    files = sorted(PAGE.iterdir())
    assert [file.name for file in files] == ["app.js", "icon.svg", "index.html", "style.css"]
    assert sum(file.stat().st_size for file in files) <= 60_000
    for file in files:
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//\w+\.|@import|\son\w+=|\sstyle=", text), file.name


def test_it_follows_what_happens(browser, running):
    page, problems = visit(browser, running)
    page.wait_for_selector("#state[data-tone=good]")
    assert page.text_content("#accuracy") == "\u2013"
    assert "nothing was learned yet" in page.get_attribute("#chart svg", "aria-label")
    teach(running)
    page.wait_for_selector("#accuracy:has-text('%')")
    page.wait_for_selector("#chart .dot.loss")
    page.wait_for_selector("#unsaved:text-is('64')")
    assert (page.text_content("#queue"), page.text_content("#queue-note")) == ("0", "samples")
    page.wait_for_selector("#state-text:text-is('Idle')")
    assert re.match(r"Accuracy and loss from .* 0 drifts, 0 rollbacks", page.get_attribute("#chart svg", "aria-label"))
    page.wait_for_selector("#answers tr")
    assert page.locator("#answers tr td").nth(1).text_content() in ("left", "right", "rest")
    running.ask("POST", "/v1/control", {"do": "pause"})
    page.wait_for_selector("#state[data-tone=wait]")
    assert page.text_content("#state-text") == "Paused"
    assert "paused" in page.text_content("#events")
    assert re.search(r"parameters.*\d.B", page.text_content("#arena-list"))
    running.end()
    page.wait_for_selector("#state-text:text-is('No connection')")
    assert all("ERR_CONNECTION_REFUSED" in problem for problem in problems)
    page.close()


def test_the_chart_has_what_was_measured_when_it_was(browser, tmp_path, cache):
    tables = "[serve.training]\ngeneration_samples = 64\n[serve.guard]\nwindow = 64"
    with another(tmp_path, tables, listen="127.0.0.1:0") as daemon:
        page, problems = visit(browser, daemon)
        page.wait_for_selector("#state[data-tone=good]")
        for count in (72, 56):
            teach(daemon, count)
        daemon.until(lambda status: status["trained"] == 128)
        daemon.ask("POST", "/v1/control", {"do": "rollback"})
        page.wait_for_selector("#chart path.rollback:not(.stem)")  # it came after the newest point
        history = daemon.ask("GET", "/v1/history")[1]
        assert [point[1] for point in history["points"]] == [64, 128]
        assert page.evaluate("measured().at(-1)") == history["points"][-1]
        fresh, _ = visit(browser, daemon)
        fresh.wait_for_selector("#chart .dot.loss")
        assert fresh.evaluate("measured()") == history["points"]
        place = fresh.get_attribute("#chart .dot.loss", "cx")
        page.wait_for_function("x => document.querySelector('#chart .dot.loss').getAttribute('cx') === x", arg=place)
        assert problems == []
        for one in (page, fresh):
            one.close()


@pytest.mark.long
def test_it_comes_back_after_a_restart(browser, running):
    page, _ = visit(browser, running)
    page.wait_for_selector("#state[data-tone=good]")
    port = running.port
    running.end()
    page.wait_for_selector("#state[data-tone=off]")
    text = (running.folder / "edgerev.toml").read_text()
    (running.folder / "edgerev.toml").write_text(text.replace("127.0.0.1:0", f"127.0.0.1:{port}"))
    running.start()
    page.wait_for_selector("#state[data-tone=good]")
    page.close()


def test_the_keyboard_is_enough(browser, running):
    page, problems = visit(browser, running)
    page.wait_for_selector("#toggle:visible")
    for name in ("Pause", "Save"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == name
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#state-text:text-is('Paused')")
    assert running.ask("GET", "/v1/status")[1]["waits_for"] == "paused"
    page.keyboard.press("Space")
    page.wait_for_selector("#toggle:text-is('Pause')")
    assert running.ask("GET", "/v1/status")[1]["waits_for"] == ""
    assert problems == []
    page.close()


@pytest.mark.long
@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
def test_nothing_hangs_over(browser, running, viewport):
    teach(running)
    page, problems = visit(browser, running, viewport=viewport)
    page.wait_for_selector("#chart .dot.loss")
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    for box in page.locator(":is(.panel, .tiles dl, button):visible").all():
        found = box.bounding_box()
        assert found["x"] >= 0
        assert found["x"] + found["width"] <= viewport["width"]
    assert problems == []
    page.close()


def test_it_asks_for_the_token(browser, tmp_path, cache):
    with another(tmp_path, listen="127.0.0.1:0", token_file=str(tmp_path / "token")) as daemon:
        page, problems = visit(browser, daemon)
        page.wait_for_selector("#token:focus")
        page.keyboard.type("x" * 43)
        page.keyboard.press("Enter")
        page.wait_for_selector("#login-problem:has-text('not the daemon')")
        page.keyboard.type((tmp_path / "token").read_text().strip())
        page.keyboard.press("Enter")
        page.wait_for_selector("#state[data-tone=good]")
        assert page.is_hidden("#login")
        page.reload()
        page.wait_for_selector("#state[data-tone=good]")  # kept as long as the tab is
        assert page.evaluate("document.cookie + localStorage.length") == "0"
        assert all("401" in problem for problem in problems)
        page.close()


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
def test_accessibility(browser, running, tmp_path, scheme, viewport):
    """The rules of axe-core, with all that the page can show open."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    teach(running)
    running.ask("POST", "/v1/control", {"do": "pause"})
    page, _ = visit(browser, running, viewport=viewport, color_scheme=scheme)
    page.wait_for_selector("#state[data-tone=wait]")
    page.click("summary")
    for selector in ("#login", "#rollback", "#notice", "#accepted-legend"):
        page.evaluate(f"document.querySelector('{selector}').hidden = false")
    page.evaluate("document.querySelector('#notice').textContent = 'The disk is full.'")
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.close()
