"""The whole platform as real processes, started once for all tests of a process."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from tests.chaos.platform import Platform
from tests.functional.browsing import TIMEOUT_MS, Scenes, Visit, Visits, log_in, wait_for_scripts
from tests.functional.forked import Forks
from tests.grouping import shared

from retllm.cli.up import Admin, prepare_client
from retllm.demo.world import write_collection
from retllm.settings import Settings
from retllm.stack import LocalStack

FAMILIES = 2
SEED = 4712


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    """Database, Redis, web server, dispatcher and workers with the shipped models, in a folder of their own."""
    yield from shared(_stack())


@contextmanager
def _stack() -> Iterator[LocalStack]:
    with tempfile.TemporaryDirectory(prefix="retllm-") as folder:
        drive = Path(folder) / "drive"
        drive.mkdir()
        settings = Settings(
            home=Path(folder) / "home",
            import_roots=(str(drive),),
            database_url=None,
            redis_url=None,
            port=0,
            preset="demo",
            torch_threads=1,
            # the unit of a killed worker is retried after seconds, not after a minute
            lease_seconds=5,
        )
        with LocalStack(settings, durable=False) as running:
            yield running


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """The platform without workers: each test starts its own, with fast stand-in models."""
    yield from shared(_platform())


@contextmanager
def _platform() -> Iterator[Platform]:
    with (
        tempfile.TemporaryDirectory(prefix="retllm-") as folder,
        Platform(Path(folder) / "home", workers=0) as running,
    ):
        yield running


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Runs commands in forked processes, which start quickly."""
    yield from shared(_forks())


@contextmanager
def _forks() -> Iterator[Forks]:
    with tempfile.TemporaryDirectory(prefix="retllm-forks-") as folder, Forks(Path(folder)) as serving:
        yield serving


@pytest.fixture(scope="session")
def admin(stack: LocalStack) -> Admin:
    """The first administrator of the stack, with their password."""
    made = prepare_client(stack)
    assert made.password is not None
    return made


@pytest.fixture(scope="session")
def api_token(stack: LocalStack, admin: Admin) -> str:
    """The administrator's token, as the command line stores it."""
    return str(json.loads((stack.home / "client.json").read_text("utf-8"))["token"])


@pytest.fixture(scope="session")
def api(stack: LocalStack, api_token: str) -> Iterator[httpx.Client]:
    """A client of the REST API with the administrator's token; its paths are relative to /api/v1."""
    headers = {"Authorization": f"Bearer {api_token}"}
    with httpx.Client(base_url=f"{stack.url}/api/v1", headers=headers, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def session_of_admin(chromium: Browser, stack: LocalStack, admin: Admin) -> Any:
    """The cookies of the administrator's session."""
    context = chromium.new_context(base_url=stack.url)
    page = context.new_page()
    log_in(page, admin)
    expect(page.get_by_role("heading", name="Overview", exact=True)).to_be_visible()
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def visit(chromium: Browser, stack: LocalStack, session_of_admin: dict[str, Any]) -> Iterator[Visits]:
    """Opens pages, logged in by default; at the end none may have logged an error."""
    visits: list[Visit] = []
    contexts: list[BrowserContext] = []

    def open_page(*, logged_in: bool = True, **options: Any) -> Page:
        if logged_in:
            options["storage_state"] = session_of_admin
        options = {"base_url": stack.url, "viewport": {"width": 1280, "height": 900}, **options}
        context = chromium.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(TIMEOUT_MS)
        opened = Visit(context.new_page())
        opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.page.on("console", lambda message: opened.note(message.type, message.text))
        visits.append(opened)
        if options.get("java_script_enabled", True):
            wait_for_scripts(opened.page)
        return opened.page

    yield open_page
    for context in contexts:
        context.close()
    # errors of scripts and violations of the content security policy
    assert [error for one in visits for error in one.errors] == []


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
    """The page of the collection of scenes, once they are indexed."""
    page = visit()
    page.goto(scenes.path)
    expect(page.locator("#index-state")).to_contain_text("All 16 items are indexed")
    return page


@pytest.fixture
def empty(api: httpx.Client, request: pytest.FixtureRequest) -> str:
    """A new collection."""
    name = f"Of {request.node.name}"[:200]
    return str(api.post("/collections", json={"name": name}).raise_for_status().json()["id"])


@pytest.fixture
def page(visit: Visits, empty: str) -> Page:
    """The page of the new collection."""
    opened = visit()
    opened.goto(f"/collections/{empty}")
    return opened
