"""A page of the app in a real browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from flask import Flask
from playwright.sync_api import Browser, Page
from tests.functional.browsing import CHROMIUM, TIMEOUT_MS, wait_for_scripts
from tests.unit.web.conftest import PASSWORD, Caller
from werkzeug.serving import make_server

BROWSER_MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]


@pytest.fixture
def page(app: Flask, ada: Caller, chromium: Browser) -> Iterator[Page]:
    """A page in ada's browser; its console must have no errors at the end."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    context = chromium.new_context(base_url=f"http://127.0.0.1:{server.port}")
    context.set_default_timeout(TIMEOUT_MS)
    opened = context.new_page()
    wait_for_scripts(opened)
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    opened.goto("/login")
    opened.get_by_label("Name").fill("ada")
    opened.get_by_label("Password").fill(PASSWORD)
    opened.get_by_role("button", name="Log in").click()
    yield opened
    context.close()
    server.shutdown()
    thread.join()
    # Chromium logs every response of 400 and above
    assert [one for one in complaints if "Failed to load resource" not in one] == []
