"""What a learner does, in a real browser: run the lesson, move its slider, answer an exercise.

JupyterLab serves a copy of the course, with settings of its own. CTKD_SCREENSHOTS names a folder for pictures.
"""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from ctkd_lessons.course.lessons import ROOT

pytestmark = pytest.mark.timeout(600)

LESSON = "01_soft_targets"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
SECONDS = 1000  # Playwright counts in milliseconds

# `ctkd lab` itself, so that its options are tested too, only in another folder.
LAB = "import sys, pathlib; from ctkd_lessons.course import cli; cli.ROOT = pathlib.Path(sys.argv.pop(1)); cli.app()"

# JupyterLab shows a traceback as one or the other; nothing else should come out in red either.
ERROR = ", ".join(f'[data-mime-type="application/vnd.jupyter.{kind}"]' for kind in ("error", "stderr"))
PROMPT = ".jp-InputPrompt"

# Done means: every cell that holds code has its number. An error ends the run early.
DONE_OR_FAILED = """error => {
    const cells = [...document.querySelectorAll('.jp-CodeCell')];
    const ran = cell => /\\[\\d+\\]/.test(cell.querySelector('.jp-InputPrompt').textContent);
    return document.querySelector(error) !== null || (cells.length > 0 && cells.every(ran));
}"""

SWAPPED = """\
def kd_loss(student_logits, teacher_logits, temperature):
    log_s = F.log_softmax(student_logits / temperature, dim=-1)
    log_t = F.log_softmax(teacher_logits.detach() / temperature, dim=-1)
    return temperature**2 * (log_s.exp() * (log_s - log_t)).sum(dim=-1).mean()"""
RIGHT = SWAPPED.replace("(log_s.exp() * (log_s - log_t))", "(log_t.exp() * (log_t - log_s))")


@dataclass(frozen=True)
class Server:
    """A running JupyterLab."""

    address: str
    token: str

    def page(self, notebook: str) -> str:
        """Return where a notebook opens, in a workspace of its own: no tab of another page comes back in it."""
        return f"{self.address}/lab/workspaces/{Path(notebook).parts[0]}/tree/{notebook}?token={self.token}"

    def ask(self, path: str, method: str = "GET") -> None:
        """Send a request; raise ``OSError`` if nobody answers."""
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(self.address + path, method=method, headers=headers)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        direct.open(request, timeout=10).close()


# --- the course, its server, a browser --------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, BROWSERS)), playwright.chromium.executable_path)
        if not Path(found).exists():
            pytest.skip(f"no browser: none of {', '.join(BROWSERS)} on PATH, nor Playwright's own")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"] if AS_ROOT else [])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def asked_proxy() -> Iterator[tuple[int, list[str]]]:
    """Listen where the server and its kernels are told a proxy is; yield the port and what arrived."""
    arrived: list[str] = []

    def listen() -> None:
        with suppress(OSError):  # the socket was closed: the end
            while True:
                connection, _ = trap.accept()
                connection.settimeout(5)
                arrived.append("a connection")
                with suppress(OSError), connection:
                    arrived[-1] = connection.recv(200).decode(errors="replace")

    with socket.create_server(("127.0.0.1", 0)) as trap:
        threading.Thread(target=listen, daemon=True).start()
        yield trap.getsockname()[1], arrived


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what a learner has, with one exercise sheet begun."""
    folder = tmp_path_factory.mktemp("course")
    for part in ("notebooks", "exercises", "solutions"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "my_work" / LESSON).mkdir(parents=True)
    shutil.copy(folder / "exercises" / LESSON / f"{LESSON}.ipynb", folder / "my_work" / LESSON)
    return folder


# The browser comes first: without one there is nothing to start.
@pytest.fixture(scope="module")
def server(
    browser: Browser, course: Path, asked_proxy: tuple[int, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("jupyter")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Server(f"http://127.0.0.1:{port}", secrets.token_hex(16))
    options = ["--no-browser", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    command = [sys.executable, "-c", LAB, str(course), "lab", *options, f"--ServerApp.token={server.token}"]
    log = home / "log.txt"
    with log.open("w", encoding="utf-8") as file:
        # A session of its own, so that the server and whatever it started can be ended together.
        process = subprocess.Popen(
            command, env=_environment(home, asked_proxy[0]), stdout=file, stderr=file, start_new_session=True
        )
        try:
            _wait_for(server, process, log)
            yield server
        finally:
            _stop(server, process)


def _environment(home: Path, proxy: int) -> dict[str, str]:
    """Return the server's environment: none of the user's Jupyter settings, and a proxy that is a trap."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("JUPYTER", "CTKD", "NBGRADER"))}
    folders = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "IPYTHONDIR")
    ours |= {name: str(home / name.lower()) for name in folders}
    # Some versions keep only the visible cells in the page; we want to read them all.
    tracker = Path(ours["JUPYTERLAB_SETTINGS_DIR"]) / "@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text(json.dumps({"windowingMode": "none"}), encoding="utf-8")
    ours["CTKD_INTERVIEW"] = str(home / "interview.sqlite")  # never the user's own
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        ours[name] = ours[name.lower()] = f"http://127.0.0.1:{proxy}"
    ours["NO_PROXY"] = ours["no_proxy"] = "127.0.0.1,localhost"
    return ours


