"""Each embedder of a deployment is indexed separately."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from tests.unit.stand_ins import index, run
from tests.unit.two_embedders import (
    LETTERS,
    LETTERS_NAME,
    MAIN,
    both,
    letters_are_broken,
    params_of,
    set_up,
    vectors,
)

from retllm.db.enums import JobState, UnitState
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.history import control
from retllm.history.job_views import job_view
from retllm.queue.worker import WorkerContext


@pytest.fixture
def context(context: WorkerContext, world) -> WorkerContext:
    """A context with two embedders; only the picture of an item with picture and text is embedded."""
    return set_up(context, world, extra_embedders=(LETTERS_NAME,), item_image_weight=1.0)


def test_an_index_job_has_separate_units_for_each_embedder(context: WorkerContext, world) -> None:
    world.add_texts("red", "blue", "green")
    job_id = index(context, world, both)
    assert world.job(job_id).state is JobState.SUCCEEDED
    assert vectors(world) == {MAIN: {"red", "blue", "green"}, LETTERS: {"red", "blue", "green"}}
    units = [(len(unit.payload["items"]), unit.payload.get("embedder")) for unit in world.units(job_id)]
    assert units == [(2, None), (1, None), (2, LETTERS), (1, LETTERS)]
    assert params_of(world, job_id)["extra_embedders"] == [LETTERS]


def test_an_index_job_with_one_embedder_does_not_mention_other_embedders(context: WorkerContext, world) -> None:
    main_only = set_up(context, world, extra_embedders=())
    ids = world.add_texts("red", "blue", "green")
    job_id = index(main_only, world)
    assert params_of(world, job_id) == {"embedder": MAIN, "item_image_weight": 1.0}
    assert [unit.payload for unit in world.units(job_id)] == [
        {"items": [str(ids[0]), str(ids[1])]},
        {"items": [str(ids[2])]},
    ]


def test_an_index_job_embeds_only_items_that_the_embedder_has_not_embedded(context: WorkerContext, world) -> None:
    world.add_texts("red", "blue")
    index(set_up(context, world, extra_embedders=()), world)
    set_up(context, world, extra_embedders=(LETTERS_NAME,))
    world.add_texts("green")
    units: dict[str, list[str]] = {MAIN: [], LETTERS: []}
    job_id = index(context, world, both)
    names = {str(item.id): item.name for item in _items(world)}
    for unit in world.units(job_id):
        units[unit.payload.get("embedder", MAIN)] += [names[item] for item in unit.payload["items"]]
    assert units == {MAIN: ["green"], LETTERS: ["red", "blue", "green"]}
    again = index(context, world, both)
    assert world.job(again).state is JobState.SUCCEEDED
    assert [unit.payload["items"] for unit in world.units(again)] == [[], []], "workers confirm that nothing is missing"


def _items(world) -> list[Item]:
    with world.sessions() as session:
        return list(session.scalars(sa.select(Item).order_by(Item.id)))


def test_only_the_units_of_an_embedder_that_cannot_be_loaded_fail(context: WorkerContext, world) -> None:
    world.add_texts("red", "blue", "green")
    job_id = index(context, world, letters_are_broken)
    job = world.job(job_id)
    assert (job.state, job.error) == (JobState.PARTIAL, "There is no folder /models/letters.")
    assert vectors(world) == {MAIN: {"red", "blue", "green"}}
    states = {unit.payload.get("embedder"): unit.state for unit in world.units(job_id)}
    assert states == {None: UnitState.DONE, LETTERS: UnitState.DEAD}
    with transaction(world.sessions) as session:
        view = job_view(session, world.job(job_id))
    assert view.progress == 0.5
    assert [(stage.items_total, stage.items_done, stage.items_failed) for stage in view.stages] == [(6, 3, 3)]
    with transaction(world.sessions) as session:
        control.retry_job(session, world.user, job_id)
    run(context, world, job_id, embedders=both)
    assert world.job(job_id).state is JobState.SUCCEEDED
    assert len(vectors(world)[LETTERS]) == 3
