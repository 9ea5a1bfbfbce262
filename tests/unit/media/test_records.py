"""Rows of items are found only until the item is deleted."""

from __future__ import annotations

import io
import uuid

from tests.unit.media.samples import picture

from retllm.db.session import Sessions, transaction
from retllm.media import records
from retllm.media.ingest import Ingest
from retllm.media.stems import pictures_with_stems


def test_a_deleted_item_is_not_found_and_gets_no_caption(ingest: Ingest, media_sessions: Sessions) -> None:
    item_id = ingest.add_picture("dir/Ä.b.PNG", io.BytesIO(picture())).item_id
    assert item_id is not None
    for exists in (True, False):
        with media_sessions() as session:
            for stem, found in [("Ä.b", True), ("Ä", False), ("dir/Ä.b", False), ("Ä.b.PNG", True), ("ä.b.png", True)]:
                rows = pictures_with_stems(session, ingest.collection_id, [stem, "b"])
                assert rows == ([("dir/Ä.b.PNG", item_id, "", None)] if exists and found else [])
            changes = records.set_captions(session, {item_id: records.Caption("a cat")})
            assert changes == ({item_id: records.Change(True)} if exists else {})
            session.rollback()
        with transaction(media_sessions) as session:
            assert len(records.empty_item(session, item_id) or ()) == (2 if exists else 0)


def test_texts_and_unknown_ids_get_no_caption(ingest: Ingest, media_sessions: Sessions) -> None:
    text_id = ingest.add_text("words").item_id
    assert text_id is not None
    with media_sessions() as session:
        assert records.set_captions(session, dict.fromkeys([text_id, uuid.uuid4()], records.Caption("x"))) == {}
        assert pictures_with_stems(session, ingest.collection_id, ["words"]) == []
