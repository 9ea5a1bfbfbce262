"""Sample data for a server: collections, searches with marks, a failed job, accounts and evaluations.

All data is created through the API, except the failed job, which is written into the database.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from retllm.db.enums import JobKind, JobState, Stage, UnitState
from retllm.db.session import make_sessions, transaction
from retllm.db.tables import Job, Unit, User, new_id
from retllm.demo.world import DemoQuery, write_collection
from retllm.settings import Settings, public_name
from retllm.stack import LocalStack

SEED = 2026
FAMILIES = 3
# the queries, by their number; a family has eight scenes, and the queries are for the first of one
_TEXT_QUERY, _PICTURE_QUERY = 8, 16
K = 8
_TIMEOUT_SECONDS = 600.0

_TRACEBACK = """Traceback (most recent call last):
  File "retllm/queue/worker.py", line 77, in _attempt
    opened = doing(bench, Held(claim, lease))
retllm.errors.MediaRejected: The picture can not be decoded.
"""
_NOTES = (
    ("letter", "A letter to the museum about a green triangle that was lent in spring."),
    ("list", "Inventory of the third box: circles, squares, and one star without a colour."),
    ("diary", "Diary, 4 May: rain all day; the red circle still hangs left of the door."),
)


@dataclass(frozen=True)
class SampleData:
    """IDs of the sample data, for the paths of pages."""

    collection: str
    notes: str
    empty: str
    item: str
    note: str
    search: str
    injected_search: str
    picture_search: str
    no_match_search: str
    failed: str
    index: str
    refused: str
    run: str
    rerun: str
    user: str

    def keys(self) -> dict[str, list[str]]:
        """Return the values for each argument of a page's path."""
        return {
            "collection_id": [self.collection, self.notes, self.empty],
            "item_id": [self.item, self.note],
            "job_id": [
                self.search,
                self.injected_search,
                self.picture_search,
                self.no_match_search,
                self.failed,
                self.index,
                self.refused,
            ],
            "upload_id": [self.refused],
            "search_id": [self.search],
            "run_id": [self.run, self.rerun],
            "user_id": [self.user],
        }

    def views(self) -> list[str]:
        """Return paths with filters and options that change the page."""
        return [
            f"/collections/{self.collection}?q=nothing-is-called-so",
            f"/search?collection={self.collection}&like={self.item}",
            f"/search?again={self.search}",
            f"/jobs/{self.index}?status=rejected",
            "/jobs?state=failed",
            "/jobs?text=nothing+of+the+sort",
            f"/compare?of={self.search}&of={self.injected_search}",
            "/nothing-here",
        ]

    def illustrations(self) -> dict[str, tuple[str, str, str]]:
        """Return the path, the window size and the colour mode of each screenshot in the documentation."""
        return {
            "overview": ("/", "desktop", "light"),
            "search": (f"/jobs/{self.search}", "desktop", "light"),
            "compare": (f"/compare?of={self.search}&of={self.injected_search}", "desktop", "dark"),
            "phone": (f"/jobs/{self.picture_search}", "phone", "dark"),
        }


def wait_for(api: httpx.Client, jobs: Iterable[str]) -> None:
    """Wait until these jobs are over."""
    end = time.monotonic() + _TIMEOUT_SECONDS
    for job in jobs:
        while api.get(f"/jobs/{job}").raise_for_status().json()["finished_at"] is None:
            assert time.monotonic() < end, f"job {job} is not over"
            time.sleep(0.2)


def create_sample_data(stack: LocalStack, api: httpx.Client, folder: Path) -> SampleData:
    """Create the data on ``stack`` through ``api``, an administrator's client; write the pictures to ``folder``."""
    queries = write_collection(folder, FAMILIES, SEED)
    scenes = _create_collection(api, "Scenes of shapes", "Coloured shapes, drawn for teaching.")
    notes = _create_collection(api, "Notes", "Letters, lists and a diary that came with the pictures.")
    empty = _create_collection(api, "To be sorted", "")
    # without captions: the shipped models are trained on pictures, and a caption would give the answer away
    index = _upload(api, scenes, [folder / one.file for one in queries])
    texts = {"items": [{"name": name, "text": text} for name, text in _NOTES]}
    of_notes = api.post(f"/collections/{notes}/items", json=texts).raise_for_status().json()["job_id"]
    (folder / "torn.png").write_bytes(b"no picture")
    refused = _upload(api, empty, [folder / "torn.png"])
    wait_for(api, [index, of_notes, refused])
    searches = _searches(api, scenes, queries, folder)
    wait_for(api, searches)
    search, injected, by_picture, no_match_search = searches
    item = _mark(api, search, queries[_TEXT_QUERY].file)
    _mark(api, by_picture, queries[_PICTURE_QUERY].file)
    return SampleData(
        collection=scenes,
        notes=notes,
        empty=empty,
        item=item,
        note=_first_item(api, notes),
        search=search,
        injected_search=injected,
        picture_search=by_picture,
        no_match_search=no_match_search,
        failed=_create_failed_job(stack, UUID(scenes), item),
        index=index,
        refused=refused,
        run=_upload_run(api),
        rerun=_start_rerun(api, scenes),
        user=_create_accounts(api, scenes),
    )


