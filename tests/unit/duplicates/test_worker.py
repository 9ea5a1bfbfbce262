"""A job finds the near-duplicates of a collection, whatever happens to its workers, and replaces the earlier result."""

from __future__ import annotations

import io
import random
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from PIL import Image
from tests.factories import make_collection, make_embedding, make_model, make_picture, store
from tests.unit.job_world import World
from tests.unit.stand_ins import SilentNotifier

from retllm.bench.duplicates import CHANGES
from retllm.db.duplicates import DuplicateGroup, DuplicateMember, DuplicateResult, SimilarPair, is_group
from retllm.db.enums import JobState, UnitState
from retllm.db.jobs import Unit
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.demo.scenes import random_scene, render
from retllm.duplicates import replacing, views
from retllm.duplicates import worker as searching
from retllm.duplicates.submit import submit_duplicates
from retllm.errors import Conflict, NotFound
from retllm.history import control
from retllm.history.job_views import job_view
from retllm.media import records, trash
from retllm.media.ingest import Ingest, delete_item
from retllm.media.transfers import Transfer
from retllm.queue.audit import violations
from retllm.queue.dispatcher import Dispatcher
from retllm.queue.worker import WorkerContext, run_unit
from retllm.settings import public_name


def scene(number: int) -> Image.Image:
    return render(random_scene(random.Random(number), held_out=True), 256)


def file_of(picture: Image.Image) -> io.BytesIO:
    file = io.BytesIO()
    picture.save(file, "PNG")
    file.seek(0)
    return file


def add(context: WorkerContext, world: World, pictures: dict[str, Image.Image]) -> dict[str, UUID]:
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    keys: dict[str, UUID] = {}
    for name, picture in pictures.items():
        outcome = ingest.add_picture(name, file_of(picture))
        assert outcome.item_id is not None
        keys[name] = outcome.item_id
    return keys


def pictures_in_two_groups() -> dict[str, Image.Image]:
    one, two = scene(1), scene(2)
    return {
        "one.png": one,
        "one small.png": CHANGES["resized to a half"](one),
        "two.png": two,
        "two dark.png": CHANGES["20 % darker"](two),
        "two small.png": CHANGES["resized to a half"](two),
        "three.png": scene(3),
        "plain.png": Image.new("RGB", (60, 40), "red"),
        "plain too.png": Image.new("RGB", (60, 40), "blue"),
    }


TWO_GROUPS = [["two dark.png", "two.png", "two small.png"], ["one.png", "one small.png"]]


def submit(world: World) -> UUID:
    with transaction(world.sessions) as session:
        return submit_duplicates(session, world.user, world.collection_id, world.settings).job.id


def do(context: WorkerContext, unit: Unit) -> bool:
    return run_unit(context, unit.id, searching.duplicates_unit)


def run(context: WorkerContext, world: World, job_id: UUID) -> None:
    while ready := [unit for unit in world.units(job_id) if unit.state is UnitState.READY]:
        for unit in ready:
            assert do(context, unit)


def find(context: WorkerContext, world: World) -> UUID:
    job_id = submit(world)
    run(context, world, job_id)
    return job_id


def groups(world: World) -> list[list[str]]:
    """The names of the pictures of each group, in the order in which the page shows them."""
    with world.sessions() as session:
        found = views.groups_from(session, world.collection_id, limit=100)
        sizes = dict(session.execute(sa.select(DuplicateGroup.id, DuplicateGroup.size).where(is_group())).all())
        assert {group.id: len(group.pictures) for group in found} == sizes, "the kept sizes are right"
        return [[one.item.name for one in group.pictures] for group in found]


def group_key(world: World, name: str) -> UUID:
    with world.sessions() as session:
        of_item = sa.select(DuplicateMember.group_id).join(Item, Item.id == DuplicateMember.item_id)
        return session.scalars(of_item.where(Item.name == name)).one()


def forget_hashes(world: World) -> None:
    """Make all pictures those of a release that computed none."""
    with transaction(world.sessions) as session:
        session.execute(sa.update(Item).values(perceptual_hash=None))


