"""The fine stage on a worker: score some candidates of a search."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.enums import ItemState
from retllm.db.searches import Candidate, Score, Search
from retllm.db.tables import Item, Job
from retllm.errors import (
    Conflict,
    InvalidInput,
    JobCancelled,
    ModelUnavailable,
    ModelUnsuited,
    NotFound,
    RetllmError,
    ScoreUnreadable,
    ServerAway,
    StaleClaim,
    TooLarge,
    TooLargeForDevice,
)
from retllm.fine import Content, Injection, PairScore
from retllm.fine.interface import FineScorer
from retllm.fine.prompts import Mode
from retllm.media.parallel import PixelBudget
from retllm.queue.claim import complete
from retllm.queue.routing import Notification
from retllm.queue.worker import Following, LastStep, LeasedUnit, UnitsFunction, WorkerContext
from retllm.search import score_cache
from retllm.search.fine import is_entropy_pass
from retllm.search.fine_pictures import PicturesAhead, query_content
from retllm.search.score_cache import Columns
from retllm.settings import public_name

log = structlog.get_logger(__name__)

#: errors of one pair: no attempt of a worker like this one can score it
_OF_A_PAIR = (InvalidInput, NotFound, TooLarge, TooLargeForDevice, ScoreUnreadable)


@dataclass(frozen=True)
class _Task:
    """What a unit asks of the scorer.

    Attributes:
        search: the search.
        injection: re-injection settings of the search.
        version: scorer version of the search's scores.
        mode: mode of this unit: that of the search, or ``true_false`` to compute the entropy of ties.
        mode_version: scorer version of the scores in this mode.
        entropy_only: the candidates have their score; compute only the entropy.
    """

    search: Search
    injection: Injection
    version: str
    mode: Mode
    mode_version: str
    entropy_only: bool

    @property
    def traced(self) -> bool:
        """Whether to keep the trace of the model's layers."""
        return self.search.trace and not self.entropy_only


@dataclass
class _Work:
    """A unit of the fine stage in work.

    Attributes:
        items: the candidates to score, in order.
        deleted: candidates that were deleted meanwhile.
        keys: keys in the score cache, by item.
        known: scores in the cache, by key.
        fresh: new scores, by item.
        error: why the unit can't go on.
    """

    held: LeasedUnit
    task: _Task
    query: Content
    items: list[Item]
    deleted: list[Item]
    keys: dict[UUID, str]
    known: dict[str, Columns]
    fresh: dict[UUID, Columns] = field(default_factory=dict)
    error: Exception | None = None

    @property
    def way(self) -> Hashable:
        """Equal for units whose pairs can be scored in one call."""
        return self.task.injection, self.task.mode, self.task.traced


def fine_units(
    context: WorkerContext, held: Sequence[LeasedUnit], scorer: FineScorer, ahead: PicturesAhead | None = None
) -> list[LastStep | Exception]:
    """Score the candidates of units, of one search or of several, each against its query; existing scores are kept.

    A candidate that no attempt can score (damaged in the storage, not for this model) gets a score without a value that
    says why. One that was deleted gets an error and no score. The others are scored.

    Args:
        context, held, scorer: of the worker.
        ahead: the pictures of these units, if they were begun before.

    Returns:
        For each unit its last step, which stores the scores, or its error: StaleClaim or JobCancelled between two
        batches; ModelUnsuited if the scorer lacks a layer that the search chose; Conflict if the query's picture can't
        be read any more; ServerAway if the server of the scorer does not answer, so that the unit waits for it.

    Raises:
        ServerAway: the server does not answer before the first pair.
    """
    scorer.refresh()
    begun = [_begun(context, unit, scorer) for unit in held]
    works: dict[Hashable, list[_Work]] = {}
    for work in begun:
        if isinstance(work, _Work):
            works.setdefault(work.way, []).append(work)
    with closing(ahead or _ahead(context, scorer, begun, PixelBudget(context.settings.decoded_bytes))) as pictures:
        for some in works.values():
            _score(pictures, scorer, some)
    return [
        work if isinstance(work, Exception) else work.error or partial(_stored, context, scorer, work) for work in begun
    ]


def _ahead(
    context: WorkerContext,
    scorer: FineScorer,
    begun: Sequence[_Work | Exception],
    budget: PixelBudget,
    without: Collection[str] = (),
) -> PicturesAhead:
    """Begin to prepare the pictures of units, in the order in which they are scored, without some items."""
    items = [item for work in begun if isinstance(work, _Work) for item in work.items if str(item.id) not in without]
    return PicturesAhead(context, scorer, items, budget)


