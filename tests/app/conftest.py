import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest


START_SECONDS = 600  # torch, the model and the samples, on a busy machine
ACTION_SECONDS = 120
NOTE_MESSAGES = """
    window.messages = [];
    const note = () => {
        for (const toast of document.querySelectorAll(".toast-body")) {
            if (!window.messages.includes(toast.innerText)) window.messages.push(toast.innerText);
        }
    };
    new MutationObserver(note).observe(document, {subtree: true, childList: true, characterData: true});
"""


@dataclass
class PageServer:
    """A page of the embedded model, in a process of its own."""

    process: subprocess.Popen
    url: str
    folder: Path
    log: list[str]


@pytest.fixture(scope="session")
def studio():
    """The embedded model."""
    pytest.importorskip("gradio")
    from leo_diffusers.app.settings import AppSettings
    from leo_diffusers.app.studio import Studio

    return Studio(AppSettings(device="cpu"))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="session")
def start_page(tmp_path_factory):
    """Starts `leo-diffusers app` with these options, and ends it."""
    processes = []

    def start(*options: str) -> PageServer:
        folder = tmp_path_factory.mktemp("app")
        command = [sys.executable, "-m", "leo_diffusers", "app", "--device", "cpu", "--port", str(free_port())]
        process = subprocess.Popen(
            [*command, *options],
            env={**os.environ, "TMPDIR": str(folder), "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        log, opened = [], threading.Event()

        def read() -> None:  # all of it, or the process would wait for a reader
            for line in process.stdout:
                log.append(line)
                if "open at" in line:
                    opened.set()
            opened.set()

        threading.Thread(target=read, daemon=True).start()
        assert opened.wait(START_SECONDS) and process.poll() is None, "".join(log)
        url = re.search(r"open at (http://127\.0\.0\.1:\d+/)", "".join(log))[1]
        return PageServer(process, url, next(folder.glob("leo-diffusers-app-*")), log)

    yield start
    for process in processes:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="session")
def page_server(start_page) -> PageServer:
    """With limits that are easily passed."""
    return start_page("--max-upload-megabytes", "1", "--max-video-seconds", "10", "--max-endless-seconds", "20")


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Debian's Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium: `apt-get install chromium`")
    with playwright.sync_playwright() as running:
        # Root has no sandbox.
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@dataclass
class Visitor:
    """A page in a browser, of somebody who has not been there before."""

    page: object
    hosts: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)

    def open_tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def click(self, name: str) -> None:
        self.page.locator(f"#{name}").click()

    def set_number(self, name: str, value: float) -> None:
        number = self.page.locator(f"#{name} input[type=number]").first
        number.fill(str(value))
        number.press("Tab")

    def upload(self, name: str, path: Path) -> None:
        self.page.locator(f"#{name} input[type=file]").first.set_input_files(str(path))

    def clear(self, name: str) -> None:
        self.page.locator(f"#{name} button:is([aria-label='Clear'], [aria-label='Remove Image'])").first.click()

    def played(self, name: str) -> str:
        """Waits until a video plays; returns its address."""
        condition = """name => {
            const video = document.querySelector(`#${name} video`);
            return video && video.readyState >= 2 && video.videoWidth > 0 && video.currentTime > 0;
        }"""
        self.page.wait_for_function(condition, arg=name)
        return self.page.locator(f"#{name} video").first.get_attribute("src")

    def message(self, words: str) -> str:
        """Waits for a message that says this, even one that is gone again."""
        found = "words => window.messages.find(message => message.includes(words))"
        return self.page.wait_for_function(found, arg=words).json_value()


@pytest.fixture
def visit(browser, page_server):
    """Opens the page for a new visitor; in the end nobody may have asked another host for anything."""
    contexts, visitors = [], []

    def open_page(url: str | None = None, **options: object) -> Visitor:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        contexts.append(context)
        context.add_init_script(NOTE_MESSAGES)
        page = context.new_page()
        page.set_default_timeout(1000 * ACTION_SECONDS)
        visitor = Visitor(page)
        visitors.append(visitor)
        page.on("request", lambda request: visitor.hosts.add(re.split(r"[/?]", request.url.split("://")[-1])[0]))
        page.on("pageerror", lambda error: visitor.errors.append(str(error)))
        page.goto(url or page_server.url)
        page.locator("#animate-start").wait_for()
        return visitor

    yield open_page
    for context in contexts:
        context.close()
    for visitor in visitors:
        addresses = {host for host in visitor.hosts if not host.startswith(("data:", "blob:"))}
        assert addresses and all(host.startswith("127.0.0.1:") for host in addresses), addresses
        assert visitor.errors == []
