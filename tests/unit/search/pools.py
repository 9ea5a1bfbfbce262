"""Searches whose coarse stage is done, and scorers for their candidates."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import sqlalchemy as sa
from tests.unit.stand_ins import FakeEmbedder, FakeScorer, fine_unit, index, search, view_of

from retllm.db.enums import Stage, UnitState
from retllm.db.tables import Item
from retllm.fine import Content
from retllm.queue.worker import WorkerContext, run_unit
from retllm.search.coarse_worker import coarse_unit

LIKELY, UNLIKELY = 0.95, 0.05


def pool_of(context: WorkerContext, world, size: int, **fields: object) -> tuple[UUID, list[str]]:
    """A search whose coarse stage is done, and the texts of its candidates in coarse order.

    The first call of a test fills the collection of the world.
    """
    with world.sessions() as session:
        filled = session.scalar(sa.select(Item.id).filter_by(collection_id=world.collection_id).limit(1))
    if filled is None:
        words = [f"w{number}" for number in range(size)]
        world.add_texts(*[" ".join(["red", *words[:number]]) for number in range(size)])
        index(context, world)
    search_id = search(world, text="red", k=size, **fields)
    run_unit(context, world.units(search_id)[0].id, lambda b, h: coarse_unit(b, h, lambda _: FakeEmbedder()))
    rows = view_of(world, search_id).candidates
    return search_id, [row.text or "" for row in sorted(rows, key=lambda row: row.coarse_rank)]


def ready_units(world, search_id: UUID) -> list[UUID]:
    """The units of the fine stage that can be claimed."""
    return [unit.id for unit in world.units(search_id, Stage.FINE) if unit.state is UnitState.READY]


def scores_of(scores: dict[str, float | None], otherwise: float | None = UNLIKELY, entropy: float = 0.1):
    """Scores by the text of a candidate."""
    return lambda content: (scores.get(content.text or "", otherwise), entropy)


def run_fine(context: WorkerContext, unit_id: UUID, scorer: FakeScorer) -> bool:
    """Run one unit of the fine stage."""
    return run_unit(context, unit_id, lambda b, h: fine_unit(b, h, scorer))


def fails_for(*texts: str, otherwise: float = UNLIKELY) -> Callable[[Content], tuple[float, float]]:
    """Scores of which those for candidates with these texts fail."""

    def score(content: Content) -> tuple[float, float]:
        if content.text in texts:
            raise RuntimeError("out of memory")
        return otherwise, 0.1

    return score