class FineUnits:
    """Does units of the fine stage, and prepares the pictures of the next ones meanwhile.

    Args:
        scorer: returns the loaded scorer.
        stops: returns whether the worker stops, so that it must not go on with further units.
    """

    def __init__(self, scorer: Callable[[], FineScorer], stops: Callable[[], bool]) -> None:
        self._scorer, self._stops = scorer, stops
        self._budget: PixelBudget | None = None
        self.following = Following(self._more, self._begin)

    def __call__(self, context: WorkerContext, held: Sequence[LeasedUnit]) -> list[LastStep | Exception]:
        """See :func:`fine_units`."""
        return fine_units(context, held, self._scorer())

    def _more(self) -> int:
        if self._stops():
            return 0
        scorer = self._scorer()
        # on a CPU the model itself needs the cores: its calls became slower by more than preparing takes
        return 0 if scorer.info.device == "cpu" else scorer.pairs_at_once

    @contextmanager
    def _begin(
        self, context: WorkerContext, held: Sequence[LeasedUnit], present: Sequence[LeasedUnit]
    ) -> Iterator[UnitsFunction]:
        scorer = self._scorer()
        begun = [_begun(context, unit, scorer) for unit in held]
        # the scorer keeps something of those
        without = {item for unit in present for item in unit.claim.payload["items"]}
        self._budget = self._budget or PixelBudget(context.settings.decoded_bytes)
        with closing(_ahead(context, scorer, begun, self._budget, without)) as ahead:
            yield partial(fine_units, scorer=scorer, ahead=ahead)


def _begun(context: WorkerContext, held: LeasedUnit, scorer: FineScorer) -> _Work | Exception:
    try:
        with context.sessions() as session:
            search = session.get_one(Search, held.claim.job_id)
            task = _task(search, scorer, entropy_only=is_entropy_pass(held.claim.payload))
            _require_scorer(context, task, scorer)
            unscored = _unscored(session, task, [UUID(item) for item in held.claim.payload["items"]])
            items = [item for item in unscored if item.state is ItemState.READY]
            keys = {item.id: score_cache.key_of(task.mode_version, search, item) for item in items}
            known = _cached(session, context, task, list(keys.values()))
        left = [item for item in items if keys[item.id] not in known]
        deleted = [item for item in unscored if item.state is not ItemState.READY]
        return _Work(held, task, query_content(context, search), left, deleted, keys, known)
    except Exception as error:
        return error


def _stored(context: WorkerContext, scorer: FineScorer, work: _Work) -> list[Notification]:
    """Store the scores of a unit and end it."""
    work.held.lease.check()
    task, claim, keys = work.task, work.held.claim, work.keys

    def write(session: Session, job: Job) -> list[Notification]:
        _set_version(session, job.id, scorer, task.version)
        if context.settings.score_cache_rows:
            valid = {keys[item]: columns for item, columns in work.fresh.items() if columns["error"] is None}
            score_cache.keep(session, {key: _without_error(columns) for key, columns in valid.items()})
        cached = {item: work.known[key] | {"cached": True} for item, key in keys.items() if key in work.known}
        store = _store_entropies if task.entropy_only else _store_scores
        store(session, job.id, task.version, work.fresh | cached, claim.token)
        if not task.entropy_only:
            _mark_deleted(session, job.id, work.deleted)
        return []

    return complete(context.sessions, claim, write)


def _task(search: Search, scorer: FineScorer, *, entropy_only: bool) -> _Task:
    injection = Injection.from_json(search.injection)
    search_mode = cast("Mode", search.mode)
    mode: Mode = "true_false" if entropy_only else search_mode
    return _Task(
        search=search,
        injection=injection,
        version=scorer.version(injection, search_mode),
        mode=mode,
        mode_version=scorer.version(injection, mode),
        entropy_only=entropy_only,
    )


def _require_scorer(context: WorkerContext, task: _Task, scorer: FineScorer) -> None:
    search = task.search
    if search.scorer != public_name(context.settings.scorer_name):
        raise ModelUnavailable(
            f"This search requires the scorer {search.scorer}, which is not configured; the scorers of the worker are "
            f"{', '.join(dict.fromkeys(context.settings.scorer_names))}. Set the same scorers for the web server and "
            "all workers, then retry; or search again with another scorer."
        )
    if search.scorer_version is not None and search.scorer_version != task.version:
        raise Conflict(
            "The scorer changed while this search was running, and scores of two versions can't be compared: "
            "search again."
        )
    try:
        task.injection.plan(scorer.info.layers)
    except InvalidInput as error:
        raise ModelUnsuited(error.message) from error


def _unscored(session: Session, task: _Task, ids: Sequence[UUID]) -> list[Item]:
    """Return the items among ``ids`` that lack a score (in the entropy pass: an entropy), in the order of ``ids``."""
    scored = sa.select(Score.item_id).filter_by(search_id=task.search.id, scorer_version=task.version)
    if task.entropy_only:
        scored = scored.where(Score.entropy.is_not(None))
    done = set(session.scalars(scored))
    found = {item.id: item for item in session.scalars(sa.select(Item).where(Item.id.in_(ids)))}
    return [found[key] for key in ids if key in found and key not in done]