def _wait_for(server: Server, process: subprocess.Popen[bytes], log: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return server.ask("/api/status")
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')}")
            time.sleep(0.3)


def _stop(server: Server, process: subprocess.Popen[bytes]) -> None:
    """Ask the server to go, which ends its kernels too; insist if it does not."""
    with suppress(OSError, subprocess.TimeoutExpired):
        server.ask("/api/shutdown", method="POST")
        process.wait(30)
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()


@pytest.fixture(scope="module")
def requested() -> list[str]:
    """Collect every address that a page asked for."""
    return []


@pytest.fixture(scope="module")
def context(browser: Browser, requested: list[str]) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    context.on("request", lambda request: requested.append(request.url))
    context.on("page", lambda page: page.on("websocket", lambda socket: requested.append(socket.url)))
    context.set_default_timeout(60 * SECONDS)  # a busy machine may be slow
    expect.set_options(timeout=60 * SECONDS)
    yield context
    context.close()


@pytest.fixture(scope="module")
def lesson(context: BrowserContext, server: Server) -> Page:
    """Open the lesson and run all of it, from a fresh kernel and without old outputs."""
    page = context.new_page()
    with photographed(page, "lesson"):
        open_notebook(page, server.page(f"notebooks/{LESSON}.ipynb"))
        menu(page, "Edit", "Clear Outputs of All Cells")
        expect(page.locator(".jp-OutputArea-output")).to_have_count(0)
        photograph(page, "1-lesson-top")
        menu(page, "Run", "Restart Kernel and Run All Cells…")
        page.locator(".jp-Dialog .jp-mod-accept").click()
        page.wait_for_function(DONE_OR_FAILED, arg=ERROR, timeout=300 * SECONDS, polling=500)
        wait_until_idle(page)
    return page


@pytest.fixture(scope="module")
def sheet(context: BrowserContext, server: Server) -> Page:
    """Open the learner's exercise sheet and run its imports."""
    page = context.new_page()
    with photographed(page, "sheet"):
        open_notebook(page, server.page(f"my_work/{LESSON}/{LESSON}.ipynb"))
        run(cell(page, "import check"))
    return page


# --- what a learner's hands do ----------------------------------------------------------------


def open_notebook(page: Page, address: str) -> None:
    page.goto(address)
    page.locator(".jp-NotebookPanel:visible .jp-CodeCell").first.wait_for()
    wait_until_idle(page)


def wait_until_idle(page: Page) -> None:
    # The status bar, because the notebook's own sign says "idle" also before there is a kernel.
    expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle")


def menu(page: Page, title: str, entry: str) -> None:
    page.get_by_role("menuitem", name=title, exact=True).click()
    page.get_by_role("menuitem", name=entry, exact=True).click()


def cell(page: Page, code: str) -> Locator:
    """Return the one code cell whose source contains ``code``."""
    return page.locator(".jp-CodeCell").filter(has=page.locator(".cm-content", has_text=code))


def type_into(cell: Locator, code: str) -> None:
    cell.locator(".cm-content").click()
    cell.page.keyboard.press("ControlOrMeta+A")
    cell.page.keyboard.insert_text(code)  # at one go: no key press that closes a bracket or indents a line
    expect(cell.locator(".cm-line")).to_have_text(code.splitlines())


def run(cell: Locator) -> None:
    """Run one cell and wait until it has a new number."""
    before = cell.locator(PROMPT).inner_text()
    cell.locator(PROMPT).click()
    cell.page.keyboard.press("Control+Enter")
    expect(cell.locator(PROMPT)).not_to_have_text(before)
    expect(cell.locator(PROMPT)).to_have_text(re.compile(r"\[\d+\]"))
    wait_until_idle(cell.page)


def picture(image: Locator) -> str:
    """Return the picture's bytes, in base64, once the browser has loaded it."""
    return image.evaluate("""async image => {
        await image.decode();
        const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
        return btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(''));
    }""")


def photograph(page: Page, name: str) -> None:
    if folder := os.environ.get("CTKD_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


@contextmanager
def photographed(page: Page, name: str) -> Iterator[None]:
    """Keep a picture of the page if something fails."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # the failure itself matters more
            photograph(page, f"failed-{name}")
        raise


def outputs(page: Page, selector: str = ".jp-OutputArea-output") -> list[str]:
    return page.locator(selector).all_text_contents()


# --- the tests --------------------------------------------------------------------------------


def test_the_lesson_runs_and_its_claims_hold(lesson: Page, course: Path) -> None:
    with photographed(lesson, "claims"):
        assert outputs(lesson, ERROR) == []
        assert outputs(lesson, ".jp-toastContainer") == [], "a learner is asked something before they begin"
        assert not [text for text in outputs(lesson) if "BROKEN" in text]
        cells = json.loads((course / "notebooks" / f"{LESSON}.ipynb").read_text(encoding="utf-8"))["cells"]
        made = re.findall(r"^claim\(", "\n".join("".join(one["source"]) for one in cells), re.MULTILINE)
        held = [text for text in outputs(lesson) if text.startswith("holds")]
        assert len(held) >= len(made) > 0


def test_the_slider_redraws_the_picture(lesson: Page) -> None:
    with photographed(lesson, "slider"):
        slider = lesson.locator(".widget-slider", has_text="temperature T")
        image = lesson.locator("img.ctkd-temperature")
        image.scroll_into_view_if_needed()
        photograph(lesson, "2-widget-before")
        readout, before = slider.locator(".widget-readout").inner_text(), picture(image)
        for _ in range(5):  # each press takes the focus anew: a cell that ends its run may have taken it
            slider.locator(".noUi-handle").press("ArrowRight")
        expect(slider.locator(".widget-readout")).not_to_have_text(readout)
        # Each press draws a picture; wait for the last one.
        shown, deadline = before, time.monotonic() + 60
        while (now := picture(image)) == before or now != shown:
            assert time.monotonic() < deadline, "the picture did not change, or did not come to rest"
            shown = now
            lesson.wait_for_timeout(1 * SECONDS)
        photograph(lesson, "3-widget-after")


def test_the_panel_names_the_mistake_and_then_praises(sheet: Page) -> None:
    answer, check = cell(sheet, "def kd_loss("), cell(sheet, 'check("01.kd_loss"')
    panel = check.locator("div.ctkd-check")
    with photographed(sheet, "panel"):
        for code, verdict, name in (
            (SWAPPED, "teacher and student swapped", "4-panel-wrong"),
            (RIGHT, "✔ 01.kd_loss", "5-panel-right"),
        ):
            type_into(answer, code)
            run(answer)
            run(check)
            expect(panel).to_contain_text(verdict)
            panel.evaluate("panel => panel.scrollIntoView({block: 'center'})")
            photograph(sheet, name)
        assert outputs(sheet, ERROR) == []


# Last, because it looks back on all that went before.
def test_nothing_left_this_machine(
    lesson: Page, sheet: Page, requested: list[str], asked_proxy: tuple[int, list[str]]
) -> None:
    local = {"http", "https", "ws", "wss"}
    hosts = {parts.hostname for parts in map(urlsplit, requested) if parts.scheme in local}
    others = {parts.scheme for parts in map(urlsplit, requested)} - local
    assert hosts <= {"127.0.0.1", "localhost"}
    assert others <= {"data", "blob"}
    assert any("/api/kernels/" in address for address in requested), "the record of requests is incomplete"
    assert asked_proxy[1] == []
