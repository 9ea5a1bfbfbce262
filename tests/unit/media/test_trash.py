"""Items in the trash keep all that they have, can be restored for some days, and are then deleted for good."""

from __future__ import annotations

import io
import threading
import uuid
from collections.abc import Callable, Sequence

import pytest
import sqlalchemy as sa
from tests.unit.media.outcomes import Items, Stored, add_embedding, add_file
from tests.unit.media.samples import picture
from tests.unit.media.test_parts import pages

from retllm.db.counts import CollectionCount
from retllm.db.enums import ItemState
from retllm.db.session import Sessions, run_transaction, transaction
from retllm.db.tables import Embedding
from retllm.media import records, trash
from retllm.media.ingest import Ingest
from retllm.media.skipped import Skipped
from retllm.media.storage import Storage

Trash = Callable[..., None]
Restore = Callable[[Sequence[uuid.UUID]], tuple[list[uuid.UUID], dict[uuid.UUID, Skipped]]]


@pytest.fixture
def put(media_sessions: Sessions) -> Trash:
    """Put items into the trash, for 30 days unless told otherwise."""

    def do(*keys: uuid.UUID, days: float = 30) -> None:
        def write(session: sa.orm.Session) -> None:
            trash.trash_items(session, records.lock_items(session, keys), days=days, by=None)

        run_transaction(media_sessions, write)

    return do


@pytest.fixture
def restore(media_sessions: Sessions, collection_id: uuid.UUID) -> Restore:
    """Restore items."""
    return lambda keys: run_transaction(media_sessions, lambda s: trash.restore_items(s, collection_id, keys))


def added(ingest: Ingest, seed: int = 0) -> uuid.UUID:
    outcome = ingest.add_picture(f"{seed}.png", io.BytesIO(picture(seed)), "a cat")
    assert outcome.status == "added"
    assert outcome.item_id is not None
    return outcome.item_id


def counted(sessions: Sessions, collection_id: uuid.UUID) -> int:
    count = sa.select(sa.func.sum(CollectionCount.count)).filter_by(collection_id=collection_id, model_id=None)
    with sessions() as session:
        return int(session.scalar(count) or 0)


def test_a_restored_item_is_as_it_was(
    ingest: Ingest,
    items: Items,
    stored: Stored,
    storage: Storage,
    media_sessions: Sessions,
    put: Trash,
    restore: Restore,
) -> None:
    key = added(ingest)
    (item,) = items()
    add_embedding(media_sessions, item)
    files = stored()
    put(key)
    (item,) = items()
    assert (item.state, item.text, item.version, stored()) == (ItemState.TRASHED, "a cat", 1, files)
    assert counted(media_sessions, ingest.collection_id) == 0
    assert restore([key]) == ([key], {})
    (item,) = items()
    assert (item.id, item.state, item.text, item.version, item.kept_until) == (key, ItemState.READY, "a cat", 1, None)
    assert counted(media_sessions, ingest.collection_id) == 1
    with media_sessions() as session:
        assert session.scalar(sa.select(Embedding.item_version).filter_by(item_id=key)) == 1
    assert restore([key]) == ([], {})


def test_a_picture_that_came_again_is_a_new_item_and_keeps_the_old_one_in_the_trash(
    ingest: Ingest, items: Items, put: Trash, restore: Restore
) -> None:
    key = added(ingest)
    put(key)
    again = added(ingest)
    assert again != key
    assert restore([key]) == ([], {key: Skipped.DUPLICATE})
    put(again)
    # of two with one content, one
    restored, skipped = restore([key, again])
    assert (len(restored), list(skipped.values())) == (1, [Skipped.DUPLICATE])


def test_a_caption_that_comes_meanwhile_does_not_reach_an_item_in_the_trash(ingest: Ingest, put: Trash) -> None:
    put(added(ingest))
    (outcome, *_) = add_file(ingest, "c.csv", io.BytesIO(b"file,caption\n0.png,ghost\n"))
    assert outcome.status == "rejected"


def test_a_picture_that_is_restored_while_it_comes_again_is_there_once(
    ingest: Ingest, items: Items, put: Trash, restore: Restore, media_sessions: Sessions
) -> None:
    key = added(ingest)
    put(key)
    (item,) = items()
    twin = {"id": uuid.uuid4(), "collection_id": ingest.collection_id, "kind": "image", "name": "b.png"}
    twin |= {"content_sha256": item.content_sha256, "size_bytes": 9}
    outcome: list[object] = []
    with transaction(media_sessions) as session:
        assert records.insert_item(session, twin)
        # waits for the other transaction, and then finds what it added
        waiting = threading.Thread(target=lambda: outcome.append(restore([key])))
        waiting.start()
        _wait_until_locked(media_sessions)
    waiting.join(30)
    assert outcome == [([], {key: Skipped.DUPLICATE})]
    assert [one.state for one in items() if one.id == key] == [ItemState.TRASHED]


def _wait_until_locked(sessions: Sessions) -> None:
    waits = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    for _ in range(10_000):
        with sessions() as session:
            if session.scalar(waits):
                return
    raise AssertionError("nobody waits")


def test_what_is_in_the_trash_too_long_is_deleted_for_good(
    ingest: Ingest,
    items: Items,
    stored: Stored,
    storage: Storage,
    media_sessions: Sessions,
    put: Trash,
    restore: Restore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trash, "BATCH", 1)
    kept = added(ingest, 1)
    files = stored()
    gone = [added(ingest, seed) for seed in (2, 3)]
    put(*gone, days=-1)
    put(kept)
    assert trash.remove_due(media_sessions, storage) == 2
    states = {item.id: item.state for item in items()}
    assert states == {kept: ItemState.TRASHED} | dict.fromkeys(gone, ItemState.DELETED)
    assert stored() == files
    assert restore([kept, *gone]) == ([kept], {})
    assert trash.remove_due(media_sessions, storage) == 0


def test_an_emptied_trash_gives_nothing_back_and_takes_what_comes_later(
    ingest: Ingest, items: Items, storage: Storage, media_sessions: Sessions, put: Trash, restore: Restore
) -> None:
    gone, kept = added(ingest), added(ingest, 1)
    put(gone)
    run_transaction(media_sessions, lambda session: trash.empty_trash(session, ingest.collection_id))
    put(kept)
    assert restore([gone]) == ([], {})
    assert trash.remove_due(media_sessions, storage) == 1
    assert {item.id: item.state for item in items()} == {gone: ItemState.DELETED, kept: ItemState.TRASHED}
    assert trash.remove_due(media_sessions, storage) == 0
    assert restore([kept]) == ([kept], {})


def test_a_whole_file_stays_as_long_as_one_of_its_parts_is_in_the_trash(
    ingest: Ingest,
    items: Items,
    stored: Stored,
    storage: Storage,
    media_sessions: Sessions,
    put: Trash,
    restore: Restore,
) -> None:
    add_file(ingest, "two.tif", io.BytesIO(pages(2)))
    first, second = (item.id for item in items())
    put(first, second)
    assert any(key.startswith("sources/") for key in stored())
    removed, files = run_transaction(media_sessions, lambda session: trash.remove_items(session, [first]))
    assert removed == [first]
    storage.delete_all(files)
    assert restore([first, second]) == ([second], {})
    assert items()[1].source_id is not None
    put(second, days=-1)
    assert trash.remove_due(media_sessions, storage) == 1
    assert stored() == []
