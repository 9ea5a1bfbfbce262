"""Deleting items and collections removes their files and vectors."""

from __future__ import annotations

import io
from typing import Any

import pytest
import sqlalchemy as sa
from tests.unit.deleting import delete_collection
from tests.unit.media.outcomes import Items, Stored, add_embedding, add_file
from tests.unit.media.samples import packed, picture

from retllm.db.enums import ItemState
from retllm.db.session import Sessions, transaction
from retllm.db.tables import Embedding, Item
from retllm.media.ingest import Ingest, delete_item
from retllm.media.storage import Storage


def test_a_deleted_item_keeps_only_its_row(
    ingest: Ingest, items: Items, stored: Stored, storage: Storage, media_sessions: Sessions
) -> None:
    ingest.add_picture("a.png", io.BytesIO(picture()), "a cat")
    (item,) = items()
    add_embedding(media_sessions, item)
    with media_sessions() as session:
        kept = session.get(Item, item.id)
        assert kept is not None
        assert delete_item(session, storage, kept)
        assert not delete_item(session, storage, kept)
    (left,) = items()
    assert (left.state, left.name, left.text, left.picture_key, left.thumbnail_key) == (
        ItemState.DELETED,
        "a.png",
        None,
        None,
        None,
    )
    assert stored() == []
    with media_sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Embedding).filter_by(item_id=item.id)) == 0
    assert add_file(ingest, "c.csv", io.BytesIO(b"file,caption\na.png,ghost\n"))[0].status == "rejected"
    again = ingest.add_picture("a.png", io.BytesIO(picture()))
    assert again.status == "added"
    assert again.item_id != item.id


def test_an_item_can_be_deleted_in_a_transaction_of_the_caller(
    ingest: Ingest, items: Items, stored: Stored, storage: Storage, media_sessions: Sessions
) -> None:
    ingest.add_picture("a.png", io.BytesIO(picture()))
    with transaction(media_sessions) as session:
        kept = session.get(Item, items()[0].id)
        assert kept is not None
        delete_item(session, storage, kept)
    assert items()[0].state is ItemState.DELETED
    assert stored() == []


def test_files_are_deleted_only_after_the_commit(
    ingest: Ingest, items: Items, stored: Stored, storage: Storage, media_sessions: Sessions
) -> None:
    ingest.add_picture("a.png", io.BytesIO(picture()))
    with media_sessions() as session:
        kept = session.get(Item, items()[0].id)
        assert kept is not None
        sa.event.listen(session, "before_commit", refuse)
        with pytest.raises(ConnectionError):
            delete_item(session, storage, kept)
    assert items()[0].state is ItemState.READY
    assert len(stored()) == 2


def refuse(session: Any) -> None:
    raise ConnectionError("the database is gone")


def test_an_item_stays_deleted_if_the_storage_fails(
    ingest: Ingest, items: Items, storage: Storage, media_sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest.add_picture("a.png", io.BytesIO(picture()))

    def fail(self: Storage, key: str) -> None:
        raise PermissionError(key)

    monkeypatch.setattr(Storage, "delete", fail)
    with media_sessions() as session:
        kept = session.get(Item, items()[0].id)
        assert kept is not None
        delete_item(session, storage, kept)
    assert items()[0].state is ItemState.DELETED


def test_deleting_a_collection_deletes_its_files(
    ingest: Ingest, items: Items, stored: Stored, storage: Storage, media_sessions: Sessions
) -> None:
    add_file(ingest, "z.zip", packed({f"{n}.png": picture(n) for n in range(5)} | {"t.txt": b"words"}))
    assert len(stored()) == 10
    delete_collection(media_sessions, storage, ingest.collection_id)
    assert items() == []
    assert stored() == []
