"""The command `view` from end to end: it follows a run, and answers this computer alone."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from report.run_files import log
from report.synthetic_drawing_run import DrawingStory, write_drawing_run
from report.synthetic_run import Story, write_run

from sightloop.cli import main

pytest.importorskip("uvicorn", reason="the page is served with starlette and uvicorn (extra `web`)")
pytest.importorskip("starlette", reason="the page is served with starlette and uvicorn (extra `web`)")


@contextmanager
def viewed(*folders: Path) -> Iterator[tuple[str, int]]:
    """The address that the command prints; it is ended with Ctrl-C."""
    words = [sys.executable, "-m", "sightloop", "view", *map(str, folders), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        line = running.stdout.readline()
        found = re.match(r"http://(127\.0\.0\.1):(\d+) \(this computer alone; end with Ctrl-C\)", line)
        try:
            assert found is not None, line
            yield found[1], int(found[2])
        finally:
            running.send_signal(2)
            assert running.wait(timeout=60) in (0, 130)


def asked(place: tuple[str, int], path: str, *, body: Any = None, **headers: str) -> tuple[int, str]:
    """Status and text of an answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    content = None if body is None else json.dumps(body)
    with closing(http.client.HTTPConnection(*place, timeout=120)) as connection:
        connection.request("GET" if body is None else "POST", path, content, named)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of captions."""
    folder = tmp_path_factory.mktemp("runs") / "captions"
    return write_run(folder, Story(steps=40, planned=80, evaluate_every=20, gallery_every=20))


def test_the_page_follows_the_run(run: Path) -> None:
    with viewed(run) as place:
        status, page = asked(place, "/")
        assert status == 200 and "R@1 rose from" in page and "step 40 of 80" in page
        assert 'src="/page.js"' in page and 'type="file"' in page
        before = json.loads(asked(place, "/state/0")[1])
        log(run, "train", {41: {"reward/total": 77.0}})
        after = json.loads(asked(place, "/state/0")[1])
        changed = {name for name in before if before[name] != after[name]}
        assert changed == {"top", "curves", "learning"}
        assert "highest 77.0" in asked(place, "/part/0/curves")[1]
        assert asked(place, "/state/0")[1] == json.dumps(after, separators=(",", ":"))


def test_only_this_computer_and_only_images_of_the_run_are_served(run: Path) -> None:
    with viewed(run) as place:
        image = re.findall(r'src="(/image/0/[^"]+)"', asked(place, "/")[1])[0]
        assert asked(place, image)[0] == 200
        (run.parent / "outside.png").write_bytes((run / image.removeprefix("/image/0/")).read_bytes())
        for path in ("/image/0/../outside.png", "/image/0/%2e%2e/outside.png", "/image/0/config.json"):
            assert asked(place, path)[0] == 404
        assert asked(place, f"/image/0/{run.parent / 'outside.png'}")[0] == 404
        assert asked(place, "/", Host="evil.example")[0] == 400
        for path in ("/run/7", "/state/-1", "/state/7", "/part/0/nothing", "/found/0/nothing", "/image/9/a"):
            assert asked(place, path)[0] == 404
        # What a form of another page can send is not listened to.
        assert asked(place, "/try/0", body={"task": "caption"}, Content_Type="text/plain")[0] == 404
        said = asked(place, "/try/0", body={"task": "caption"}, Content_Type="application/json")
        assert json.loads(said[1]) == {"error": "there is no image; drop or choose one first"}


def test_several_runs_are_compared_and_each_has_its_page(run: Path, tmp_path: Path) -> None:
    other = write_drawing_run(tmp_path / "drawings", DrawingStory(steps=50, prompts=6))
    with viewed(run, other) as place:
        status, page = asked(place, "/")
        assert status == 200 and 'href="/run/1"' in page and "2 runs" in page
        status, page = asked(place, "/run/1")
        assert status == 200 and "Drawing and answering" in page and 'name="prompt"' in page
        assert "reward" in asked(place, "/found/1/credit?sort=high")[1]
        assert asked(place, "/found/-1/same?text=a")[0] == 200


def test_what_cannot_be_shown_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, sentence in (
        (["view"], "not given: a run folder, as in `sightloop view runs/NAME`"),
        (["view", str(tmp_path / "nothing")], "no run folder at"),
        (["view", "x", "--port", "70000"], "port is 70000; use 0 or more and at most 65535"),
    ):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2
        assert sentence in capsys.readouterr().err


def test_a_taken_port_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with viewed(run) as (_, port):
        with pytest.raises(SystemExit):
            main(["view", str(run), "--port", str(port)])
        assert f"--port {port}: Address already in use; choose another" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium without a window."""
    library = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium here")
    with library.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


def until(page: Any, expression: str) -> None:
    """Wait until an expression of the page's is true; its policy forbids what playwright waits with."""
    for _ in range(600):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(expression)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_in_a_browser(run: Path, browser: Any, width: int, scheme: str) -> None:
    with viewed(run) as (host, port):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
        page.on("request", lambda sent: wrong.append(sent.url) if f"{host}:{port}" not in sent.url else None)
        page.goto(f"http://{host}:{port}/")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        found = page.locator("#samples .found-card")
        assert found.count() == 12
        page.locator("#samples .more").click()
        until(page, "document.querySelectorAll('#samples .found-card').length === 24")
        page.locator("#samples [name=text]").fill("yellow")
        until(page, "location.hash === '#samples?text=yellow'")
        until(
            page,
            "[...document.querySelectorAll('#samples .found-card')].every(c => /yellow/.test(c.textContent))",
        )
        page.locator("#credit [name=step]").fill("0")
        until(page, "document.querySelector('#credit output').innerText === '20'")
        # A link to one card, opened anew.
        page.locator("#samples .link").nth(1).click()
        until(page, "document.querySelectorAll('#samples .found-card').length === 1")
        again = browser.new_page()
        again.goto(page.url)
        until(again, "document.querySelectorAll('#samples .found-card').length === 1")
        assert again.locator("#samples .found-card").text_content() == found.text_content()
        # An image, enlarged.
        page.locator("#samples .found-card img").first.click()
        assert page.locator("#large").is_visible()
        page.keyboard.press("Escape")
        # A new step arrives by itself.
        log(run, "train", {60: {"reward/total": 3.0}})
        until(page, "document.querySelector('#top').innerText.includes('60 of 80')")
        page.close()
        again.close()
        assert wrong == []
