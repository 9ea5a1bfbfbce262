"""Take screenshots of all pages: ``make screenshots`` (both colour modes, 1280 and 390 pixels wide).

Start a local stack with the demo models, fill it with sample data and open every page in Chromium. Screenshots are
written to ``build/screenshots``, and those of the documentation to ``docs/screenshots``.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, sync_playwright
from tests.functional.browsing import ARGUMENTS, CHROMIUM, log_in
from tests.functional.pages import addresses
from tests.functional.sample_data import SampleData, create_sample_data
from tests.functional.sample_forms import sample_forms

from retllm.cli.up import prepare_client
from retllm.settings import Settings
from retllm.stack import LocalStack
from retllm_web.app import create_app

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "build" / "screenshots"
ILLUSTRATIONS = ROOT / "docs" / "screenshots"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


def main() -> int:
    """Take all screenshots; return the exit status."""
    if CHROMIUM is None:
        sys.stderr.write("No Chromium is installed (Debian: apt-get install chromium).\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="retllm-") as folder:
        home = Path(folder) / "home"
        settings = Settings(home=home, database_url=None, redis_url=None, port=0, preset="demo", torch_threads=1)
        with LocalStack(settings, durable=False) as stack:
            _take(stack, Path(folder) / "pictures")
    sys.stdout.write(f"The screenshots are in {SHOTS} and {ILLUSTRATIONS}.\n")
    return 0


def _take(stack: LocalStack, folder: Path) -> None:
    admin = prepare_client(stack)
    token = json.loads((stack.home / "client.json").read_text("utf-8"))["token"]
    with httpx.Client(base_url=f"{stack.url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=60) as api:
        sample_data = create_sample_data(stack, api, folder)
    settings = Settings(home=stack.home, database_url=stack.database_url, redis_url=stack.redis_url)
    paths = addresses(create_app(settings), sample_data.keys()) + sample_data.views()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(base_url=stack.url)
        log_in(page, admin)
        page.wait_for_url(f"{stack.url}/")
        session = page.context.storage_state()
        for size in SIZES:
            for colours in ("light", "dark"):
                _round(browser, stack.url, session, sample_data, paths, size, colours)
        browser.close()


def _round(
    browser: Browser, url: str, session: Any, sample_data: SampleData, paths: list[str], size: str, colours: Any
) -> None:
    width, height = SIZES[size]
    context = browser.new_context(
        base_url=url, viewport={"width": width, "height": height}, color_scheme=colours, storage_state=session
    )
    page = context.new_page()
    folder = SHOTS / f"{size}-{colours}"
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        answer = page.request.get(path)
        if answer.status >= 500:
            raise SystemExit(f"{path} returned status {answer.status}")
        if not answer.text().lstrip().startswith("<!doctype html>"):
            continue
        page.goto(path)
        page.wait_for_load_state("networkidle")
        page.screenshot(path=folder / f"{_name(path, sample_data)}.png", full_page=True)
        for name, (shown, of_size, mode) in sample_data.illustrations().items():
            if (shown, of_size, mode) == (path, size, colours):
                ILLUSTRATIONS.mkdir(exist_ok=True)
                page.screenshot(path=ILLUSTRATIONS / f"{name}.png")
    for name, form in sample_forms(sample_data).items():
        form.send(page)
        page.wait_for_load_state("networkidle")
        page.screenshot(path=folder / f"form-{name}.png", full_page=True)
        if name == "undo":
            page.get_by_role("button", name="Undo").click()
    context.close()


def _name(path: str, sample_data: SampleData) -> str:
    """Return a file name for a page, with names instead of IDs."""
    for name, key in vars(sample_data).items():
        path = path.replace(key, name) if isinstance(key, str) else path
    return re.sub(r"[^A-Za-z0-9]+", "-", path).strip("-")[:100] or "overview"


if __name__ == "__main__":
    sys.exit(main())
