"""A real browser for pages: headless Chromium, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def _binary() -> str:
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("no Chromium: apt-get install chromium, or name one in CHROMIUM")
    return found


@contextmanager
def chromium() -> Iterator:
    """A browser; the test skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    binary = _binary()
    with sync_api.sync_playwright() as playwright:
        # Containers lack what its sandbox needs; only pages made here are opened.
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"], timeout=120_000)
        yield browser
        browser.close()


@contextmanager
def open_page(browser, path: Path, **options) -> Iterator:
    """A page of a local file, which must not ask for anything else and must not report an error."""
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}} | options)
    context.set_default_timeout(60_000)  # of a loaded machine
    page = context.new_page()
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(f"a dialog: {dialog.message}"), dialog.dismiss()))
    page.goto(path.as_uri())
    yield page
    context.close()
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert wrong == []
