"""The demo's way through the platform, as a client of its REST API: upload, index, search, compare the two orders."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retllm.cli import search, show, upload
from retllm.cli.client import Api, Json
from retllm.demo.world import DemoQuery, write_collection
from retllm.errors import Conflict

COLLECTION = "demo scenes"
FAMILIES = 16
# not a seed that training or tuning has seen; `retllm eval scenes` reports on others
SEED = 2026
# one search in each of the first families: enough to see what the fine stage does, done in seconds
SEARCHES = 12
_FAMILY = 8


@dataclass(frozen=True)
class Asked:
    """A search that is over, and where each stage put the right item (None: not among the candidates, or unknown)."""

    query: str
    job: Json
    result: Json
    coarse_rank: int | None
    final_rank: int | None
    seconds: float


def run_tour(api: Api, photos: Path | None, query: str | None) -> Json:
    """Show the whole way; returns what is told at the end as one JSON object.

    Args:
        photos: a folder of the user's own pictures in place of the procedural scenes.
        query: a text to search for; for the scenes it is in place of their captions.

    Raises:
        Conflict: the folder holds no picture that can be taken.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="retllm-demo-") as folder:
        if photos is None:
            queries = write_collection(Path(folder), FAMILIES, SEED)[::_FAMILY][:SEARCHES]
            # the captions stay outside: finding the right picture by its own caption would prove nothing
            (Path(folder) / "captions.jsonl").unlink()
        else:
            queries = []
        if query is not None or not queries:
            queries = [DemoQuery(query or "a photograph of a person", "")]
        name = COLLECTION if photos is None else f"photos from {photos.resolve().name}"
        collection, uploaded = _upload(api, name, photos or Path(folder))
    ingest = time.monotonic() - started
    index = _index(api, collection["id"])
    asked = [_ask(api, collection["id"], one) for one in queries]
    _compare(asked)
    return _summary(api, collection["id"], asked, index, ingest, uploaded)


def _upload(api: Api, name: str, folder: Path) -> tuple[Json, list[Json]]:
    collection = upload.find_or_make(api, name, create=True)
    outcomes = upload.send_paths(api, collection["id"], [folder], quiet=False)
    for outcome in outcomes:
        if outcome["status"] == "rejected":
            show.say(f"  {outcome['name']}: {outcome['error']['message']}")
    if not any(outcome["status"] != "rejected" for outcome in outcomes):
        raise Conflict(f"{folder} holds no picture that can be taken.")
    return collection, outcomes


def _index(api: Api, collection_id: str) -> Json:
    job = api.submit(f"/collections/{collection_id}/index")
    job = show.follow(api, job["id"], quiet=False)
    if job["state"] not in ("succeeded", "partial"):
        raise Conflict(f"Index job {show.job_state(job)}: {job['error']}")
    return job


def _ask(api: Api, collection_id: str, wanted: DemoQuery) -> Asked:
    started = time.monotonic()
    job = search.submit(api, collection_id, {"text": wanted.query})
    job = api.watch(job["id"], lambda _: None)
    if job["state"] != "succeeded":
        raise Conflict(f"Search {show.job_state(job)}: {job['error']}")
    result = api.get(f"/searches/{job['id']}")
    right = next((row for row in result["candidates"] if row["name"] == wanted.file), None)
    return Asked(
        wanted.query,
        job,
        result,
        right["coarse_rank"] if right else None,
        right["final_rank"] if right else None,
        time.monotonic() - started,
    )


def _best(asked: Sequence[Asked]) -> Asked:
    """The search to show: one where the fine stage moved the right item furthest up."""

    def gain(one: Asked) -> int:
        return (one.coarse_rank or 0) - (one.final_rank or 0)

    return max(asked, key=gain)


def _compare(asked: Sequence[Asked]) -> None:
    shown = _best(asked)
    if len(asked) > 1:
        rows = [(one.query, one.coarse_rank, one.final_rank, f"{one.seconds:.1f}") for one in asked]
        show.table(("query", "coarse rank", "final rank", "seconds"), rows, "\nWhere each stage puts the right picture")
    candidates = shown.result["candidates"]
    coarse = sorted(candidates, key=lambda row: row["coarse_rank"])
    places = [
        (final["rank"], near["name"], show.number(near["similarity"]), final["name"], show.number(final["score"]))
        for near, final in zip(coarse, candidates, strict=True)
    ]
    show.table(("", "coarse order", "similarity", "final order", "score"), places, f"\nQuery: {shown.query}")


def _summary(
    api: Api, collection_id: str, asked: Sequence[Asked], index: Json, ingest: float, uploaded: Sequence[Json]
) -> Json:
    shown = _best(asked)
    known = [one for one in asked if one.coarse_rank is not None]
    seconds: dict[str, Any] = {"upload": round(ingest, 2)}
    for job in (index, shown.job):
        seconds |= {stage["stage"]: stage["seconds"] for stage in job["stages"]}
    return {
        "collection": collection_id,
        "items": api.get(f"/collections/{collection_id}")["items_total"],
        "uploaded": sum(outcome["status"] != "rejected" for outcome in uploaded),
        "job": shown.job["id"],
        "query": shown.query,
        "coarse_rank": shown.coarse_rank,
        "final_rank": shown.final_rank,
        "seconds": {name: value and round(value, 3) for name, value in seconds.items()},
        "searches": len(asked),
        "first_by_coarse": sum(one.coarse_rank == 1 for one in known) if known else None,
        "first_by_fine": sum(one.final_rank == 1 for one in known) if known else None,
    }
