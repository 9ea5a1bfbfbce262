"""The fine stage on a worker: score some candidates of a search."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import cast
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.enums import ItemState
from retllm.db.jobs import Job, Unit
from retllm.db.searches import Candidate, Score, Search
from retllm.db.tables import Item
from retllm.errors import (
    InvalidInput,
    ModelUnavailable,
    ModelUnsuited,
    Obsolete,
)
from retllm.fine import Injection
from retllm.fine.interface import FineScorer
from retllm.fine.prompts import Mode
from retllm.media.parallel import PixelBudget
from retllm.queue import lifecycle
from retllm.queue.claim import complete, set_back
from retllm.queue.routing import Notification
from retllm.queue.worker import Following, LastStep, LeasedUnit, UnitsFunction, WorkerContext
from retllm.search import score_cache
from retllm.search.fine import is_entropy_pass
from retllm.search.fine_calls import Task, Work, score_units
from retllm.search.fine_pictures import PicturesAhead, query_content
from retllm.search.score_cache import Columns
from retllm.settings import public_name

log = structlog.get_logger(__name__)


def fine_units(
    context: WorkerContext, held: Sequence[LeasedUnit], scorer: FineScorer, ahead: PicturesAhead | None = None
) -> list[LastStep | Exception]:
    """Score the candidates of units, of one search or of several, each against its query; existing scores are kept.

    A candidate that no attempt can score (damaged in the storage, not for this model) gets a score without a value that
    says why. One that was deleted gets an error and no score. The others are scored; those whose exchange with a server
    fails go into a unit of their own, if others of their unit have a score.

    Args:
        context, held, scorer: of the worker.
        ahead: the pictures of these units, if they were begun before.

    Returns:
        For each unit its last step, which stores the scores, or its error: StaleClaim or JobCancelled between two
        batches; ModelUnsuited if the scorer lacks a layer that the search chose; Obsolete if the query's picture can't
        be read any more; ServerAway if the server of the scorer does not answer, so that the unit waits for it.

    Raises:
        ServerAway: the server does not answer before the first pair.
    """
    scorer.refresh()
    begun = [_begun(context, unit, scorer) for unit in held]
    works: dict[Hashable, list[Work]] = {}
    for work in begun:
        if isinstance(work, Work):
            works.setdefault(work.way, []).append(work)
    with closing(ahead or _ahead(context, scorer, begun, PixelBudget(context.settings.decoded_bytes))) as pictures:
        for some in works.values():
            score_units(pictures, scorer, some)
    return [work if isinstance(work, Exception) else _last_step(context, scorer, work) for work in begun]


def _ahead(
    context: WorkerContext,
    scorer: FineScorer,
    begun: Sequence[Work | Exception],
    budget: PixelBudget,
    without: Collection[str] = (),
) -> PicturesAhead:
    """Begin to prepare the pictures of units, in the order in which they are scored, without some items."""
    items = [item for work in begun if isinstance(work, Work) for item in work.items if str(item.id) not in without]
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


def _begun(context: WorkerContext, held: LeasedUnit, scorer: FineScorer) -> Work | Exception:
    try:
        with context.sessions() as session:
            search = session.get_one(Search, held.claim.job_id)
            task = _task(search, scorer, entropy_only=is_entropy_pass(held.claim.payload))
            _require_scorer(context, task, scorer)
            unscored = _unscored(session, task, [UUID(item) for item in held.claim.payload["items"]])
            items = [item for item in unscored if item.state is not ItemState.DELETED]
            keys = {item.id: score_cache.key_of(task.mode_version, search, item) for item in items}
            known = _cached(session, context, task, list(keys.values()))
        left = [item for item in items if keys[item.id] not in known]
        deleted = [item for item in unscored if item.state is ItemState.DELETED]
        return Work(held, task, query_content(context, search), left, deleted, keys, known)
    except Exception as error:
        return error


def _last_step(context: WorkerContext, scorer: FineScorer, work: Work) -> LastStep | Exception:
    nothing_else = not (work.fresh or work.known or work.deleted)
    error = work.error or (work.failure if nothing_else else None)
    return error or partial(_stored, context, scorer, work)


def _stored(context: WorkerContext, scorer: FineScorer, work: Work) -> list[Notification]:
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
        return _tried_apart(session, context, job, work)

    return complete(context.sessions, claim, write)


def _tried_apart(session: Session, context: WorkerContext, job: Job, work: Work) -> list[Notification]:
    """Move the pairs that failed into a unit that is tried again, or waits, without the others."""
    error, claim = work.failure, work.held.claim
    if error is None:
        return []
    unit = lifecycle.set_aside(
        session, job, session.get_one(Unit, claim.unit_id), {str(item) for item in work.failed}, sa.func.now()
    )
    return set_back(session, job, unit, claim, error, context.settings)


def _task(search: Search, scorer: FineScorer, *, entropy_only: bool) -> Task:
    injection = Injection.from_json(search.injection)
    search_mode = cast("Mode", search.mode)
    mode: Mode = "true_false" if entropy_only else search_mode
    return Task(
        search=search,
        injection=injection,
        version=scorer.version(injection, search_mode),
        mode=mode,
        mode_version=scorer.version(injection, mode),
        entropy_only=entropy_only,
    )


def _require_scorer(context: WorkerContext, task: Task, scorer: FineScorer) -> None:
    search = task.search
    if search.scorer != public_name(context.settings.scorer_name):
        raise ModelUnavailable(
            f"This search requires the scorer {search.scorer}, which is not configured; the scorers of the worker are "
            f"{', '.join(dict.fromkeys(context.settings.scorer_names))}. Set the same scorers for the web server and "
            "all workers, then retry; or search again with another scorer."
        )
    if search.scorer_version is not None and search.scorer_version != task.version:
        raise Obsolete(
            "The scorer changed while this search was running, and scores of two versions can't be compared: "
            "search again."
        )
    try:
        task.injection.plan(scorer.info.layers)
    except InvalidInput as error:
        raise ModelUnsuited(error.message) from error


def _unscored(session: Session, task: Task, ids: Sequence[UUID]) -> list[Item]:
    """Return the items among ``ids`` that lack a score (in the entropy pass: an entropy), in the order of ``ids``."""
    scored = sa.select(Score.item_id).filter_by(search_id=task.search.id, scorer_version=task.version)
    if task.entropy_only:
        scored = scored.where(Score.entropy.is_not(None))
    done = set(session.scalars(scored))
    found = {item.id: item for item in session.scalars(sa.select(Item).where(Item.id.in_(ids)))}
    return [found[key] for key in ids if key in found and key not in done]


def _cached(session: Session, context: WorkerContext, task: Task, keys: list[str]) -> dict[str, Columns]:
    if not context.settings.score_cache_rows:
        return {}
    return score_cache.look_up(session, keys, traced=task.traced)


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
        raise Obsolete("The scorer changed while this search was running: search again.")


def _store_scores(session: Session, search_id: UUID, version: str, scores: dict[UUID, Columns], token: UUID) -> None:
    """Insert the scores; existing ones are kept. A candidate that went with its collection meanwhile gets none."""
    defaults = {"error": None, "remark": None, "trace": None, "cached": False}
    query = sa.select(Candidate.item_id).where(Candidate.search_id == search_id, Candidate.item_id.in_(scores))
    left = session.scalars(query.order_by(Candidate.item_id).with_for_update(read=True, key_share=True))
    rows = [
        {
            "search_id": search_id,
            "item_id": item_id,
            "scorer_version": version,
            "token": token,
            **defaults,
            **scores[item_id],
        }
        for item_id in left
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