def check(world: World, context: WorkerContext) -> None:
    assert [str(one) for one in violations(world.sessions, context.storage, quiet=True)] == []


def test_the_changed_copies_of_pictures_are_found_the_one_to_keep_first(context: WorkerContext, world: World) -> None:
    add(context, world, pictures_in_two_groups())
    job_id = find(context, world)
    assert world.job(job_id).state is JobState.SUCCEEDED
    assert groups(world) == TWO_GROUPS
    with world.sessions() as session:
        state = views.state_of(session, world.collection_id)
        view = job_view(session, world.job(job_id))
    assert state.result is not None
    assert (state.result.job_id, state.result.pictures, state.groups) == (job_id, 8, 2)
    assert not state.out_of_date
    assert view.progress == 1.0
    check(world, context)


def test_pictures_of_an_earlier_release_get_their_hashes_first(context: WorkerContext, world: World) -> None:
    add(context, world, pictures_in_two_groups())
    with world.sessions() as session:
        before = dict(session.execute(sa.select(Item.name, Item.perceptual_hash)).all())
    forget_hashes(world)
    job_id = find(context, world)
    assert groups(world) == TWO_GROUPS
    with world.sessions() as session:
        after = dict(session.execute(sa.select(Item.name, Item.perceptual_hash)).all())
    far = {name: (before[name] ^ after[name]) & (1 << 64) - 1 for name in before}
    assert max(bits.bit_count() for bits in far.values()) <= 4, "as those that are computed at an upload"
    with world.sessions() as session:
        view = job_view(session, world.job(job_id))
    assert (view.stages[0].items_total, view.stages[0].items_done) == (8, 8)
    assert world.units(find(context, world))[1].payload["step"] == "group", "they are not computed again"


def test_a_picture_that_can_not_be_read_fails_alone_and_a_retry_adds_it(context: WorkerContext, world: World) -> None:
    keys = add(context, world, pictures_in_two_groups())
    forget_hashes(world)
    with world.sessions() as session:
        thumbnail = session.get_one(Item, keys["one small.png"]).thumbnail_key
    assert thumbnail is not None
    kept = context.storage.open(thumbnail).read()
    context.storage.put(thumbnail, io.BytesIO(b"not a picture any more"))
    job_id = find(context, world)
    job = world.job(job_id)
    assert job.state is JobState.PARTIAL
    assert job.error is not None
    assert job.error.startswith("one small.png: ")
    assert groups(world) == TWO_GROUPS[:1]

    context.storage.put(thumbnail, io.BytesIO(kept))
    with transaction(world.sessions) as session:
        control.retry_job(session, world.user, job_id)
    run(context, world, job_id)
    assert world.job(job_id).state is JobState.SUCCEEDED
    assert groups(world) == TWO_GROUPS
    check(world, context)


