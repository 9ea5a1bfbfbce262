"""What a large sheet says of its items is written in few statements."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from tests.unit.uploads.conftest import Uploads

from retllm.db.tables import Item
from retllm.media.sheets.item_facts import write_facts


def _facts(number: int) -> dict[str, Any]:
    """Facts of different columns, and of some items none."""
    taken = {"taken": datetime(2001, 1, 1 + number % 28), "taken_until": datetime(2001, 1, 2 + number % 28)}
    own = {"title": f"Title {number}", "tags": ["a", f"b{number % 3}"], "further": {"Place": f"É {number}"}}
    return [own, own | taken | {"rating": number % 5 + 1}, {}][number % 3]


def test_rows_that_set_the_same_columns_are_written_together(uploads: Uploads) -> None:
    keys = uploads.world.add_texts(*(f"text {number}" for number in range(60)))
    facts: dict[UUID, dict[str, Any]] = {key: _facts(number) for number, key in enumerate(keys)}
    statements: list[str] = []

    def note(conn, cursor, statement, parameters, context, executemany) -> None:
        if statement.startswith("UPDATE items"):
            statements.append(statement)

    with uploads.world.sessions.begin() as session:
        sa.event.listen(session.get_bind(), "before_cursor_execute", note)
        changes = write_facts(session, facts, set(), None)
        sa.event.remove(session.get_bind(), "before_cursor_execute", note)
    assert len(statements) == 2
    assert [bool(facts[key]) for key in keys] == [changes[key].changed for key in keys]
    with uploads.world.sessions() as session:
        items = {item.id: item for item in session.scalars(sa.select(Item))}
        assert [{name: getattr(items[key], name) for name in facts[key]} for key in keys] == list(facts.values())
        assert {items[key].text for key in keys} == {f"text {number}" for number in range(60)}
