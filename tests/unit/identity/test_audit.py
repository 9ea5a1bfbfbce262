"""The audit log: writing and filtering entries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import Role
from retllm.db.people import AuditEntry
from retllm.db.tables import User, new_id
from retllm.identity import accounts, audit
from retllm.identity.audit import Action, AuditFilters

PASSWORD = "correct horse battery"


@pytest.fixture
def ada(session: Session) -> User:
    return accounts.create_user(session, "ada", PASSWORD, Role.ADMIN)


def _targets(session: Session, filters: AuditFilters) -> list[str | None]:
    return [entry.target for entry in audit.page(session, filters)]


def test_an_entry_is_rolled_back_with_its_action(session: Session, ada: User) -> None:
    session.commit()
    audit.record(session, ada, Action.USER_CREATED, target="bob", role="editor")
    session.rollback()
    assert audit.page(session, AuditFilters()) == []
    audit.record(session, ada, Action.USER_CREATED, target="bob", role="editor", address="192.0.2.1")
    session.commit()
    (entry,) = audit.page(session, AuditFilters())
    assert (entry.user_name, entry.action, entry.target) == ("ada", "user created", "bob")
    assert (entry.detail, entry.address) == ({"role": "editor"}, "192.0.2.1")


def test_filters_work_alone_and_together(session: Session, ada: User) -> None:
    bob, birds, fish = accounts.create_user(session, "bob", PASSWORD), new_id(), new_id()
    actions = [
        ("a", ada, Action.ITEM_DELETED, birds),
        ("b", bob, Action.ITEM_DELETED, birds),
        ("c", ada, Action.JOB_SUBMITTED, birds),
        ("d", ada, Action.ITEM_DELETED, fish),
        ("e", None, Action.LOGIN_REFUSED, None),
    ]
    for target, user, action, collection_id in actions:
        audit.record(session, user, action, target=target, collection_id=collection_id)
        session.flush()
    assert _targets(session, AuditFilters()) == ["e", "d", "c", "b", "a"]
    assert _targets(session, AuditFilters(user_name="ada")) == ["d", "c", "a"]
    assert _targets(session, AuditFilters(action=Action.ITEM_DELETED)) == ["d", "b", "a"]
    assert _targets(session, AuditFilters(collection_id=birds)) == ["c", "b", "a"]
    assert _targets(session, AuditFilters("ada", Action.ITEM_DELETED, birds)) == ["a"]


def test_day_filters_use_the_time_of_the_action(session: Session) -> None:
    moment = datetime(2026, 3, 4, 12, tzinfo=UTC)
    for hours in range(-2, 3):
        at = moment + timedelta(hours=hours)
        # keys come from another clock, here one that is half a day off
        key = UUID(int=(int((at + timedelta(hours=12)).timestamp() * 1000) << 80) + 1)
        session.add(AuditEntry(id=key, created_at=at, action=Action.LOGGED_IN.value, target=str(hours), detail={}))
    session.flush()
    assert _targets(session, AuditFilters(since=moment)) == ["2", "1", "0"]
    assert _targets(session, AuditFilters(until=moment)) == ["-1", "-2"]
    hour = timedelta(hours=1)
    assert _targets(session, AuditFilters(since=moment - hour, until=moment + hour)) == ["0", "-1"]
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    assert len(_targets(session, AuditFilters(since=first, until=last))) == 5


def test_pages_follow_each_other_without_a_gap(session: Session, ada: User) -> None:
    for number in range(7):
        audit.record(session, ada, Action.LOGGED_IN, target=str(number))
        session.flush()
    seen: list[str | None] = []
    after = None
    while page := audit.page(session, AuditFilters(user_name="ada"), after=after, limit=3):
        seen += [entry.target for entry in page]
        after = page[-1].id
    assert seen == ["6", "5", "4", "3", "2", "1", "0"]


@pytest.mark.parametrize(
    "filters",
    [
        AuditFilters(),
        AuditFilters(user_name="nobody"),
        AuditFilters(action=Action.RUN_DELETED),
        AuditFilters(collection_id=UUID(int=1)),
        AuditFilters(since=datetime(2026, 1, 1, tzinfo=UTC), until=datetime(2026, 1, 2, tzinfo=UTC)),
    ],
)
def test_a_long_log_is_read_by_index(session: Session, filters: AuditFilters) -> None:
    fill = """INSERT INTO audit_log (id, user_name, action, target, created_at, detail)
        SELECT gen_random_uuid(), 'user' || n % 50, 'logged in', 't', now(), '{}' FROM generate_series(1, 20000) AS n"""
    session.execute(sa.text(fill))
    session.execute(sa.text("ANALYZE audit_log"))
    executed: list[tuple[str, Any]] = []

    def keep(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        executed.append((statement, parameters))

    connection = session.connection()
    sa.event.listen(connection, "before_cursor_execute", keep)
    audit.page(session, filters)
    sa.event.remove(connection, "before_cursor_execute", keep)
    ((statement, parameters),) = executed
    plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars().all()
    assert not [line for line in plan if "Seq Scan" in line], plan
