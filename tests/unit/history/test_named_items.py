"""Failures name the items and files that they are about."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from tests.factories import make_job, make_unit, store

from retllm.db.enums import FileStatus, ItemState, JobKind, JobState, Stage, UnitState
from retllm.db.session import transaction
from retllm.db.tables import Item, new_id
from retllm.db.uploads import Upload, UploadFile
from retllm.history.named_items import MAX_NAMED, NamedItem, dead_items, name_items, problem_files
from retllm.history.same_errors import names_and_more, same_errors, without_name


def _upload(world, session: Session, *files: tuple[str, FileStatus]) -> tuple[UUID, list[UUID]]:
    job = make_job(world.user.id, world.collection_id, JobKind.UPLOAD, state=JobState.PARTIAL)
    rows = [UploadFile(id=new_id(), job_id=job.id, name=name, status=status) for name, status in files]
    store(session, job, Upload(id=job.id), *rows)
    return job.id, [row.id for row in rows]


def test_the_first_items_of_a_unit_are_named_and_a_deleted_one_has_no_key(world) -> None:
    robin, wren, *others = world.add_texts("robin", "wren", "crow", "jay", "tit")
    world.in_transaction(
        lambda session: session.execute(sa.update(Item).where(Item.id == wren).values(state=ItemState.DELETED))
    )
    payload = {"items": [str(key) for key in (robin, wren, *others)]}
    unit = new_id()
    with transaction(world.sessions) as session:
        named = name_items(session, [(unit, Stage.EMBED, payload)])[unit]
    assert len(named) == MAX_NAMED
    assert named[:2] == [NamedItem(name="robin", item_id=robin), NamedItem(name="wren", item_id=None)]


def test_a_unit_of_files_names_them_with_what_became_of_them(world) -> None:
    unit = new_id()
    with transaction(world.sessions) as session:
        _, (file,) = _upload(world, session, ("torn.jpg", FileStatus.REJECTED))
        named = name_items(session, [(unit, Stage.MEDIA, {"items": [str(file)]})])[unit]
    assert named == [NamedItem(name="torn.jpg", item_id=None, status=FileStatus.REJECTED)]


@pytest.mark.parametrize("payload", [{}, {"items": []}, {"items": ["no key"]}, {"items": [str(new_id())]}])
def test_a_unit_without_items_that_exist_names_none(world, payload: dict[str, list[str]]) -> None:
    unit = new_id()
    with transaction(world.sessions) as session:
        assert name_items(session, [(unit, Stage.FINE, payload), (new_id(), Stage.MEDIA, payload)])[unit] == []


def test_dead_units_name_their_items_in_the_order_of_the_units(world) -> None:
    keys = world.add_texts("a", "b", "c", "d", "e")
    job = make_job(world.user.id, world.collection_id, JobKind.INDEX, state=JobState.FAILED)
    units = [
        make_unit(job.id, Stage.EMBED, seq, state=UnitState.DEAD, error="no", payload={"items": [str(key)]})
        for seq, key in enumerate(keys)
    ]
    units[0].state = UnitState.SPLIT
    with transaction(world.sessions) as session:
        store(session, job, *units)
        found = dead_items(session, [job.id, new_id()])
    assert {key: [one.name for one in named] for key, named in found.items()} == {job.id: ["b", "c", "d"]}


def test_the_first_file_that_an_upload_lacks_is_named_rejected_ones_first(world) -> None:
    with transaction(world.sessions) as session:
        lacking, _ = _upload(
            world,
            session,
            ("late.jpg", FileStatus.NOT_SENT),
            ("torn.jpg", FileStatus.REJECTED),
            ("x.jpg", FileStatus.ADDED),
        )
        whole, _ = _upload(world, session, ("y.jpg", FileStatus.ADDED))
        found = problem_files(session, [lacking, whole])
    assert found == {lacking: [NamedItem(name="torn.jpg", item_id=None, status=FileStatus.REJECTED)]}


def test_errors_that_differ_only_in_the_name_are_one_that_lists_the_names() -> None:
    errors = [
        {"stage": "embed", "state": "dead", "waits": False, "attempt": 4, "items": 1, "error": f"{name}: torn"}
        | {"about": [{"name": name, "item_id": None, "status": None}]}
        for name in "abcdefg"
    ]
    (group,) = same_errors(errors)
    assert (group["error"], group["units"], group["items"]) == ("torn", "7 units", 7)
    assert [one["name"] for one in group["about"]] == list("abcde")
    assert names_and_more([one["name"] for one in group["about"]], group["items"]) == "a, b, c, d, e and 2 more"


def test_only_the_name_at_the_beginning_is_left_out_of_an_error() -> None:
    assert without_name("a.jpg: torn: a.jpg: twice", ["b.jpg", "a.jpg"]) == "torn: a.jpg: twice"
    assert without_name("a.jpg is torn", ["a.jpg"]) == "a.jpg is torn"
