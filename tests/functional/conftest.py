"""The whole platform as real processes, once for all tests that run in the same process."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from tests.chaos.platform import Platform
from tests.functional.browsing import PATIENCE_MS, Scenes, Visit, Visits, log_in
from tests.functional.forked import Forks

from retllm.cli.up import Admin, prepare_client
from retllm.demo.world import write_collection
from retllm.settings import Settings
from retllm.stack import LocalStack

FAMILIES = 2
SEED = 4712


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    """Database, Redis, web server, dispatcher and workers with the models that ship, in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="retllm-") as folder:
        settings = Settings(
            home=Path(folder) / "home",
            database_url=None,
            redis_url=None,
            port=0,
            preset="demo",
            torch_threads=1,
            # a killed worker's unit is taken up again after seconds, not after a minute
            lease_seconds=5,
        )
        with LocalStack(settings, durable=False) as running:
            yield running


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    """The platform without workers: a test starts those that it wants, with models that cost nothing."""
    with (
        tempfile.TemporaryDirectory(prefix="retllm-") as folder,
        Platform(Path(folder) / "home", workers=0) as made,
    ):
        yield made


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Runs commands in processes that begin in a moment."""
    with tempfile.TemporaryDirectory(prefix="retllm-forks-") as folder, Forks(Path(folder)) as serving:
        yield serving


@pytest.fixture(scope="session")
def admin(stack: LocalStack) -> Admin:
    """The first administrator of the stack, with the password."""
    made = prepare_client(stack)
    assert made.password is not None
    return made


@pytest.fixture(scope="session")
def api_token(stack: LocalStack, admin: Admin) -> str:
    """The administrator's token, as the command line keeps it."""
    return str(json.loads((stack.home / "client.json").read_text("utf-8"))["token"])


@pytest.fixture(scope="session")
def api(stack: LocalStack, api_token: str) -> Iterator[httpx.Client]:
    """A client of the REST API, as the administrator; its addresses begin after /api/v1."""
    headers = {"Authorization": f"Bearer {api_token}"}
    with httpx.Client(base_url=f"{stack.url}/api/v1", headers=headers, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def session_of_admin(chromium: Browser, stack: LocalStack, admin: Admin) -> Any:
    """The cookies of somebody who logged in."""
    context = chromium.new_context(base_url=stack.url)
    page = context.new_page()
    log_in(page, admin)
    expect(page.get_by_role("heading", name="Overview", exact=True)).to_be_visible()
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def visit(chromium: Browser, stack: LocalStack, session_of_admin: dict[str, Any]) -> Iterator[Visits]:
    """Opens pages, logged in unless told otherwise; at the end none of them may have complained."""
    visits: list[Visit] = []
    contexts: list[BrowserContext] = []

    def opened(*, logged_in: bool = True, **options: Any) -> Page:
        if logged_in:
            options["storage_state"] = session_of_admin
        options = {"base_url": stack.url, "viewport": {"width": 1280, "height": 900}, **options}
        context = chromium.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        made = Visit(context.new_page())
        made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
        made.page.on("console", lambda said: made.note(said.type, said.text))
        visits.append(made)
        return made.page

    yield opened
    for context in contexts:
        context.close()
    # errors of scripts, and whatever the policy of the server refused
    assert [complaint for one in visits for complaint in one.complaints] == []


@pytest.fixture(scope="session")
def scenes(stack: LocalStack, api: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    """Sixteen pictures, uploaded and indexed through the API."""
    folder = tmp_path_factory.mktemp("scenes")
    queries = write_collection(folder, FAMILIES, SEED)
    key = api.post("/collections", json={"name": "Scenes of the pages"}).raise_for_status().json()["id"]
    files = [("file", (one.file, (folder / one.file).read_bytes())) for one in queries]
    api.post(f"/collections/{key}/items", files=files).raise_for_status()
    return Scenes(str(key), queries, folder)


@pytest.fixture
def indexed(scenes: Scenes, visit: Visits) -> Page:
    """The page of the scenes once they are indexed."""
    page = visit()
    page.goto(scenes.path)
    expect(page.locator("#index-state")).to_contain_text("All 16 items are indexed")
    return page
