"""A job reads the pictures of a collection, whatever happens to its workers; the texts are found as captions are."""

from __future__ import annotations

import io
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from PIL import Image
from tests.factories import make_collection, store
from tests.unit.job_world import World
from tests.unit.ocr.readers import ColourReader
from tests.unit.stand_ins import SilentNotifier

from retllm.db.enums import ItemKind, JobState, UnitState
from retllm.db.jobs import Unit
from retllm.db.session import transaction
from retllm.db.tables import ITEM_WORDS, Collection, Item
from retllm.errors import Conflict
from retllm.history import control
from retllm.history.job_views import job_view
from retllm.media import records, sandbox, trash
from retllm.media.ingest import Ingest
from retllm.media.transfers import Transfer
from retllm.ocr import reader as reading
from retllm.ocr import worker as ocr
from retllm.ocr.submit import submit_ocr
from retllm.ocr.views import State, state_of
from retllm.queue.audit import violations
from retllm.queue.dispatcher import Dispatcher
from retllm.queue.worker import WorkerContext, run_unit
from retllm.search.captions import by_captions, count_captions
from retllm.search.languages import change_language


@pytest.fixture(autouse=True)
def recognizer(monkeypatch: pytest.MonkeyPatch) -> ColourReader:
    made = ColourReader()
    monkeypatch.setattr(ocr, "reader_of", lambda _: made)
    return made


def add(context: WorkerContext, world: World, *reds: int, side: int = 40) -> list[UUID]:
    """Add pictures of a colour."""
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    keys = []
    for red in reds:
        file = io.BytesIO()
        Image.new("RGB", (side, side), (red, 255, 255)).save(file, "PNG")
        file.seek(0)
        outcome = ingest.add_picture(f"{red}.png", file)
        assert outcome.item_id is not None
        keys.append(outcome.item_id)
    return keys


def submit(world: World, *, again: bool = False) -> UUID:
    with transaction(world.sessions) as session:
        return submit_ocr(session, world.user, world.collection_id, again=again).job.id


def do(context: WorkerContext, unit: Unit) -> bool:
    return run_unit(context, unit.id, ocr.ocr_unit)


def run(context: WorkerContext, world: World, job_id: UUID) -> None:
    while ready := [unit for unit in world.units(job_id) if unit.state is UnitState.READY]:
        for unit in ready:
            assert do(context, unit)


def read(context: WorkerContext, world: World, *, again: bool = False) -> UUID:
    job_id = submit(world, again=again)
    run(context, world, job_id)
    return job_id


def texts(world: World) -> dict[str, str | None]:
    with world.sessions() as session:
        return dict(session.execute(sa.select(Item.name, Item.ocr_text).where(Item.picture_key.is_not(None))).all())


def state(world: World) -> State:
    with world.sessions() as session:
        return state_of(session, session.get_one(Collection, world.collection_id))


def found(world: World, text: str) -> list[str]:
    with world.sessions() as session:
        collection = session.get_one(Collection, world.collection_id)
        matches = by_captions(session, collection, text, 10, list(ItemKind))
        return [session.get_one(Item, match.item_id).name for match in matches]


def check(world: World, context: WorkerContext) -> None:
    assert [str(one) for one in violations(world.sessions, context.storage, quiet=True)] == []


def test_the_text_is_kept_with_the_pictures_that_have_one(context: WorkerContext, world: World) -> None:
    add(context, world, 1, 2, 255)
    world.add_texts("a text is no picture")
    assert (state(world).chosen_at, state(world).unread) == (None, 3)
    job_id = read(context, world)
    assert texts(world) == {"1.png": "colour 1 of a harbour", "2.png": "colour 2 of a harbour", "255.png": ""}
    with world.sessions() as session:
        confidences = dict(session.execute(sa.select(Item.name, Item.ocr_confidence)).all())
        view = job_view(session, world.job(job_id))
        number = count_captions(session, world.collection_id, list(ItemKind))
    assert (confidences["1.png"], confidences["255.png"]) == (0.75, None)
    assert (view.state, view.progress, view.stages[0].items_done) == (JobState.SUCCEEDED, 1.0, 3)
    assert number == 3, "two pictures and a text"
    now = state(world)
    assert (now.chosen_at is not None, now.unread, now.job and now.job.id) == (True, 0, job_id)
    check(world, context)


