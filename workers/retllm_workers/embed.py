"""Tasks of the queues ``embed`` and ``query``: everything that the embedder does."""

from __future__ import annotations

from uuid import UUID

from retllm.embedding import Embedder, load_embedder
from retllm.jobs import work_embed
from retllm.jobs.announce import TASK_OF
from retllm.jobs.work import run_unit
from retllm.settings import get_settings
from retllm_workers.app import app
from retllm_workers.bench import HeldModel, get_bench

QUEUES = frozenset({"embed", "query"})


def _load() -> Embedder:
    settings = get_settings()
    return load_embedder(settings.embedder_name, device=settings.device, dtype=settings.dtype)


HELD = HeldModel(_load)


@app.task(name=TASK_OF["embed"])  # type: ignore[untyped-decorator]  # celery has no types
def embed_unit(unit_id: str) -> None:
    """Embed the items of a unit of an index job."""
    run_unit(get_bench(), UUID(unit_id), lambda bench, held: work_embed.embed_unit(bench, held, HELD.get()))


@app.task(name=TASK_OF["query"])  # type: ignore[untyped-decorator]  # celery has no types
def coarse_unit(unit_id: str) -> None:
    """Do the coarse stage of a search."""
    run_unit(get_bench(), UUID(unit_id), lambda bench, held: work_embed.coarse_unit(bench, held, HELD.get()))