def _create_collection(api: httpx.Client, name: str, description: str) -> str:
    made = api.post("/collections", json={"name": name, "description": description}).raise_for_status()
    return str(made.json()["id"])


def _upload(api: httpx.Client, collection: str, files: list[Path]) -> str:
    parts = [("file", (one.name, one.read_bytes())) for one in files]
    return str(api.post(f"/collections/{collection}/items", files=parts).raise_for_status().json()["job_id"])


def _searches(api: httpx.Client, collection: str, queries: list[DemoQuery], folder: Path) -> list[str]:
    path = f"/collections/{collection}/searches"
    first = {"text": queries[_TEXT_QUERY].query, "k": K, "trace": True}
    injected = {"trigger": "fixed", "fixed_layer": 2, "alpha": 0.5}
    bodies: list[dict[str, Any]] = [first, {"text": queries[_TEXT_QUERY].query, "k": K, "injection": injected}]
    jobs = [api.post(path, json=one).raise_for_status().json()["id"] for one in bodies]
    picture = {"picture": (queries[_PICTURE_QUERY].file, (folder / queries[_PICTURE_QUERY].file).read_bytes())}
    form = {"query": json.dumps({"k": K})}
    jobs.append(api.post(path, files=picture, data=form).raise_for_status().json()["id"])
    jobs.append(api.post(path, json={"text": "a photograph of a steam train", "k": K}).raise_for_status().json()["id"])
    return [str(job) for job in jobs]


def _mark(api: httpx.Client, search: str, right: str) -> str:
    """Mark every candidate correctly and return the ID of the right one."""
    found = {one["name"]: one["item_id"] for one in api.get(f"/searches/{search}").json()["candidates"]}
    for name, item in found.items():
        path = f"/searches/{search}/judgments/{item}"
        api.put(path, json={"relevant": name == right}).raise_for_status()
    return str(found[right])


def _create_failed_job(stack: LocalStack, collection: UUID, item: str) -> str:
    settings = Settings(home=stack.home, preset="demo")
    with transaction(make_sessions(stack.database_url)) as session:
        user = session.query(User).order_by(User.id).first()
        assert user is not None
        error = "The picture can not be decoded."
        job = Job(
            id=new_id(),
            kind=JobKind.INDEX,
            state=JobState.FAILED,
            user_id=user.id,
            collection_id=collection,
            params={"embedder": public_name(settings.embedder_name), "item_image_weight": settings.item_image_weight},
            error=error,
        )
        session.add(job)
        session.flush()
        job.started_at = job.finished_at = job.created_at
        unit = Unit(id=new_id(), job_id=job.id, stage=Stage.EMBED, seq=0, payload={"items": [item]})
        unit.state, unit.attempt, unit.error, unit.traceback = UnitState.DEAD, 3, error, _TRACEBACK
        unit.worker, unit.started_at, unit.finished_at = "archive-2:4711", job.created_at, job.created_at
        session.add(unit)
    return str(job.id)


def _first_item(api: httpx.Client, collection: str) -> str:
    return str(api.get(f"/collections/{collection}/items").raise_for_status().json()["items"][0]["id"])


def _upload_run(api: httpx.Client) -> str:
    """Upload the report of ``retllm eval scenes --seed 102 --families 8 --pairs 20 --limit 40 --ablate``."""
    report = json.loads((Path(__file__).parent / "report.json").read_text("utf-8"))
    made = api.post("/evaluations", json={"name": "Scenes, with all variants", "report": report}).raise_for_status()
    return str(made.json()["id"])


def _start_rerun(api: httpx.Client, collection: str) -> str:
    """Repeat the reviewed queries with a smaller k."""
    body = {"name": "With five candidates", "settings": {"k": 5}}
    run = str(api.post(f"/collections/{collection}/evaluations", json=body).raise_for_status().json()["id"])
    jobs = api.get("/jobs", params={"collection": collection, "limit": 20}).raise_for_status().json()["jobs"]
    wait_for(api, [job["id"] for job in jobs])
    return run


def _create_accounts(api: httpx.Client, collection: str) -> str:
    """Create an editor and a viewer of the collection, and a disabled account; return the editor's ID."""
    made = {}
    for name, role in (("edda", "editor"), ("viktor", "viewer"), ("gone", "editor")):
        account = {"name": name, "role": role, "password": "correct horse battery"}
        made[name] = str(api.post("/users", json=account).raise_for_status().json()["id"])
    api.patch(f"/users/{made['gone']}", json={"disabled": True}).raise_for_status()
    for name, role in (("edda", "editor"), ("viktor", "viewer")):
        api.post(f"/collections/{collection}/members", json={"name": name, "role": role}).raise_for_status()
    return made["edda"]
