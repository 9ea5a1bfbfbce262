"""Near-duplicates are found by the real worker, also after it was killed, and reviewed in a real browser by keys."""

from __future__ import annotations

import io
import re
import signal
import time

import httpx
import pytest
import sqlalchemy as sa
from PIL import Image
from playwright.sync_api import expect
from tests.functional.browsing import BROWSER_MARKS, Scenes, Visits
from tests.functional.sample_data import wait_for

from retllm.db.enums import UnitState
from retllm.db.session import make_engine
from retllm.stack import LocalStack

_SECONDS = 120


@pytest.fixture
def copies(scenes: Scenes, empty: str, api: httpx.Client) -> list[str]:
    """A collection of three scenes, each also in double size; return the names of the small ones."""
    files = []
    for one in scenes.queries[:3]:
        raw, large = (scenes.folder / one.file).read_bytes(), io.BytesIO()
        with Image.open(io.BytesIO(raw)) as picture:
            picture.resize((2 * picture.width, 2 * picture.height)).save(large, "PNG")
        files += [("file", (one.file, raw)), ("file", (f"large {one.file}", large.getvalue()))]
    upload = api.post(f"/collections/{empty}/items", files=files).raise_for_status().json()["job_id"]
    wait_for(api, [upload])
    return [one.file for one in scenes.queries[:3]]


def look(api: httpx.Client, collection: str) -> str:
    return str(api.post(f"/collections/{collection}/duplicates").raise_for_status().json()["id"])


def groups(api: httpx.Client, collection: str) -> list[set[str]]:
    found = api.get(f"/collections/{collection}/duplicates").raise_for_status().json()["groups"]
    return [{one["item"]["name"] for one in group["pictures"]} for group in found]


@pytest.mark.timeout(900)
def test_a_job_whose_worker_was_killed_is_done_by_the_next_one(
    stack: LocalStack, api: httpx.Client, empty: str, copies: list[str]
) -> None:
    engine = make_engine(stack.database_url)
    held = sa.text("SELECT worker FROM units WHERE state = :state AND payload->>'step' = 'plan'")
    with engine.connect() as locking, engine.connect() as watching:
        locking.execute(sa.text("LOCK TABLE embeddings IN ACCESS EXCLUSIVE MODE"))
        job = look(api, empty)
        deadline = time.monotonic() + _SECONDS
        while (worker := watching.scalar(held, {"state": UnitState.LEASED})) is None:
            assert time.monotonic() < deadline, "no worker claimed the unit"
            watching.rollback()
            time.sleep(0.05)
        assert worker.endswith(f":{stack.processes['media']}")
        stack.kill("media", signal.SIGKILL)
        locking.rollback()
    engine.dispose()
    wait_for(api, [job])
    assert api.get(f"/jobs/{job}").json()["state"] == "succeeded"
    attempts = api.get(f"/jobs/{job}/attempts").raise_for_status().json()
    assert "lost" in str(attempts)
    found = groups(api, empty)
    for name in copies:
        assert any({name, f"large {name}"} <= group for group in found), name


class TestBrowser:
    """What is seen of it."""

    pytestmark = BROWSER_MARKS

    def test_groups_are_decided_by_keys_alone(
        self, visit: Visits, api: httpx.Client, empty: str, copies: list[str]
    ) -> None:
        wait_for(api, [look(api, empty)])
        number = len(groups(api, empty))
        assert number >= 1
        page = visit()
        page.goto(f"/collections/{empty}/duplicates")
        expect(page.locator(".group")).to_have_count(number)
        page.keyboard.press("j")
        first = page.locator(".group").first
        expect(first.get_by_role("checkbox", name=re.compile("Keep")).first).to_be_checked()
        page.keyboard.press("2")
        expect(first.get_by_role("checkbox", name=re.compile("Keep")).nth(1)).to_be_checked()
        page.keyboard.press("2")
        page.keyboard.press("d")
        expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("Delete .* items?"))
        page.get_by_role("button", name=re.compile("Delete .* items?")).click()
        expect(page.locator(".alert-success")).to_contain_text("to the trash")
        expect(page.get_by_role("heading", level=1)).to_have_text("Near-duplicates")
        for left in range(number - 1, 0, -1):
            expect(page.locator(".group")).to_have_count(left)
            page.keyboard.press("j")
            page.keyboard.press("n")
        expect(page.locator(".group")).to_have_count(0)
        assert groups(api, empty) == []
