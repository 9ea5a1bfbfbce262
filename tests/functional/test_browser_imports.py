"""A folder is imported by the page; originals that stay there are searched, and told when they are lost."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect
from tests.functional.browsing import BROWSER_MARKS, Scenes, Visits
from tests.functional.sample_data import wait_for

from retllm.stack import LocalStack

pytestmark = BROWSER_MARKS


@pytest.fixture
def drive(stack: LocalStack, scenes: Scenes) -> Path:
    """A folder with three scenes that server and workers may read."""
    folder = Path(stack.settings.import_roots[0]) / "2019"
    folder.mkdir(exist_ok=True)
    for one in scenes.queries[:3]:
        (folder / one.file).write_bytes((scenes.folder / one.file).read_bytes())
    return folder


@pytest.mark.parametrize("scripts", [True, False])
def test_a_folder_is_imported_by_the_page_and_its_originals_stay(
    visit: Visits, api: httpx.Client, empty: str, drive: Path, scenes: Scenes, scripts: bool
) -> None:
    page = visit(java_script_enabled=scripts)
    page.goto(f"/collections/{empty}")
    page.get_by_text("Import from the server").click()
    page.get_by_label("Path or S3 address").fill("/etc")
    page.get_by_label("Leave originals where they are").check()
    page.get_by_role("button", name="Import").click()
    expect(page.get_by_text("/etc may not be imported")).to_be_visible()
    expect(page.get_by_label("Leave originals where they are")).to_be_checked()
    page.get_by_label("Path or S3 address").fill(str(drive))
    page.get_by_role("button", name="Import").click()
    page.wait_for_url(re.compile(r"/jobs/[0-9a-f-]{36}$"))
    wait_for(api, [page.url.rpartition("/")[2]])

    query = scenes.queries[0]
    found = api.post(f"/collections/{empty}/searches", json={"text": query.query, "k": 3}).raise_for_status().json()
    wait_for(api, [found["id"]])
    candidates = api.get(f"/searches/{found['id']}").raise_for_status().json()["candidates"]
    assert len(candidates) == 3
    assert all(one["score"] is not None for one in candidates)

    items = api.get(f"/collections/{empty}/items").raise_for_status().json()["items"]
    key = next(item["id"] for item in items if item["name"] == f"2019/{query.file}")
    original = api.get(f"/items/{key}/picture").raise_for_status().content
    assert original == (drive / query.file).read_bytes()
    page.goto(f"/items/{key}")
    expect(page.get_by_text(f"2019/{query.file}", exact=True).last).to_be_visible()
    (drive / query.file).unlink()
    page.goto(f"/items/{key}")
    expect(page.get_by_text("The original is missing")).to_be_visible()
    assert api.get(f"/items/{key}/picture").status_code == 404
    assert api.delete(f"/collections/{empty}").status_code == 204
    assert len(list(drive.iterdir())) == 2
