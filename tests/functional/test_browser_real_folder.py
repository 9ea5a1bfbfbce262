"""A folder as people have it goes in by command line, as a ZIP and by the page with the same result and names."""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect
from tests import people_folder
from tests.functional.browsing import BROWSER_MARKS, Visits
from tests.functional.forked import Forks
from tests.functional.upload_page import drop_paths
from tests.people_folder import CAPTIONS, ROOT, STATUSES

from retllm.cli.up import Admin
from retllm.stack import LocalStack

pytestmark = BROWSER_MARKS

Fates = dict[str, tuple[str, str | None, str | None]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder."""
    return people_folder.write(tmp_path_factory.mktemp("people"))


def _job(api: httpx.Client, collection: str) -> dict[str, Any]:
    """Return the upload into the collection once it is over."""
    deadline = time.monotonic() + 300
    job: dict[str, Any] = {"finished_at": None}
    while job["finished_at"] is None:
        assert time.monotonic() < deadline, job
        time.sleep(0.1)
        (job,) = api.get(f"/jobs?collection={collection}").raise_for_status().json()["jobs"]
    return job


def _fates(api: httpx.Client, collection: str) -> Fates:
    """Return status, error and remark of every file, entry and row of the only upload into the collection."""
    upload = _job(api, collection)["id"]
    files = api.get(f"/uploads/{upload}/files?limit=200").raise_for_status().json()["files"]
    return {
        file["name"]: (file["status"], file["error"] and file["error"]["message"], file["remark"])
        for file in files
        if not file["name"].endswith(".zip")
    }


def _captions(api: httpx.Client, collection: str) -> dict[str, str]:
    items = api.get(f"/collections/{collection}/items?limit=200").raise_for_status().json()["items"]
    assert all(item["indexed"] for item in items)
    return {item["name"]: item["text"] for item in items if item["text"]}


def _made(api: httpx.Client, name: str) -> str:
    return str(api.post("/collections", json={"name": name}).raise_for_status().json()["id"])


@pytest.fixture(scope="module")
def by_command(stack: LocalStack, admin: Admin, api: httpx.Client, forks: Forks, folder: Path) -> tuple[str, Fates]:
    """A collection with the folder, uploaded by the command line, and the fates of its files."""
    collection = _made(api, "By command")
    environment = os.environ | {"RETLLM_HOME": str(stack.home)}
    done = forks.command(["upload", collection, str(folder), "--json"], environment)
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert told["job"]["state"] == "succeeded"
    fates = _fates(api, collection)
    assert {file["name"] for file in told["files"]} <= fates.keys()
    return collection, fates


def test_every_file_has_its_fate_and_every_picture_its_caption(
    api: httpx.Client, by_command: tuple[str, Fates]
) -> None:
    collection, fates = by_command
    assert {name: fates[name][0] for name in STATUSES if name in fates} == STATUSES
    others = {name: status for name, (status, *_) in fates.items() if name not in STATUSES}
    assert {name for name, status in others.items() if status == "added"} >= {f"{ROOT}/Film/Abfahrt.mp4, 0:00"}
    assert all(name.startswith((f"{ROOT}/Film/Abfahrt.mp4, ", f"{ROOT}/2024/coco.json, ")) for name in others)
    assert all(error or status != "rejected" for status, error, _ in fates.values())
    assert "mood" in str(fates[f"{ROOT}/2023/Fähre/metadata.csv"][2])
    assert _captions(api, collection) == CAPTIONS


def test_a_zip_of_the_folder_gives_the_same(api: httpx.Client, by_command: tuple[str, Fates], folder: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"{ROOT}/{path.relative_to(folder).as_posix()}")
    collection = _made(api, "By ZIP")
    answer = api.post(f"/collections/{collection}/items", files={"file": (f"{ROOT}.zip", packed.getvalue())})
    assert answer.status_code in (200, 202)
    assert _fates(api, collection) == by_command[1]
    assert _captions(api, collection) == CAPTIONS


@pytest.mark.parametrize("way", ["chosen", "dropped"])
def test_the_folder_given_to_the_page_gives_the_same(
    visit: Visits, api: httpx.Client, by_command: tuple[str, Fates], folder: Path, way: str
) -> None:
    collection = _made(api, f"By page, {way}")
    page = visit()
    page.goto(f"/collections/{collection}")
    if way == "chosen":
        page.get_by_label("Folder").set_input_files(folder)
        page.get_by_role("button", name="Upload", exact=True).click()
    else:
        drop_paths(page, folder)
    expect(page.locator("[data-said]")).to_contain_text("arrived")
    assert _fates(api, collection) == by_command[1]
    assert _captions(api, collection) == CAPTIONS
