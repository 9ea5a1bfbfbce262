"""The units of the scorer: the fine stage of a search, for some of its candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.enums import ItemState
from retllm.db.tables import Item, Job, Score, Search
from retllm.errors import Conflict, MediaRejected, ModelUnavailable
from retllm.fine import Content, Injection, PairScore, Scorer
from retllm.jobs.announce import Announcement
from retllm.jobs.claim import complete
from retllm.jobs.work import Bench, Held
from retllm.media.ingest import open_picture
from retllm.settings import public_name


def fine_unit(bench: Bench, held: Held, scorer: Scorer) -> list[Announcement]:
    """Score the unit's candidates against the query and store the scores; those that are there already stay.

    Raises:
        StaleClaim, JobCancelled: between two batches, or at the end.
        MediaRejected, InvalidInput, TooLargeForDevice: a candidate is gone, can't be decoded, or is not for this
            model; with others in the unit, it is split.
    """
    with bench.sessions() as session:
        search = session.get_one(Search, held.claim.job_id)
        injection = Injection.from_json(search.injection)
        version = scorer.version(injection)
        items = _unscored(session, search, version, [UUID(item) for item in held.claim.payload["items"]])
    _demand_scorer(bench, search, version)
    scores: list[tuple[UUID, PairScore]] = []
    if items:
        query = _query(bench, search)
        candidates = [_content(bench, item) for item in items]
        held.lease.check()
        scored = scorer.score(query, candidates, injection)
        scores = list(zip((item.id for item in items), scored, strict=True))
    held.lease.check()

    def write(session: Session, job: Job) -> list[Announcement]:
        _store(session, job.id, scorer, version, scores)
        return []

    return complete(bench.sessions, held.claim, write)


def _demand_scorer(bench: Bench, search: Search, version: str) -> None:
    serves = public_name(bench.settings.scorer_name)
    if search.scorer != serves:
        raise ModelUnavailable(
            f"This search wants the scorer {search.scorer}, but the workers serve {serves}: "
            "start workers with the settings that the web server has."
        )
    if search.scorer_version is not None and search.scorer_version != version:
        raise Conflict(
            "The scorer changed while this search was at work, and scores of two versions can't be compared: "
            "search again."
        )


def _unscored(session: Session, search: Search, version: str, ids: Sequence[UUID]) -> list[Item]:
    """The items among ``ids`` that have no score of this version yet, in that order."""
    there = set(session.scalars(sa.select(Score.item_id).filter_by(search_id=search.id, scorer_version=version)))
    found = {item.id: item for item in session.scalars(sa.select(Item).where(Item.id.in_(ids)))}
    return [found[key] for key in ids if key in found and key not in there]


def _query(bench: Bench, search: Search) -> Content:
    key = search.query_picture_key
    return Content(image=bench.query_picture(key) if key else None, text=search.query_text)


def _content(bench: Bench, item: Item) -> Content:
    if item.state is not ItemState.READY:
        raise MediaRejected(f"{item.name} was deleted after the search had found it.")
    return Content(image=open_picture(bench.storage, item) if item.picture_key else None, text=item.text)


def _columns(score: PairScore) -> dict[str, Any]:
    values = asdict(score)
    return {name: values[name] for name in ("score", "entropy", "injected_layer", "uncertainty", "tokens")}


def _store(
    session: Session, search_id: UUID, scorer: Scorer, version: str, scores: Sequence[tuple[UUID, PairScore]]
) -> None:
    """Write the scores, once each; the first unit names the version that all others must have."""
    search = session.get_one(Search, search_id, populate_existing=True)
    if search.scorer_version is None:
        search.scorer_version = version
        search.scorer_revision = scorer.info.revision
        search.prompt_version = scorer.info.prompt_version
    elif search.scorer_version != version:
        raise Conflict("The scorer changed while this search was at work: search again.")
    if scores:
        rows = [
            {"search_id": search_id, "item_id": item_id, "scorer_version": version, **_columns(score)}
            for item_id, score in scores
        ]
        session.execute(insert(Score).values(rows).on_conflict_do_nothing())