def test_words_in_pictures_are_found_beside_captions_in_the_language_of_the_collection(
    context: WorkerContext, world: World
) -> None:
    keys = add(context, world, 1, 2)
    read(context, world)
    assert found(world, "harbours") == ["1.png", "2.png"]
    with transaction(world.sessions) as session:
        records.set_captions(session, {keys[1]: records.Caption("a boat")})
    assert found(world, "boats") == ["2.png"]
    assert found(world, "harbours") == ["1.png", "2.png"], "a caption leaves the words of the picture"
    with transaction(world.sessions) as session:
        change_language(session, session.get_one(Collection, world.collection_id), "simple")
    assert (found(world, "harbours"), found(world, "harbour")) == ([], ["1.png", "2.png"])


def test_pictures_that_are_added_later_are_read_by_the_next_job_and_no_others(
    context: WorkerContext, world: World, recognizer: ColourReader
) -> None:
    add(context, world, 1)
    read(context, world)
    chosen = state(world).chosen_at
    add(context, world, 2)
    assert state(world).unread == 1
    read(context, world)
    assert (state(world).unread, len(recognizer.sizes), state(world).chosen_at) == (0, 2, chosen)
    read(context, world, again=True)
    assert len(recognizer.sizes) == 4
    read(context, world)
    assert len(recognizer.sizes) == 4


def test_the_working_copy_is_read_and_not_the_large_original(
    context: WorkerContext, world: World, recognizer: ColourReader
) -> None:
    add(context, world, 1, side=1700)
    read(context, world)
    assert recognizer.sizes == [(world.settings.copy_side, world.settings.copy_side)]


def test_a_picture_that_can_not_be_decoded_fails_alone_and_a_retry_reads_it(
    context: WorkerContext, world: World
) -> None:
    keys = add(context, world, 1, 2)
    with world.sessions() as session:
        file = session.get_one(Item, keys[0]).picture_key
    assert file is not None
    kept = context.storage.open(file).read()
    context.storage.put(file, io.BytesIO(b"not a picture any more"))
    job_id = read(context, world)
    job = world.job(job_id)
    assert job.state is JobState.PARTIAL
    assert job.error is not None
    assert job.error.startswith("1.png: ")
    assert texts(world) == {"1.png": None, "2.png": "colour 2 of a harbour"}
    assert state(world).unread == 1

    context.storage.put(file, io.BytesIO(kept))
    with transaction(world.sessions) as session:
        control.retry_job(session, world.user, job_id)
    run(context, world, job_id)
    assert world.job(job_id).state is JobState.SUCCEEDED
    assert state(world).unread == 0
    check(world, context)