@pytest.mark.parametrize("step", ["plan", "hash", "neighbours", "group"])
def test_a_worker_that_is_killed_loses_nothing_and_does_nothing_twice(
    context: WorkerContext, world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(searching, "_HASHED", 3)
    monkeypatch.setattr(searching, "_SEARCHED", 3)
    keys = add(context, world, pictures_in_two_groups())
    embed(world, keys, {name: (1.0, number) for number, name in enumerate(keys)})
    forget_hashes(world)
    job_id = submit(world)
    while (unit := next(unit for unit in world.units(job_id) if unit.state is UnitState.READY)).payload["step"] != step:
        assert do(context, unit)

    class Killed(BaseException):
        pass

    def die(*_: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        # all is computed, nothing is written
        patch.setattr(searching, "complete", die)
        with pytest.raises(Killed):
            do(context, unit)
    with transaction(world.sessions) as session:
        # as a dispatcher finds it when the lease has run out
        session.execute(sa.update(Unit).where(Unit.id == unit.id).values(lease_until=sa.func.now()))
    assert Dispatcher(world.sessions, SilentNotifier(), world.settings).rescue() == 1
    run(context, world, job_id)
    assert world.job(job_id).state is JobState.SUCCEEDED
    assert groups(world) == TWO_GROUPS
    check(world, context)


def test_a_cancelled_job_leaves_the_earlier_result(context: WorkerContext, world: World) -> None:
    keys = add(context, world, pictures_in_two_groups())
    find(context, world)
    add(context, world, {"one dark.png": CHANGES["20 % darker"](scene(1))})
    job_id = submit(world)
    with transaction(world.sessions) as session:
        control.cancel_job(session, world.user, job_id)
    assert world.job(job_id).state is JobState.CANCELLED
    assert groups(world) == TWO_GROUPS
    assert keys
    with world.sessions() as session:
        assert views.state_of(session, world.collection_id).out_of_date


def test_new_pictures_make_the_result_out_of_date_until_the_next_job(context: WorkerContext, world: World) -> None:
    add(context, world, pictures_in_two_groups())
    find(context, world)
    world.add_texts("a text is no picture")
    with world.sessions() as session:
        assert not views.state_of(session, world.collection_id).out_of_date
    add(context, world, {"one dark.png": CHANGES["20 % darker"](scene(1))})
    with world.sessions() as session:
        assert views.state_of(session, world.collection_id).out_of_date
    find(context, world)
    assert sorted(map(len, groups(world))) == [3, 3]
    with world.sessions() as session:
        assert not views.state_of(session, world.collection_id).out_of_date


def test_deleted_and_moved_pictures_leave_their_groups(context: WorkerContext, world: World) -> None:
    keys = add(context, world, pictures_in_two_groups())
    find(context, world)
    with transaction(world.sessions) as session:
        item = session.get_one(Item, keys["two dark.png"])
        delete_item(session, context.storage, item)
    assert groups(world) == [["two.png", "two small.png"], ["one.png", "one small.png"]]
    with transaction(world.sessions) as session:
        target = make_collection(world.user.id, "other")
        store(session, target)
    transfer = Transfer(context.storage, target.id, moves=True)
    transfer.prepare(world.sessions, [keys["one.png"]])
    with transaction(world.sessions) as session:
        transfer.write(session, [keys["one.png"]])
    transfer.finish()
    assert groups(world) == [["two.png", "two small.png"]], "a group of one is none"
    with world.sessions() as session:
        moved = session.get_one(Item, transfer.new[keys["one.png"]])
        assert moved.perceptual_hash is not None, "it need not be computed again"
    check(world, context)


def test_pictures_in_the_trash_are_in_no_group_until_they_are_restored(context: WorkerContext, world: World) -> None:
    keys = add(context, world, pictures_in_two_groups())
    find(context, world)
    chosen = [keys["two dark.png"], keys["one.png"]]
    with transaction(world.sessions) as session:
        items = records.lock_items(session, chosen)
        trash.trash_items(session, items, days=30, by=world.user.id)
    assert groups(world) == [["two.png", "two small.png"]]
    with world.sessions() as session:
        assert views.state_of(session, world.collection_id).groups == 1
    with transaction(world.sessions) as session:
        assert len(trash.restore_items(session, world.collection_id, chosen)[0]) == 2
    assert groups(world) == TWO_GROUPS
    with transaction(world.sessions) as session:
        trash.trash_items(session, records.lock_items(session, chosen), days=30, by=world.user.id)
    with transaction(world.sessions) as session:
        trash.remove_items(session, chosen)
    assert groups(world) == [["two.png", "two small.png"]], "a group of one is none"
    with world.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(DuplicateGroup)) == 1
    check(world, context)


def test_what_is_deleted_while_the_groups_are_formed_is_in_none(
    context: WorkerContext, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = add(context, world, pictures_in_two_groups())
    replace = replacing.replace_groups

    def late(*arguments: Any) -> None:
        with transaction(world.sessions) as session:
            delete_item(session, context.storage, session.get_one(Item, keys["one.png"]))
        replace(*arguments)

    monkeypatch.setattr(searching, "replace_groups", late)
    find(context, world)
    assert groups(world) == TWO_GROUPS[:1]


def test_a_group_that_was_dismissed_does_not_come_back_until_dismissals_are_forgotten(
    context: WorkerContext, world: World
) -> None:
    add(context, world, pictures_in_two_groups())
    find(context, world)
    key = group_key(world, "one.png")
    with transaction(world.sessions) as session:
        assert replacing.dismiss(session, world.collection_id, key) == 2
    assert groups(world) == TWO_GROUPS[:1]
    with pytest.raises(NotFound), transaction(world.sessions) as session:
        replacing.dismiss(session, world.collection_id, key)
    find(context, world)
    assert groups(world) == TWO_GROUPS[:1]
    with transaction(world.sessions) as session:
        assert replacing.forget_dismissals(session, world.collection_id) == 2
    find(context, world)
    assert groups(world) == TWO_GROUPS


def embed(world: World, keys: dict[str, UUID], vectors: dict[str, tuple[float, float]]) -> None:
    """Store vectors of the embedder of the settings."""
    with transaction(world.sessions) as session:
        model = make_model(public_name(world.settings.embedder_name))
        store(session, model)
        items = {name: session.get_one(Item, keys[name]) for name in vectors}
        store(session, *(make_embedding(items[name], model.id, vector) for name, vector in vectors.items()))


def test_pictures_with_near_vectors_are_found_if_their_hashes_are_not_too_far(
    context: WorkerContext, world: World
) -> None:
    hashes = {"a": 0b1111 << 20, "b": 0b1111 << 40 | 1, "c": (1 << 40) - 1, "d": 0x5555_5555}
    vectors = {"a": (1.0, 0.0), "b": (1.0, 0.05), "c": (1.0, 0.02), "d": (0.0, 1.0)}
    with transaction(world.sessions) as session:
        items = {
            name: make_picture(world.collection_id, name=name, perceptual_hash=hashes[name], width=100 - number)
            for number, name in enumerate(hashes)
        }
        store(session, *items.values())
    embed(world, {name: item.id for name, item in items.items()}, vectors)
    find(context, world)
    assert groups(world) == [["a", "b"]]
    with world.sessions() as session:
        (similarity,) = session.scalars(
            sa.select(DuplicateMember.similarity).where(DuplicateMember.similarity.is_not(None))
        )
        assert similarity == pytest.approx(0.99875, abs=1e-4)
        assert session.scalar(sa.select(sa.func.count()).select_from(SimilarPair)) == 3
    find(context, world)
    with world.sessions() as session:
        jobs = set(session.scalars(sa.select(SimilarPair.job_id)))
        assert jobs == {session.scalars(sa.select(DuplicateResult.job_id)).one()}, "those of earlier jobs are removed"


def test_the_result_of_a_later_job_stays(context: WorkerContext, world: World) -> None:
    add(context, world, pictures_in_two_groups())
    find(context, world)
    with transaction(world.sessions) as session:
        session.execute(sa.update(DuplicateResult).values(job_id=UUID(int=(1 << 128) - 1)))
        session.execute(sa.delete(DuplicateGroup))
    find(context, world)
    assert groups(world) == []


def test_a_second_job_beside_one_that_runs_and_one_of_an_empty_collection_are_refused(
    context: WorkerContext, world: World
) -> None:
    with pytest.raises(Conflict, match="empty"):
        submit(world)
    add(context, world, {"one.png": scene(1)})
    job_id = submit(world)
    with pytest.raises(Conflict, match="already") as refused:
        submit(world)
    assert refused.value.detail["job_id"] == str(job_id)
    run(context, world, job_id)
    assert groups(world) == []
    find(context, world)


def test_a_collection_of_texts_has_no_near_duplicates(context: WorkerContext, world: World) -> None:
    world.add_texts("one", "two")
    job_id = find(context, world)
    assert world.job(job_id).state is JobState.SUCCEEDED
    with world.sessions() as session:
        result = session.get_one(DuplicateResult, world.collection_id)
        assert (result.pictures, result.through) == (0, None)
        assert not views.state_of(session, world.collection_id).out_of_date
    add(context, world, {"one.png": scene(1)})
    with world.sessions() as session:
        assert views.state_of(session, world.collection_id).out_of_date
