"""Chromium, driven by playwright; and a page with what it requested and printed."""

import contextlib
import functools
import http.server
import io
import os
import shutil
import threading

import numpy as np

CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)

# WebGL in software, so that a machine without a display or GPU draws as well.
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]

HERE = ("file://", "http://127.0.0.1", "data:", "blob:")


@contextlib.contextmanager
def chromium():
    """A running browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def served(folder):
    """The address of a plain file server for a folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Visit:
    """A page of a map, opened and ready.

    Attributes:
        page: playwright's page.
        messages: what the page printed on its console, of any kind, and its uncaught errors.
        elsewhere: addresses that it requested from other machines.
        failed: requests that failed.
    """

    def __init__(self, browser, address, **options):
        options = {"viewport": {"width": 1280, "height": 800}, "accept_downloads": True} | options
        self.page = browser.new_page(**options)
        self.messages, self.elsewhere, self.failed = [], [], []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("requestfailed", lambda request: self.failed.append(request.url))
        self.page.on("request", lambda request: self._requested(request.url))
        self.page.goto(address)
        self.ready()

    def _requested(self, address):
        if not address.startswith(HERE):
            self.elsewhere.append(address)

    def ready(self):
        """Waits until everything is loaded."""
        self.page.wait_for_selector("html[data-ready]", timeout=120_000)

    def ask(self, script, argument=None):
        """The value of an expression in the page."""
        return self.page.evaluate(script, argument)

    def settle(self):
        """Waits for two drawn frames."""
        self.ask(
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def picture(self, selector):
        """(height, width, 3) uint8: an element as it looks."""
        from matplotlib import image

        self.settle()
        content = self.page.locator(selector).screenshot(type="png")
        pixels = image.imread(io.BytesIO(content), format="png")[..., :3]
        return (pixels * 255).round().astype(np.uint8)

    def search(self, text):
        """Enters a query and waits for its results."""
        before = self.ask("document.documentElement.dataset.searches")
        self.page.fill("#query", text)
        self.page.press("#query", "Enter")
        self.page.wait_for_selector(f"html:not([data-searches='{before}'])")

    def hits(self):
        """Ids of the table of results, best first."""
        return self.page.locator("#hits td.id").all_inner_texts()


def coloured(pixels):
    """The share of pixels that are not grey: points, but not text or buttons."""
    return float((np.ptp(pixels.astype(int), axis=-1) > 60).mean())


def colours(pixels):
    """The number of different colours."""
    return len(np.unique(pixels.reshape(-1, 3), axis=0))