def _cached(session: Session, context: WorkerContext, task: _Task, keys: list[str]) -> dict[str, Columns]:
    if not context.settings.score_cache_rows:
        return {}
    return score_cache.look_up(session, keys, traced=task.traced)


def _score(pictures: PicturesAhead, scorer: FineScorer, works: Sequence[_Work]) -> None:
    """Score the candidates of units in one call. If that fails for all, each unit is scored alone and has its error."""
    try:
        _score_pairs(pictures, scorer, [(work, item) for work in works for item in work.items])
    except Exception as error:
        # a server that is away is so for all of them
        if len(works) == 1 or isinstance(error, ServerAway):
            for work in works:
                work.error = work.error or error
            return
        log.warning("units.scored_alone", units=len(works), reason=str(error))
        for work in works:
            _score(pictures, scorer, [work])


def _score_pairs(pictures: PicturesAhead, scorer: FineScorer, pairs: Sequence[tuple[_Work, Item]]) -> None:
    pairs = [(work, item) for work, item in pairs if _goes_on(work) and item.id not in work.fresh]
    if not pairs:
        return
    task = pairs[0][0].task
    asked = [(work.query, pictures.content(item)) for work, item in pairs]
    try:
        scores = scorer.score_pairs(asked, task.injection, mode=task.mode, trace=task.traced)
    except _OF_A_PAIR as error:
        if len(pairs) == 1:
            (work, item), *_ = pairs
            log.warning("candidate.not_scored", item=str(item.id), reason=error.message)
            work.fresh[item.id] = _without_score(item, error)
            return
        # whichever it is of: the others are scored without it
        half = len(pairs) // 2
        _score_pairs(pictures, scorer, pairs[:half])
        _score_pairs(pictures, scorer, pairs[half:])
        return
    for (work, item), score in zip(pairs, scores, strict=True):
        work.fresh[item.id] = _columns(score)


def _goes_on(work: _Work) -> bool:
    """Return whether the unit is still to be done; the others of the same call go on without it."""
    try:
        work.held.lease.check()
    except (StaleClaim, JobCancelled) as error:
        work.error = error
    return work.error is None


def _columns(score: PairScore) -> Columns:
    names = ("score", "log_odds", "entropy", "injected_layer", "uncertainty", "tokens", "remark", "error")
    values: dict[str, Any] = {name: getattr(score, name) for name in names}
    return values | {"trace": None if score.trace is None else score.trace.as_json()}


def _without_score(item: Item, error: RetllmError) -> Columns:
    nothing = PairScore(None, None, None, None, None, tokens=0, error=f"{item.name}: {error.message}")
    return _columns(nothing)


def _without_error(columns: Columns) -> Columns:
    return {name: value for name, value in columns.items() if name != "error"}


def _set_version(session: Session, search_id: UUID, scorer: FineScorer, version: str) -> None:
    """Store the scorer version with the first completed unit; all other units must have the same one."""
    search = session.get_one(Search, search_id, populate_existing=True)
    if search.scorer_version is None:
        search.scorer_version = version
        search.scorer_revision = scorer.info.revision
        search.prompt_version = scorer.info.prompt_version
    elif search.scorer_version != version:
        raise Conflict("The scorer changed while this search was running: search again.")


def _store_scores(session: Session, search_id: UUID, version: str, scores: dict[UUID, Columns], token: UUID) -> None:
    """Insert the scores; existing ones are kept."""
    defaults = {"error": None, "remark": None, "trace": None, "cached": False}
    rows = [
        {"search_id": search_id, "item_id": item_id, "scorer_version": version, "token": token, **defaults, **columns}
        for item_id, columns in scores.items()
    ]
    if rows:
        session.execute(insert(Score).values(rows).on_conflict_do_nothing())


def _mark_deleted(session: Session, search_id: UUID, items: Sequence[Item]) -> None:
    for item in items:
        session.execute(
            sa.update(Candidate)
            .where(Candidate.search_id == search_id, Candidate.item_id == item.id)
            .values(error=f"{item.name} was deleted after the search found it.")
        )


def _store_entropies(session: Session, search_id: UUID, version: str, scores: dict[UUID, Columns], token: UUID) -> None:
    """Add the entropy to tied scores, where there is one."""
    for item_id, columns in scores.items():
        if columns["entropy"] is None:
            continue
        session.execute(
            sa.update(Score)
            .where(Score.search_id == search_id, Score.item_id == item_id, Score.scorer_version == version)
            .values(entropy=columns["entropy"], token=token)
        )
