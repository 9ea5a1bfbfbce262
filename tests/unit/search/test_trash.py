"""What is put into the trash while workers index and search it loses nothing, and no job fails."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import sqlalchemy as sa
from tests.unit.stand_ins import FakeEmbedder, FakeScorer, index, run, search, view_of

from retllm.db.enums import ItemState, JobState
from retllm.db.session import run_transaction, transaction
from retllm.db.tables import Embedding, Item
from retllm.indexing.submit import submit_index
from retllm.indexing.worker import embed_unit
from retllm.media import records, trash
from retllm.queue.audit import violations
from retllm.queue.worker import WorkerContext, run_unit
from retllm.search.coarse_worker import coarse_unit


def put(world, text: str) -> Item:
    """Put the item with this text into the trash."""

    def write(session: sa.orm.Session) -> Item:
        key = session.scalars(sa.select(Item.id).where(Item.text == text)).one()
        items = records.lock_items(session, [key])
        trash.trash_items(session, items, days=30, by=world.user.id)
        return items[0]

    return run_transaction(world.sessions, write)


def restore(world, item: Item) -> None:
    def write(session: sa.orm.Session) -> None:
        assert trash.restore_items(session, world.collection_id, [item.id]) == ([item.id], {})

    run_transaction(world.sessions, write)


def test_an_item_that_comes_into_the_trash_while_it_is_embedded_gets_its_vector(context: WorkerContext, world) -> None:
    world.add_texts("here", "away")
    with transaction(world.sessions) as session:
        job_id = submit_index(session, world.user, world.collection_id, world.settings).job.id
    away: list[Item] = []

    class Slow(FakeEmbedder):
        def embed_texts(self, texts: Sequence[str], *, query: bool = False) -> np.ndarray:
            if not away:
                away.append(put(world, "away"))
            return super().embed_texts(texts, query=query)

    run_unit(context, world.units(job_id)[0].id, lambda b, h: embed_unit(b, h, lambda _: Slow()))
    assert world.job(job_id).state is JobState.SUCCEEDED
    with world.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Embedding)) == 2
    assert violations(world.sessions, quiet=True) == []
    restore(world, away[0])
    assert violations(world.sessions, quiet=True) == []


def test_an_item_whose_unit_begins_when_it_is_in_the_trash_gets_its_vector(context: WorkerContext, world) -> None:
    world.add_texts("here", "away")
    with transaction(world.sessions) as session:
        job_id = submit_index(session, world.user, world.collection_id, world.settings).job.id
    away = put(world, "away")
    run_unit(context, world.units(job_id)[0].id, lambda b, h: embed_unit(b, h, lambda _: FakeEmbedder()))
    restore(world, away)
    with world.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Embedding)) == 2
    assert violations(world.sessions, quiet=True) == []


@pytest.mark.parametrize("restored", [False, True])
def test_a_candidate_in_the_trash_is_scored_and_shows_its_text_only_when_it_is_restored(
    context: WorkerContext, world, restored: bool
) -> None:
    world.add_texts("red circle", "red square", "red moon")
    index(context, world)
    search_id = search(world, text="red circle", k=3)
    run_unit(context, world.units(search_id)[0].id, lambda b, h: coarse_unit(b, h, lambda _: FakeEmbedder()))
    away = put(world, "red square")
    scorer = FakeScorer(lambda content: (0.9, 0.1) if content.text == "red moon" else (0.4, 0.1))
    run(context, world, search_id, scorer)
    if restored:
        restore(world, away)
    view = view_of(world, search_id)
    assert view.job.state is JobState.SUCCEEDED
    (found,) = [row for row in view.candidates if row.item_id == away.id]
    assert (found.score, found.error, found.name) == (0.4, None, away.name)
    shown = (ItemState.READY, "red square") if restored else (ItemState.TRASHED, None)
    assert (found.item_state, found.text) == shown
    assert violations(world.sessions, quiet=True) == []


def test_a_search_does_not_find_what_is_in_the_trash(context: WorkerContext, world) -> None:
    world.add_texts("red circle", "red square")
    index(context, world)
    away = put(world, "red circle")

    def found() -> list[str | None]:
        search_id = search(world, text="red circle", k=3)
        run(context, world, search_id, FakeScorer(lambda _: (0.9, 0.1)))
        return [row.text for row in view_of(world, search_id).candidates]

    assert found() == ["red square"]
    restore(world, away)
    assert sorted(map(str, found())) == ["red circle", "red square"]
