"""Sample data for a server: collections, photographs, searches with marks, a failed job, accounts and evaluations.

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
from PIL import Image, ImageDraw, ImageFont
from tests.functional.photographs import SHEET, Written, write_photographs

from retllm.db.enums import JobKind, JobState, Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.session import make_sessions, transaction
from retllm.db.tables import User, new_id
from retllm.demo.world import DemoQuery, write_collection
from retllm.settings import Settings, public_name
from retllm.stack import LocalStack

SEED = 2026
FAMILIES = 3
# the queries, by their number; a family has eight scenes, and the queries are for the first of one
_TEXT_QUERY, _PICTURE_QUERY = 8, 16
K = 8
_OTHERS = 8
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
# more than what the page of an item shows without unfolding it
_PAGE = [f"Platform {number}: trains to the harbour and museum" for number in range(1, 15)]


@dataclass(frozen=True)
class SampleData:
    """IDs of the sample data, for the paths of pages."""

    collection: str
    notes: str
    empty: str
    copies: str
    photographs: str
    photograph: str
    selected: list[str]
    trashed: str
    alike: str
    item: str
    note: str
    search: str
    injected_search: str
    picture_search: str
    no_match_search: str
    several_search: str
    failed: str
    index: str
    refused: str
    duplicates: str
    map: str
    read: str
    sign: str
    run: str
    rerun: str
    user: str
    link: str
    result_link: str

    def keys(self) -> dict[str, list[str]]:
        """Return the values for each argument of a page's path."""
        return {
            "collection_id": [self.collection, self.notes, self.empty, self.copies, self.photographs],
            "item_id": [self.item, self.note, self.photograph, self.sign],
            "job_id": [
                self.search,
                self.injected_search,
                self.picture_search,
                self.no_match_search,
                self.several_search,
                self.failed,
                self.index,
                self.refused,
                self.duplicates,
                self.map,
                self.read,
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
            f"/collections/{self.collection}?size=l&facets=1&filter=kind+%3D+image",
            f"/collections/{self.photographs}?sort=-taken&size=l",
            f"/collections/{self.photographs}?facets=1&filter=taken+%3E%3D+2003-05+and+column.Photographer+%3D+Ann",
            f"/collections/{self.photographs}?facets=1&size=s",
            f"/search?collection={self.photographs}&facets=1&filter=column.Photographer+%3D+Ann",
            f"/search?collection=all&again={self.several_search}",
            f"/collections/{self.collection}/map?colour=size",
            f"/collections/{self.collection}/places?zoom=3&latitude=42&longitude=12",
            f"/search?collection={self.collection}&like={self.item}",
            f"/search?again={self.search}",
            f"/jobs/{self.index}?status=rejected",
            "/jobs?state=failed",
            "/jobs?text=nothing+of+the+sort",
            f"/compare?of={self.search}&of={self.injected_search}",
            f"/jobs/confirm?deed=cancel&of={self.search}&of={self.index}",
            "/jobs/confirm?deed=retry&all=1",
            f"/jobs/confirm?deed=delete&of={self.search}&of={self.picture_search}",
            f"/jobs?run={self.rerun}",
            f"/compare?of={self.search}",
            f"/trash?collection={self.empty}",
            f"/trash?collection={self.photographs}",
            "/nothing-here",
            f"{self.link}?after={self.item}",
            "/s/nothing-here",
            *(f"{link}{rest}" for link in (self.link, self.result_link) for rest in ("", f"/items/{self.item}")),
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
    copies = _create_collection(api, "Copies", "The same scenes in two sizes.")
    duplicates = _find_copies(api, copies, [folder / one.file for one in queries[:3]])
    sign, read = _read_sign(api, copies, folder / "sign.png")
    wait_for(api, [index, of_notes, refused])
    _fill_trash(api, empty, folder / queries[0].file)
    _locate(api, scenes)
    made = str(api.post(f"/collections/{scenes}/map").raise_for_status().json()["id"])
    wait_for(api, [made])
    searches = _searches(api, scenes, queries, folder)
    wait_for(api, searches)
    search, injected, by_picture, *_ = searches
    no_match_search = _search_for_nothing(api, scenes)
    photographs = _create_photographs(api, write_photographs(folder / "photographs"))
    several = _search_several(api, [photographs.collection, copies, scenes], photographs.example)
    item = _mark(api, search, queries[_TEXT_QUERY].file)
    _mark(api, by_picture, queries[_PICTURE_QUERY].file)
    return SampleData(
        collection=scenes,
        notes=notes,
        empty=empty,
        copies=copies,
        photographs=photographs.collection,
        photograph=photographs.item,
        selected=photographs.selected,
        trashed=photographs.trashed,
        alike=photographs.group,
        item=item,
        note=_first_item(api, notes),
        search=search,
        injected_search=injected,
        picture_search=by_picture,
        no_match_search=no_match_search,
        several_search=several,
        failed=_create_failed_job(stack, UUID(scenes), item),
        index=index,
        refused=refused,
        duplicates=duplicates,
        read=read,
        sign=sign,
        map=made,
        run=_upload_run(api),
        rerun=_start_rerun(api, scenes),
        user=_create_accounts(api, scenes),
        link=_share(api, f"/collections/{scenes}"),
        result_link=_share(api, f"/searches/{search}"),
    )


def _share(api: httpx.Client, place: str) -> str:
    """Make a link to a collection or a result and return its path."""
    asked = {"name": "For the lesson on shapes", "downloads": True}
    made = api.post(f"{place}/links", json=asked).raise_for_status().json()
    return httpx.URL(made["address"]).path


def _create_collection(api: httpx.Client, name: str, description: str) -> str:
    made = api.post("/collections", json={"name": name, "description": description}).raise_for_status()
    return str(made.json()["id"])


def _fill_trash(api: httpx.Client, collection: str, picture: Path) -> None:
    """Delete a picture and a text of a collection, and a collection."""
    wait_for(api, [_upload(api, collection, [picture])])
    texts = {"items": [{"name": "draft", "text": "A draft of a letter, which came to nothing."}]}
    api.post(f"/collections/{collection}/items?index=false", json=texts).raise_for_status()
    api.post(f"/collections/{collection}/items/delete", json={"filter": ""}).raise_for_status()
    deleted = _create_collection(api, "Out of focus", "")
    api.delete(f"/collections/{deleted}").raise_for_status()


def _upload(api: httpx.Client, collection: str, files: list[Path]) -> str:
    return _sent(api, collection, [("file", (one.name, one.read_bytes())) for one in files])


def _sent(api: httpx.Client, collection: str, parts: list[tuple[str, tuple[str, bytes]]]) -> str:
    return str(api.post(f"/collections/{collection}/items", files=parts).raise_for_status().json()["job_id"])


def _find_copies(api: httpx.Client, collection: str, files: list[Path]) -> str:
    """Upload pictures, each also in double size and one with a caption, and find the near-duplicates."""
    for file in files:
        with Image.open(file) as picture:
            picture.resize((2 * picture.width, 2 * picture.height)).save(file.with_name(f"large {file.name}"))
    uploaded = _upload(api, collection, [*files, *(file.with_name(f"large {file.name}") for file in files)])
    wait_for(api, [uploaded])
    item = _first_item(api, collection)
    api.patch(f"/items/{item}", json={"text": "the first scene", "tags": ["small"]}).raise_for_status()
    found = str(api.post(f"/collections/{collection}/duplicates").raise_for_status().json()["id"])
    wait_for(api, [found])
    return found


@dataclass(frozen=True)
class _Photographs:
    """A collection of photographs: one with the group of its near-duplicates, some others, and one in the trash."""

    collection: str
    item: str
    group: str
    selected: list[str]
    trashed: str
    example: Path


def _create_photographs(api: httpx.Client, written: Written) -> _Photographs:
    """Upload the photographs with their sheet, find the near-duplicates, and delete some."""
    collection = _create_collection(api, "Photographs", "From the package of scikit-image, with parts of some.")
    names = [*written.names, *written.copies, SHEET]
    parts = [("file", (name, (written.folder / name).read_bytes())) for name in names]
    wait_for(api, [_sent(api, collection, parts)])
    wait_for(api, [str(api.post(f"/collections/{collection}/duplicates").raise_for_status().json()["id"])])
    items = {one["name"]: one["id"] for one in _items(api, collection)}
    groups = api.get(f"/collections/{collection}/duplicates").raise_for_status().json()["groups"]
    item = items["2003/Animals/chelsea.jpg"]
    (group,) = [one["id"] for one in groups if item in [picture["item"]["id"] for picture in one["pictures"]]]
    trashed = [key for name, key in items.items() if "Laboratory" in name]
    api.post(f"/collections/{collection}/items/delete", json={"items": trashed}).raise_for_status()
    selected = [key for name, key in items.items() if "astronaut" in name and "small" not in name]
    example = written.folder / "2003/Table/coffee, tall part.jpg"
    return _Photographs(collection, item, group, selected, trashed[0], example)


def _search_several(api: httpx.Client, collections: list[str], picture: Path) -> str:
    form = {"query": json.dumps({"k": 12, "collections": collections})}
    files = {"picture": (picture.name, picture.read_bytes())}
    search = str(api.post("/searches", files=files, data=form).raise_for_status().json()["id"])
    wait_for(api, [search])
    return search


def _read_sign(api: httpx.Client, collection: str, file: Path) -> tuple[str, str]:
    """Upload a picture of a page, and have the text in the pictures read; return the item and the job."""
    page = Image.new("RGB", (900, 700), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(28)
    for number, line in enumerate(_PAGE):
        pen.text((40, 30 + 42 * number), line, font=font, fill="black")
    page.save(file)
    wait_for(api, [_upload(api, collection, [file])])
    job = str(api.post(f"/collections/{collection}/ocr").raise_for_status().json()["id"])
    wait_for(api, [job])
    found = api.get(f"/collections/{collection}/items", params={"q": file.name}).raise_for_status().json()["items"]
    return str(found[0]["id"]), job


def _locate(api: httpx.Client, collection: str) -> None:
    """Give the items of a collection positions around Rome, and some elsewhere."""
    items = api.get(f"/collections/{collection}/items?limit=200").raise_for_status().json()["items"]
    for number, item in enumerate(items):
        latitude, longitude = (41.5 + number % 7 / 5, 12 + number % 11 / 4) if number % 4 else (number % 70, 3 * number)
        change = {"position": {"latitude": latitude, "longitude": longitude}, "taken": f"{1990 + number % 20}"}
        api.patch(f"/items/{item['id']}", json=change).raise_for_status()


def _searches(api: httpx.Client, collection: str, queries: list[DemoQuery], folder: Path) -> list[str]:
    path = f"/collections/{collection}/searches"
    first = {"text": queries[_TEXT_QUERY].query, "k": K, "trace": True}
    injected = {"trigger": "fixed", "fixed_layer": 2, "alpha": 0.5}
    bodies: list[dict[str, Any]] = [first, {"text": queries[_TEXT_QUERY].query, "k": K, "injection": injected}]
    jobs = [api.post(path, json=one).raise_for_status().json()["id"] for one in bodies]
    picture = {"picture": (queries[_PICTURE_QUERY].file, (folder / queries[_PICTURE_QUERY].file).read_bytes())}
    form = {"query": json.dumps({"k": K})}
    jobs.append(api.post(path, files=picture, data=form).raise_for_status().json()["id"])
    # what is no match is learned from scores
    others = [query.query for number, query in enumerate(queries) if number != _TEXT_QUERY][:_OTHERS]
    jobs += [api.post(path, json={"text": text, "k": K}).raise_for_status().json()["id"] for text in others]
    return [str(job) for job in jobs]


def _search_for_nothing(api: httpx.Client, collection: str) -> str:
    asked = {"text": "a photograph of a steam train", "k": K}
    search = api.post(f"/collections/{collection}/searches", json=asked).raise_for_status().json()["id"]
    wait_for(api, [search])
    assert api.get(f"/searches/{search}").json()["no_match"] is True
    return str(search)


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
    return str(_items(api, collection)[0]["id"])


def _items(api: httpx.Client, collection: str) -> list[dict[str, Any]]:
    return list(api.get(f"/collections/{collection}/items?limit=200").raise_for_status().json()["items"])


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
