"""The task of the queues ``score`` and ``score:NAME``, which need a scorer."""

from __future__ import annotations

from uuid import UUID

from celery.worker import state

from retllm.db.enums import Stage
from retllm.fine.interface import FineScorer
from retllm.fine.opening import open_scorer
from retllm.queue.notifications import TASK_OF
from retllm.queue.worker import Finisher, run_units
from retllm.search.fine_worker import FineUnits
from retllm.settings import public_name
from retllm_workers.celery_app import app
from retllm_workers.context import HeldModel, get_context, limit_threads, local_score_workers, worker_settings


def _load() -> FineScorer:
    if worker_settings().remote_scorer is None:
        limit_threads(local_score_workers())
    return open_scorer(worker_settings())


HELD = HeldModel(_load)


def models() -> dict[str, HeldModel[FineScorer]]:
    """Return the scorer of this process by public name."""
    return {public_name(worker_settings().scorer_name): HELD}


# the scores of some units are stored while the next ones are computed
_FINISHER = Finisher()

# and the pictures of the next ones are prepared
_UNITS = FineUnits(HELD.get, lambda: HELD.loaded is None or state.should_stop is not None)


@app.task(name=TASK_OF[Stage.FINE])  # type: ignore[untyped-decorator]  # celery has no types
def fine_unit(unit_id: str) -> None:
    """Score the candidates of a unit of a search, of as many other units as the scorer takes at once, and of more."""
    run_units(
        get_context(),
        UUID(unit_id),
        _UNITS,
        items=HELD.loaded.pairs_at_once if HELD.loaded else 1,
        finisher=_FINISHER,
        following=_UNITS.following,
    )
