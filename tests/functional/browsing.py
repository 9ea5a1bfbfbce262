"""What all browser tests share: the browser and common steps of users."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from retllm.cli.up import Admin
from retllm.demo.world import DemoQuery
from retllm.stack import LocalStack

# the headless shell needs half the time
_BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, _BROWSERS)), None)
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT_MS = 180_000
K = 8

BROWSER_MARKS = [
    pytest.mark.timeout(900),
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]
expect.set_options(timeout=TIMEOUT_MS)

Visits = Callable[..., Page]


@dataclass
class Visit:
    """A page of a fresh profile, and the errors of its console."""

    page: Page
    errors: list[str] = field(default_factory=list)

    def note(self, kind: str, text: str) -> None:
        """Record a line of the console if it is an error or a warning."""
        # Chromium logs every response with a status from 400; tests that provoke one check the page itself
        if kind in ("error", "warning") and "Failed to load resource" not in text:
            self.errors.append(text)


@dataclass(frozen=True)
class Scenes:
    """An indexed collection of generated scenes."""

    id: str
    queries: list[DemoQuery]
    folder: Path

    @property
    def path(self) -> str:
        return f"/collections/{self.id}"


def log_in(page: Page, admin: Admin, password: str | None = None) -> None:
    """Log in on the login page."""
    page.goto("/login")
    page.get_by_label("Name").fill(admin.name)
    page.get_by_label("Password").fill(password or str(admin.password))
    page.get_by_role("button", name="Log in").click()


def wait_for_scripts(page: Page) -> None:
    """Let actions on a page begin when its scripts have run, as users do whose machine is not busy.

    Before that, a button sends its form as without JavaScript.
    """
    page.add_init_script(
        "addEventListener('DOMContentLoaded', () => { document.documentElement.dataset.scripted = ''; })"
    )
    # while it is visible, no action begins
    page.add_locator_handler(page.locator("html:not([data-scripted])"), lambda: None)


@contextmanager
def paused(stack: LocalStack, name: str) -> Iterator[None]:
    """Stop a worker inside the context, so that its units stay waiting."""
    stack.kill(name, signal.SIGSTOP)
    try:
        yield
    finally:
        stack.kill(name, signal.SIGCONT)


def search(page: Page, text: str, k: int = K) -> str:
    """Search from the open page and return the ID of the job."""
    page.get_by_label("Query text").fill(text)
    page.get_by_label("Candidates (k)").fill(str(k))
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_url(re.compile(r"/jobs/[0-9a-f-]{36}$"))
    return page.url.rpartition("/")[2]


def keys(page: Page) -> list[str]:
    """Return the items of the result in the order shown."""
    found: list[str] = page.locator("li.result").evaluate_all("all => all.map(one => one.dataset.key)")
    return found


def ranking(api: httpx.Client, job: str) -> dict[str, Any]:
    """Return a search from the API."""
    found: dict[str, Any] = api.get(f"/searches/{job}").raise_for_status().json()
    return found
