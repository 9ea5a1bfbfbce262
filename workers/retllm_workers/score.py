"""The task of the queue ``score``, which needs the scorer."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from retllm.queue.notifications import TASK_OF
from retllm.queue.worker import run_unit
from retllm.search import fine_worker
from retllm.settings import get_settings, public_name
from retllm_workers.celery_app import app
from retllm_workers.context import HeldModel, get_context

if TYPE_CHECKING:
    from retllm.fine import Scorer

QUEUES = frozenset({"score"})


def _load() -> Scorer:
    # imported here: the workers of the embedders do not need it
    from retllm.fine import load_scorer

    settings = get_settings()
    return load_scorer(
        settings.scorer_name,
        revision=settings.scorer_revision,
        device=settings.device,
        dtype=settings.dtype,
        token_budget=settings.token_budget,
        picture_tokens=settings.picture_tokens,
        prefix_bytes=settings.prefix_cache_bytes,
        visual_bytes=settings.visual_cache_bytes,
        picture_source=settings.picture_source,
    )


HELD = HeldModel(_load)


def models() -> dict[str, HeldModel[Scorer]]:
    """Return the configured scorer by public name."""
    return {public_name(get_settings().scorer_name): HELD}


@app.task(name=TASK_OF["score"])  # type: ignore[untyped-decorator]  # celery has no types
def fine_unit(unit_id: str) -> None:
    """Score the candidates of a unit of a search."""
    run_unit(get_context(), UUID(unit_id), lambda context, held: fine_worker.fine_unit(context, held, HELD.get()))
