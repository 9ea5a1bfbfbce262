"""Real servers for tests: one embedded stack and one emptied database per process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
from PIL import Image
from tests.databases import TEMPLATE, EmptiedDatabase, address, administer, copy_template

from retllm.db.session import Sessions
from retllm.job_kinds import register_handlers
from retllm.settings import Settings
from retllm.stack import LocalStack

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# set before torch is imported, here and in the processes that tests start: a second thread does not speed up the tiny
# models of the tests, and on busy cores threads wait for each other much longer than they work
os.environ.setdefault("OMP_NUM_THREADS", "1")

register_handlers()
# structlog's default renderer prints each traceback with its variables, which takes a second or more per failed unit
_renderer = structlog.get_config()["processors"][-1]
_renderer.exception_formatter = structlog.dev.plain_traceback


@pytest.fixture(autouse=True)
def _own_umask() -> Iterator[None]:
    """Give each test the umask that the session began with: commands run in this process set that of the platform."""
    mask = os.umask(0)
    os.umask(mask)
    yield
    os.umask(mask)


@pytest.fixture(autouse=True)
def _own_picture_limit() -> Iterator[None]:
    """Give each test the limit that the session began with: a decoder that runs in this process sets its own."""
    limit = Image.MAX_IMAGE_PIXELS
    yield
    Image.MAX_IMAGE_PIXELS = limit


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_disks() -> Iterator[None]:
    """Leave stored files to the system, as ``durable=False`` does with rows: no test survives a loss of power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def servers() -> Iterator[LocalStack]:
    """An embedded PostgreSQL and Redis in a folder of their own, for the whole session."""
    with tempfile.TemporaryDirectory(prefix="retllm-") as folder:
        settings = Settings(home=Path(folder) / "home", database_url=None, redis_url=None)
        with LocalStack(settings, parts={"postgres", "redis"}, durable=False) as stack:
            yield stack


@pytest.fixture(scope="session")
def template_database(servers: LocalStack) -> str:
    """The address of the server, which has a template database with the newest schema."""
    from retllm.db.migrate import upgrade

    administer(servers.database_url, f"CREATE DATABASE {TEMPLATE}")
    upgrade(address(servers.database_url, TEMPLATE))
    return servers.database_url


@pytest.fixture(scope="session")
def database_url(template_database: str) -> str:
    """A migrated database that the tests of this session share and that is never emptied."""
    return copy_template(template_database)


@pytest.fixture(scope="module")
def module_database(template_database: str) -> str:
    """The address of a migrated, initially empty database that the tests of one module share."""
    return copy_template(template_database)


@pytest.fixture(scope="session")
def emptied_database(template_database: str) -> Iterator[EmptiedDatabase]:
    """The database of this process that is emptied for each test that uses ``fresh_database``."""
    database = EmptiedDatabase(template_database)
    yield database
    database.close()


@pytest.fixture
def fresh_database(emptied_database: EmptiedDatabase) -> str:
    """The address of a migrated, empty database for one test."""
    emptied_database.reset()
    return emptied_database.url


@pytest.fixture
def fresh_sessions(emptied_database: EmptiedDatabase, fresh_database: str) -> Sessions:
    """Sessions of ``fresh_database``."""
    return emptied_database.sessions()


@pytest.fixture
def own_database(template_database: str) -> str:
    """The address of a database created for one test, for tests that change the schema."""
    return copy_template(template_database)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One browser for all tests of this process, since a process can run playwright only once."""
    from playwright.sync_api import sync_playwright
    from tests.functional.browsing import ARGUMENTS, CHROMIUM

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def redis_url(servers: LocalStack) -> str:
    """The address of a Redis server that the tests of this session share."""
    return servers.redis_url
