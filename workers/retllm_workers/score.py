"""The task of the queue ``score``, which needs the scorer."""

from __future__ import annotations

from uuid import UUID

from retllm.fine.interface import FineScorer
from retllm.fine.opening import open_scorer
from retllm.queue.notifications import TASK_OF
from retllm.queue.worker import run_unit
from retllm.search import fine_worker
from retllm.settings import get_settings, public_name
from retllm_workers.celery_app import app
from retllm_workers.context import HeldModel, get_context, limit_threads

QUEUES = frozenset({"score"})


def _load() -> FineScorer:
    if get_settings().remote_scorer is None:
        limit_threads()
    return open_scorer(get_settings())


HELD = HeldModel(_load)


def models() -> dict[str, HeldModel[FineScorer]]:
    """Return the configured scorer by public name."""
    return {public_name(get_settings().scorer_name): HELD}


@app.task(name=TASK_OF["score"])  # type: ignore[untyped-decorator]  # celery has no types
def fine_unit(unit_id: str) -> None:
    """Score the candidates of a unit of a search."""
    run_unit(get_context(), UUID(unit_id), lambda context, held: fine_worker.fine_unit(context, held, HELD.get()))