@pytest.mark.parametrize("step", ["plan", "read"])
def test_a_worker_that_is_killed_loses_nothing_and_does_nothing_twice(
    context: WorkerContext, world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(ocr, "_READ", 2)
    add(context, world, 1, 2, 3)
    job_id = submit(world)
    while (unit := next(unit for unit in world.units(job_id) if unit.state is UnitState.READY)).payload["ocr"] != step:
        assert do(context, unit)

    class Killed(BaseException):
        pass

    def die(*_: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        # all is read, nothing is written
        patch.setattr(ocr, "complete", die)
        with pytest.raises(Killed):
            do(context, unit)
    assert set(texts(world).values()) == {None}
    with transaction(world.sessions) as session:
        # as a dispatcher finds it when the lease has run out
        session.execute(sa.update(Unit).where(Unit.id == unit.id).values(lease_until=sa.func.now()))
    assert Dispatcher(world.sessions, SilentNotifier(), world.settings).rescue() == 1
    run(context, world, job_id)
    assert world.job(job_id).state is JobState.SUCCEEDED
    assert None not in texts(world).values()
    assert len(world.units(job_id)) == 3
    check(world, context)


def test_without_the_packages_the_job_fails_as_a_whole_and_says_what_to_install(
    context: WorkerContext, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(context, world, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(reading, "_PACKAGES", ("a_package_that_is_not_there",))
        job_id = read(context, world)
    job = world.job(job_id)
    assert (job.state, len(world.units(job_id))) == (JobState.FAILED, 1), "no unit for each picture"
    assert job.error is not None
    assert "pip install 'retllm-platform[ocr]'" in job.error
    with transaction(world.sessions) as session:
        control.retry_job(session, world.user, job_id)
    run(context, world, job_id)
    assert world.job(job_id).state is JobState.SUCCEEDED


def test_a_second_job_is_refused_while_one_runs(context: WorkerContext, world: World) -> None:
    with pytest.raises(Conflict, match="empty"):
        submit(world)
    assert state(world).chosen_at is None
    add(context, world, 1)
    submit(world)
    with pytest.raises(Conflict, match="already"):
        submit(world)


def test_a_cancelled_job_keeps_what_it_has_read(
    context: WorkerContext, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ocr, "_READ", 1)
    add(context, world, 1, 2)
    job_id = submit(world)
    for _ in range(2):
        assert do(context, next(unit for unit in world.units(job_id) if unit.state is UnitState.READY))
    with transaction(world.sessions) as session:
        control.cancel_job(session, world.user, job_id)
    assert world.job(job_id).state is JobState.CANCELLED
    assert sorted(map(str, texts(world).values())) == ["None", "colour 1 of a harbour"]
    read(context, world)
    assert state(world).unread == 0


def test_a_copied_picture_has_its_text_and_a_deleted_one_has_none(context: WorkerContext, world: World) -> None:
    keys = add(context, world, 1, 2)
    read(context, world)
    with transaction(world.sessions) as session:
        target = make_collection(world.user.id, "other")
        store(session, target)
    transfer = Transfer(context.storage, target.id, moves=True)
    transfer.prepare(world.sessions, keys[:1])
    with transaction(world.sessions) as session:
        transfer.write(session, keys[:1])
    transfer.finish()
    with world.sessions() as session:
        moved, left = session.get_one(Item, transfer.new[keys[0]]), session.get_one(Item, keys[0])
        assert (moved.ocr_text, moved.ocr_confidence) == ("colour 1 of a harbour", 0.75)
        assert (left.ocr_text, left.ocr_confidence) == (None, None)
        words = dict(session.execute(sa.select(Item.id, ITEM_WORDS)).all())
    assert (words[keys[0]], "harbour" in words[moved.id]) == ("", True)


def test_what_is_in_the_trash_is_not_found_and_is_restored_with_its_text(context: WorkerContext, world: World) -> None:
    keys = add(context, world, 1, 2)
    job_id = submit(world)
    assert do(context, world.units(job_id)[0])
    with transaction(world.sessions) as session:
        trash.trash_items(session, records.lock_items(session, keys[:1]), days=30, by=world.user.id)
    run(context, world, job_id)
    assert found(world, "harbour") == ["2.png"]
    with world.sessions() as session:
        assert session.get_one(Item, keys[0]).shown_ocr_text is None
    with transaction(world.sessions) as session:
        trash.restore_items(session, world.collection_id, keys[:1])
    assert found(world, "harbour") == ["1.png", "2.png"]
    assert state(world).unread == 0


def test_what_is_deleted_while_it_is_read_stays_deleted(
    context: WorkerContext, world: World, recognizer: ColourReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = add(context, world, 1, 2)
    job_id = submit(world)
    assert do(context, world.units(job_id)[0])
    plain = recognizer.read

    def late(picture: Image.Image, max_chars: int) -> reading.PictureText:
        with transaction(world.sessions) as session:
            records.empty_item(session, keys[0])
        return plain(picture, max_chars)

    monkeypatch.setattr(recognizer, "read", late)
    run(context, world, job_id)
    assert world.job(job_id).state is JobState.SUCCEEDED
    with world.sessions() as session:
        assert session.get_one(Item, keys[0]).ocr_text is None
    assert texts(world) == {"2.png": "colour 2 of a harbour"}


def test_the_recognizer_gets_pixels_and_never_a_file(
    context: WorkerContext, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is decoded goes through the sandboxed decoders: none, no pictures."""
    add(context, world, 1)
    asked: list[object] = []
    ask = sandbox.ask

    def watched(request: Any, *arguments: Any) -> Any:
        asked.append(request)
        return ask(request, *arguments)

    monkeypatch.setattr(sandbox, "ask", watched)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("a file is decoded in the worker"))
    read(context, world)
    assert texts(world) == {"1.png": "colour 1 of a harbour"}
    assert len(asked) == 1
