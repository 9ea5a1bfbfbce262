"""The text in pictures is read by the real worker, also after it was killed, found by words, and shown in a browser."""

from __future__ import annotations

import io
import signal
import time

import httpx
import pytest
import sqlalchemy as sa
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import expect
from tests.functional.browsing import BROWSER_MARKS, Visits
from tests.functional.sample_data import wait_for

from retllm.db.enums import UnitState
from retllm.db.session import make_engine
from retllm.stack import LocalStack

_SECONDS = 120


def sign(text: str) -> bytes:
    picture = Image.new("RGB", (640, 240), "navy")
    ImageDraw.Draw(picture).text((40, 80), text, font=ImageFont.load_default(60), fill="white")
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def signs(empty: str, api: httpx.Client) -> str:
    """A collection of two signs."""
    files = [("file", (f"{number}.png", sign(text))) for number, text in enumerate(("Lighthouse", "Bakery"))]
    upload = api.post(f"/collections/{empty}/items", files=files).raise_for_status().json()["job_id"]
    wait_for(api, [upload])
    return empty


@pytest.mark.timeout(900)
def test_a_job_whose_worker_was_killed_is_done_by_the_next_one_and_a_search_finds_the_words(
    stack: LocalStack, api: httpx.Client, signs: str
) -> None:
    engine = make_engine(stack.database_url)
    held = sa.text("SELECT worker FROM units WHERE state = :state AND payload->>'ocr' = 'read'")
    with engine.connect() as locking, engine.connect() as watching:
        # the unit reads its pictures, and can't write their texts
        locking.execute(sa.text("SELECT id FROM items WHERE collection_id = :key FOR UPDATE"), {"key": signs})
        job = api.post(f"/collections/{signs}/ocr").raise_for_status().json()["id"]
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
    assert "lost" in str(api.get(f"/jobs/{job}/attempts").raise_for_status().json())
    # its words alone find it, since no embedder is asked
    body = {"text": "where is the lighthouse", "k": 2, "coarse": {"captions": True, "embedders": []}}
    search = api.post(f"/collections/{signs}/searches", json=body).raise_for_status().json()["id"]
    wait_for(api, [search])
    found = api.get(f"/searches/{search}").raise_for_status().json()["candidates"]
    assert [(one["name"], one["text_in_picture"]) for one in found] == [("0.png", "Lighthouse")]


class TestBrowser:
    """What is seen of it."""

    pytestmark = BROWSER_MARKS

    def test_it_is_chosen_read_and_found_by_keys_alone(self, visit: Visits, api: httpx.Client, signs: str) -> None:
        page = visit()
        page.goto(f"/collections/{signs}")
        page.get_by_role("link", name="Text in pictures").press("Enter")
        page.get_by_role("button", name="Read the text in pictures").press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Text in pictures")
        expect(page.locator("main")).to_contain_text("succeeded", timeout=_SECONDS * 1000)
        page.get_by_role("link", name="Text in pictures").press("Enter")
        expect(page.locator("main")).to_contain_text("All pictures are read.")
        page.goto(f"/collections/{signs}?q=bakery")
        page.get_by_role("link", name="1.png").first.click()
        expect(page.locator("main")).to_contain_text("Text in the picture")
        expect(page.locator("main")).to_contain_text("Bakery")
