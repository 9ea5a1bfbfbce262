"""The steps of the demo, as a client of the REST API: upload, index, search, compare the two orders."""

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
# this seed was not used for training or tuning; `retllm eval scenes` reports on others
SEED = 2026
# one search in each of the first families: shows the effect of the fine stage in seconds
SEARCHES = 12
_FAMILY = 8


@dataclass(frozen=True)
class CompletedSearch:
    """A search that is over, and the ranks of the right item (None: not a candidate, or unknown)."""

    query: str
    job: Json
    result: Json
    coarse_rank: int | None
    final_rank: int | None
    seconds: float


def run_tour(api: Api, photos: Path | None, query: str | None) -> Json:
    """Run the demo and return its result.

    Args:
        photos: a folder with the user's pictures instead of the procedural scenes.
        query: a text to search for; for the scenes, instead of their captions.

    Raises:
        Conflict: the folder contains no acceptable picture, or a job did not succeed.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="retllm-demo-") as folder:
        if photos is None:
            queries = write_collection(Path(folder), FAMILIES, SEED)[::_FAMILY][:SEARCHES]
            # captions are not uploaded: a picture would be found by its own caption
            (Path(folder) / "captions.jsonl").unlink()
        else:
            queries = []
        if query is not None or not queries:
            queries = [DemoQuery(query or "a photograph of a person", "")]
        name = COLLECTION if photos is None else f"photos from {photos.resolve().name}"
        # the scenes by themselves, since names begin with the folder that is given
        paths = sorted(Path(folder).iterdir()) if photos is None else [photos]
        collection, uploaded = _upload(api, name, paths)
    ingest = time.monotonic() - started
    index = _index(api, collection["id"])
    asked = [_ask(api, collection["id"], demo_query) for demo_query in queries]
    _compare(asked)
    return _summary(api, collection["id"], asked, index, ingest, uploaded)


def _upload(api: Api, name: str, paths: Sequence[Path]) -> tuple[Json, list[Json]]:
    collection = upload.find_or_make(api, name, create=True)
    outcomes = upload.upload_files(api, collection["id"], upload.find_files(paths), index=False, quiet=False).outcomes
    for outcome in outcomes:
        if outcome["status"] == "rejected":
            show.say(f"  {outcome['name']}: {outcome['error']['message']}")
    if not any(outcome["status"] in upload.TAKEN for outcome in outcomes):
        raise Conflict(f"{paths[0]} contains no acceptable picture.")
    return collection, outcomes


def _index(api: Api, collection_id: str) -> Json:
    job = api.submit(f"/collections/{collection_id}/index")
    job = show.follow(api, job["id"], quiet=False)
    if job["state"] not in ("succeeded", "partial"):
        raise Conflict(f"Index job {show.job_state(job)}: {job['error']}")
    return job


def _ask(api: Api, collection_id: str, demo_query: DemoQuery) -> CompletedSearch:
    started = time.monotonic()
    job = search.submit(api, collection_id, {"text": demo_query.query})
    job = api.watch(job["id"], lambda _: None)
    if job["state"] != "succeeded":
        raise Conflict(f"Search {show.job_state(job)}: {job['error']}")
    result = api.get(f"/searches/{job['id']}")
    right = next((row for row in result["candidates"] if row["name"] == demo_query.file), None)
    return CompletedSearch(
        demo_query.query,
        job,
        result,
        right["coarse_rank"] if right else None,
        right["final_rank"] if right else None,
        time.monotonic() - started,
    )


def _best(asked: Sequence[CompletedSearch]) -> CompletedSearch:
    """Return the search in which the fine stage moved the right item up the most."""

    def gain(search: CompletedSearch) -> int:
        return (search.coarse_rank or 0) - (search.final_rank or 0)

    return max(asked, key=gain)


def _compare(asked: Sequence[CompletedSearch]) -> None:
    shown = _best(asked)
    if len(asked) > 1:
        rows = [(done.query, done.coarse_rank, done.final_rank, f"{done.seconds:.1f}") for done in asked]
        show.table(
            ("query", "coarse rank", "final rank", "seconds"), rows, "\nRank of the right picture after each stage"
        )
    candidates = shown.result["candidates"]
    coarse = sorted(candidates, key=lambda row: row["coarse_rank"])
    pairs = [
        (final["rank"], first["name"], show.number(first["similarity"]), final["name"], show.number(final["score"]))
        for first, final in zip(coarse, candidates, strict=True)
    ]
    show.table(("", "coarse order", "similarity", "final order", "score"), pairs, f"\nQuery: {shown.query}")


def _summary(
    api: Api, collection_id: str, asked: Sequence[CompletedSearch], index: Json, ingest: float, uploaded: Sequence[Json]
) -> Json:
    shown = _best(asked)
    known = [done for done in asked if done.coarse_rank is not None]
    seconds: dict[str, Any] = {"upload": round(ingest, 2)}
    for job in (index, shown.job):
        seconds |= {stage["stage"]: stage["seconds"] for stage in job["stages"]}
    return {
        "collection": collection_id,
        "items": api.get(f"/collections/{collection_id}")["items_total"],
        "uploaded": sum(outcome["status"] in upload.TAKEN for outcome in uploaded),
        "job": shown.job["id"],
        "query": shown.query,
        "coarse_rank": shown.coarse_rank,
        "final_rank": shown.final_rank,
        "seconds": {name: value and round(value, 3) for name, value in seconds.items()},
        "searches": len(asked),
        "first_by_coarse": sum(done.coarse_rank == 1 for done in known) if known else None,
        "first_by_fine": sum(done.final_rank == 1 for done in known) if known else None,
    }
