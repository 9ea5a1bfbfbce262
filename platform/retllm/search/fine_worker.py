"""The units of the scorer: the fine stage of a search, for some of its candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import sqlalchemy as sa
from PIL.Image import Image
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.enums import ItemState
from retllm.db.tables import Item, Job, Score, Search
from retllm.errors import Conflict, MediaRejected, ModelUnavailable, StorageUnavailable
from retllm.fine import Content, Injection, PairScore, Picture
from retllm.fine.prompts import Mode
from retllm.media.ingest import open_picture
from retllm.queue.claim import complete
from retllm.queue.notifications import Notification
from retllm.queue.worker import LeasedUnit, WorkerContext
from retllm.search import score_cache
from retllm.search.fine import is_entropy_pass
from retllm.search.query_picture import query_picture
from retllm.search.score_cache import Columns
from retllm.settings import public_name

if TYPE_CHECKING:
    # at run time this name imports torch and transformers
    from retllm.fine import Scorer


@dataclass(frozen=True)
class _Asking:
    """How a unit's candidates are put to the scorer.

    Attributes:
        search: the question.
        injection: its re-injection.
        version: of the search's scores.
        mode: of this unit: the search's, or ``true_false`` where a tie wants the entropy.
        mode_version: of the scores that this mode gives.
        entropy_only: the candidates have their score; only the entropy is wanted.
    """

    search: Search
    injection: Injection
    version: str
    mode: Mode
    mode_version: str
    entropy_only: bool

    @property
    def traced(self) -> bool:
        """Whether what the model did at each layer is kept."""
        return self.search.trace and not self.entropy_only


def fine_unit(bench: WorkerContext, held: LeasedUnit, scorer: Scorer) -> list[Notification]:
    """Score the unit's candidates against the query and store the scores; those that are there already stay.

    Raises:
        StaleClaim, JobCancelled: between two batches, or at the end.
        MediaRejected, InvalidInput, TooLargeForDevice: a candidate is gone, can't be decoded, or is not for this
            model; with others in the unit, it is split.
    """
    with bench.sessions() as session:
        search = session.get_one(Search, held.claim.job_id)
        asking = _asking(search, scorer, entropy_only=is_entropy_pass(held.claim.payload))
        _require_scorer(bench, asking)
        items = _unasked(session, asking, [UUID(item) for item in held.claim.payload["items"]])
        keys = {item.id: score_cache.key_of(asking.mode_version, search, item) for item in items}
        known = _known(session, bench, asking, list(keys.values()))
    held.lease.check()
    fresh = _judge(bench, held, scorer, asking, [item for item in items if keys[item.id] not in known])
    held.lease.check()

    def write(session: Session, job: Job) -> list[Notification]:
        _name_version(session, job.id, scorer, asking.version)
        if bench.settings.score_cache_rows:
            sound = {keys[item]: columns for item, columns in fresh.items() if columns["error"] is None}
            score_cache.keep(session, {key: _without_error(columns) for key, columns in sound.items()})
        cached = {item: known[key] | {"cached": True} for item, key in keys.items() if key in known}
        store = _store_entropies if asking.entropy_only else _store_scores
        store(session, job.id, asking.version, fresh | cached, held.claim.token)
        return []

    return complete(bench.sessions, held.claim, write)


def _asking(search: Search, scorer: Scorer, *, entropy_only: bool) -> _Asking:
    injection = Injection.from_json(search.injection)
    own = cast("Mode", search.mode)
    mode: Mode = "true_false" if entropy_only else own
    return _Asking(
        search=search,
        injection=injection,
        version=scorer.version(injection, own),
        mode=mode,
        mode_version=scorer.version(injection, mode),
        entropy_only=entropy_only,
    )


def _require_scorer(bench: WorkerContext, asking: _Asking) -> None:
    search, serves = asking.search, public_name(bench.settings.scorer_name)
    if search.scorer != serves:
        raise ModelUnavailable(
            f"This search wants the scorer {search.scorer}, but the workers serve {serves}: "
            "start workers with the settings that the web server has."
        )
    if search.scorer_version is not None and search.scorer_version != asking.version:
        raise Conflict(
            "The scorer changed while this search was at work, and scores of two versions can't be compared: "
            "search again."
        )


def _unasked(session: Session, asking: _Asking, ids: Sequence[UUID]) -> list[Item]:
    """The items among ``ids`` whose score (or, in the entropy pass, entropy) is not there yet, in that order.

    Raises:
        MediaRejected: one of them was deleted.
    """
    there = sa.select(Score.item_id).filter_by(search_id=asking.search.id, scorer_version=asking.version)
    if asking.entropy_only:
        there = there.where(Score.entropy.is_not(None))
    done = set(session.scalars(there))
    found = {item.id: item for item in session.scalars(sa.select(Item).where(Item.id.in_(ids)))}
    items = [found[key] for key in ids if key in found and key not in done]
    for item in items:
        if item.state is not ItemState.READY:
            raise MediaRejected(f"{item.name} was deleted after the search had found it.")
    return items


def _known(session: Session, bench: WorkerContext, asking: _Asking, keys: list[str]) -> dict[str, Columns]:
    if not bench.settings.score_cache_rows:
        return {}
    return score_cache.look_up(session, keys, traced=asking.traced)


def _judge(
    bench: WorkerContext, held: LeasedUnit, scorer: Scorer, asking: _Asking, items: Sequence[Item]
) -> dict[UUID, Columns]:
    """The columns of the scores of these items, by the model."""
    if not items:
        return {}
    query = _query(bench, asking.search)
    candidates = [_content(bench, item) for item in items]
    held.lease.check()
    scores = scorer.score(query, candidates, asking.injection, mode=asking.mode, trace=asking.traced)
    return {item.id: _columns(score) for item, score in zip(items, scores, strict=True)}


def _query(bench: WorkerContext, search: Search) -> Content:
    key = search.query_picture_key
    picture = Picture(partial(_opened, query_picture, bench, key), search.query_picture_sha256) if key else None
    return Content(image=picture, text=search.query_text)


def _content(bench: WorkerContext, item: Item) -> Content:
    # named by its content, so that what the scorer keeps of a picture serves other searches without opening it again
    opening = partial(_opened, open_picture, bench.storage, item)
    return Content(image=Picture(opening, item.content_sha256) if item.picture_key else None, text=item.text)


def _opened(open_: Callable[..., Image], *of: object) -> Image:
    """The picture, opened when the scorer wants its pixels.

    Raises:
        MediaRejected: it can't be decoded, as often as one tries.
        StorageUnavailable: it can't be read now; to the scorer a plain OSError would mean that the picture is bad.
    """
    try:
        return open_(*of)
    except OSError as error:
        raise StorageUnavailable(f"A picture can't be read from the storage: {error}") from error


def _columns(score: PairScore) -> Columns:
    names = ("score", "log_odds", "entropy", "injected_layer", "uncertainty", "tokens", "error")
    values: dict[str, Any] = {name: getattr(score, name) for name in names}
    return values | {"trace": None if score.trace is None else score.trace.as_json()}


def _without_error(columns: Columns) -> Columns:
    return {name: value for name, value in columns.items() if name != "error"}


def _name_version(session: Session, search_id: UUID, scorer: Scorer, version: str) -> None:
    """The first unit that ends names the version that all others must have."""
    search = session.get_one(Search, search_id, populate_existing=True)
    if search.scorer_version is None:
        search.scorer_version = version
        search.scorer_revision = scorer.info.revision
        search.prompt_version = scorer.info.prompt_version
    elif search.scorer_version != version:
        raise Conflict("The scorer changed while this search was at work: search again.")


def _store_scores(session: Session, search_id: UUID, version: str, scores: dict[UUID, Columns], token: UUID) -> None:
    """Write the scores, once each."""
    every = {"error": None, "trace": None, "cached": False}
    rows = [
        {"search_id": search_id, "item_id": item_id, "scorer_version": version, "token": token, **every, **columns}
        for item_id, columns in scores.items()
    ]
    if rows:
        session.execute(insert(Score).values(rows).on_conflict_do_nothing())


def _store_entropies(session: Session, search_id: UUID, version: str, scores: dict[UUID, Columns], token: UUID) -> None:
    """Add the entropy to the scores that tie."""
    for item_id, columns in scores.items():
        session.execute(
            sa.update(Score)
            .where(Score.search_id == search_id, Score.item_id == item_id, Score.scorer_version == version)
            .values(entropy=columns["entropy"], token=token)
        )
