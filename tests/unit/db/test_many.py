"""Many rows are one parameter, and arrive as they are."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from tests.factories import make_collection, make_user, store

from retllm.db.enums import ItemKind, ItemState
from retllm.db.many import insert_many, update_many
from retllm.db.session import make_sessions, transaction
from retllm.db.tables import Item, new_id

TEXT = "\"quotes\", 'others', \\ backslash, %s :name\ttab\nline é 猫 \U0001f40b \x01"


def test_rows_of_every_type_are_inserted_and_updated_as_they_are(fresh_database: str) -> None:
    sessions = make_sessions(fresh_database)
    with transaction(sessions) as session:
        user = make_user("ada")
        collection = make_collection(user.id, "pictures")
        store(session, user, collection)
        row: dict[str, Any] = {
            "collection_id": collection.id,
            "kind": ItemKind.IMAGE,
            "state": ItemState.READY,
            "name": TEXT,
            "version": 1,
            "size_bytes": 1 << 40,
            "width": None,
            "part": {"page": 1, "of": [1.5, None, "é"]},
        }
        rows = [row | {"id": new_id(), "content_sha256": f"{n:064}"} for n in range(3)]
        keys = session.scalars(insert_many(Item, rows).returning(Item.id)).all()
        session.execute(
            update_many(Item, [{"id": keys[1], "text": TEXT, "kind": ItemKind.BOTH, "part": None, "version": 2}])
        )
    with sessions() as session:
        found = session.scalars(sa.select(Item).order_by(Item.id)).all()
        none = session.scalars(sa.select(Item.id).where(Item.part.is_(None))).all()
    sessions.kw["bind"].dispose()
    assert [item.id for item in found] == [row["id"] for row in rows]
    assert {(item.name, item.size_bytes, item.width, item.collection_id) for item in found} == {
        (TEXT, 1 << 40, None, collection.id)
    }
    assert [(item.text, item.kind, item.version) for item in found] == [
        (None, ItemKind.IMAGE, 1),
        (TEXT, ItemKind.BOTH, 2),
        (None, ItemKind.IMAGE, 1),
    ]
    assert found[0].part == row["part"]
    assert none == [found[1].id]
    assert all(item.created_at for item in found)


def test_the_number_of_rows_does_not_change_the_statement() -> None:
    texts = [str(insert_many(Item, [{"id": new_id(), "name": "a"}] * count).compile()) for count in (1, 1000)]
    assert texts[0] == texts[1]
