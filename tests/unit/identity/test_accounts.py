"""Accounts: log-in, locking and what is stored."""

from __future__ import annotations

import threading
import time
import unicodedata
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import Role
from retllm.db.session import make_engine
from retllm.db.tables import Collection, User, new_id
from retllm.errors import Conflict, InvalidInput, Unauthorized
from retllm.identity import accounts

PASSWORD = "correct horse battery"


def test_log_in_ignores_the_case_of_the_name(session: Session) -> None:
    user = accounts.create_user(session, "Ada", PASSWORD)
    assert accounts.check_password(session, "ada", PASSWORD) is user


def test_a_wrong_name_and_a_wrong_password_give_the_same_error(session: Session) -> None:
    accounts.create_user(session, "ada", PASSWORD)
    messages = []
    for name, password in (("ada", "wrong password"), ("eve", PASSWORD)):
        with pytest.raises(Unauthorized) as caught:
            accounts.check_password(session, name, password)
        messages.append(caught.value.message)
    assert messages[0] == messages[1]


def test_no_password_is_stored_in_plain_text(session: Session) -> None:
    accounts.create_user(session, "ada", PASSWORD)
    assert PASSWORD not in session.scalars(sa.select(User.password_hash)).one()


def test_a_locked_account_cannot_log_in(session: Session) -> None:
    user = accounts.create_user(session, "ada", PASSWORD)
    accounts.create_user(session, "root", PASSWORD, Role.ADMIN)
    accounts.lock_out(session, user)
    with pytest.raises(Unauthorized):
        accounts.check_password(session, "ada", PASSWORD)


def test_the_first_administrator_is_created_once(session: Session) -> None:
    made, password = accounts.ensure_admin(session)
    assert password is not None
    assert accounts.check_password(session, "admin", password).role is Role.ADMIN
    assert accounts.ensure_admin(session) == (made, None)


INVISIBLE = [
    "a\u200bb",
    "a\u00adb",
    "a\u202eb",
    "a\u034fb",
    "a\u3164b",
    "\u115f",
    "a\ufe0f",
    "\u0301a",
    "a" + "\u20dd" * 4,
]


@pytest.mark.parametrize("name", ["", " ", "-x", "a b", "a/b", "x" * 101, "zoë\n", "½", "a\u2028", "☺", *INVISIBLE])
def test_invalid_names_are_rejected(session: Session, name: str) -> None:
    with pytest.raises(InvalidInput):
        accounts.create_user(session, name, PASSWORD)


@pytest.mark.parametrize("name", ["Jörg", "JÖRG", "Ольга", "李雷", "محمد", "किरण", "ทำ", "İsmet", "Ωμέγα", "Zoë-2"])
def test_names_of_any_script_are_found_however_they_are_typed(session: Session, name: str) -> None:
    user = accounts.create_user(session, name, PASSWORD)
    decomposed = unicodedata.normalize("NFD", name)
    for typed in (name, decomposed, name.lower(), name.upper()):
        # the capital i with a dot becomes two characters, one of them a mark
        if "i̇" not in typed:
            assert accounts.check_password(session, typed, PASSWORD) is user
    with pytest.raises(Conflict):
        accounts.create_user(session, decomposed, PASSWORD)


def test_a_name_in_wide_or_mathematical_letters_is_the_plain_one(session: Session) -> None:
    user = accounts.create_user(session, "ａda", PASSWORD)
    assert user.name == "ada"
    assert accounts.check_password(session, "𝐀𝐝𝐚", PASSWORD) is user


def test_names_are_unique_regardless_of_case(session: Session) -> None:
    accounts.create_user(session, "ada", PASSWORD)
    with pytest.raises(Conflict):
        accounts.create_user(session, "ADA", PASSWORD)


def test_a_short_password_is_rejected_and_a_new_one_replaces_the_old(session: Session) -> None:
    with pytest.raises(InvalidInput):
        accounts.create_user(session, "ada", "short")
    user = accounts.create_user(session, "ada", PASSWORD)
    accounts.set_password(session, user, "another good one")
    with pytest.raises(Unauthorized):
        accounts.check_password(session, "ada", PASSWORD)
    assert accounts.check_password(session, "ada", "another good one") is user


@pytest.mark.parametrize("action", ["role", "lock"])
def test_the_last_active_administrator_cannot_be_removed(session: Session, action: str) -> None:
    def leave(user: User) -> None:
        accounts.set_role(session, user, Role.EDITOR) if action == "role" else accounts.lock_out(session, user)

    root = accounts.create_user(session, "root", PASSWORD, Role.ADMIN)
    locked = accounts.create_user(session, "locked", PASSWORD, Role.ADMIN)
    accounts.lock_out(session, locked)
    with pytest.raises(Conflict):
        leave(root)
    assert (root.role, root.disabled_at) == (Role.ADMIN, None)
    # a locked administrator can lose the role
    accounts.set_role(session, locked, Role.VIEWER)
    second = accounts.create_user(session, "second", PASSWORD, Role.ADMIN)
    leave(root)
    with pytest.raises(Conflict):
        leave(second)


def _wait_for_a_blocked_transaction(engine: sa.Engine) -> None:
    """Wait until another transaction of this database waits for a lock."""
    waiting = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    end = time.monotonic() + 60
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not connection.scalar(waiting):
            assert time.monotonic() < end, "no transaction waits for a lock"
            time.sleep(0.01)


def test_two_administrators_cannot_remove_each_other_at_once(fresh_database: str) -> None:
    engine = make_engine(fresh_database)
    with Session(engine) as session, session.begin():
        keys = [accounts.create_user(session, name, PASSWORD, Role.ADMIN).id for name in ("ada", "bob")]
    barrier = threading.Barrier(2)

    def leave(key: uuid.UUID) -> bool:
        with Session(engine) as session, session.begin():
            user = session.get_one(User, key)
            barrier.wait(timeout=60)
            try:
                accounts.set_role(session, user, Role.EDITOR)
            except Conflict:
                return False
            _wait_for_a_blocked_transaction(engine)
            return True

    with ThreadPoolExecutor(2) as pool:
        outcomes = sorted(pool.map(leave, keys))
    with Session(engine) as session:
        left = session.scalars(sa.select(User.name).where(User.role == Role.ADMIN)).all()
    engine.dispose()
    assert (outcomes, len(left)) == ([False, True], 1)


@pytest.mark.parametrize("name", ["ada", "ADA"])
def test_a_name_taken_by_a_concurrent_transaction_is_a_conflict_regardless_of_case(
    fresh_database: str, name: str
) -> None:
    engine = make_engine(fresh_database)

    def make() -> None:
        with Session(engine) as session, session.begin():
            accounts.create_user(session, name, PASSWORD)

    with ThreadPoolExecutor(1) as pool, Session(engine) as first:
        accounts.create_user(first, "ada", PASSWORD)
        # finds no such name, since the first transaction is not committed, and then waits for it
        second = pool.submit(make)
        _wait_for_a_blocked_transaction(engine)
        assert not second.done()
        first.commit()
        with pytest.raises(Conflict):
            second.result(timeout=60)
    engine.dispose()


def test_changing_ones_own_password_requires_the_old_one(session: Session) -> None:
    user = accounts.create_user(session, "ada", PASSWORD)
    with pytest.raises(InvalidInput) as caught:
        accounts.change_password(session, user, "wrong wrong", "another good one")
    assert caught.value.detail["field"] == "old"
    with pytest.raises(InvalidInput) as caught:
        accounts.change_password(session, user, PASSWORD, "short")
    assert caught.value.detail["field"] == "new"
    assert accounts.check_password(session, "ada", PASSWORD) is user
    accounts.change_password(session, user, PASSWORD, "another good one")
    assert accounts.check_password(session, "ada", "another good one") is user


def test_a_successful_log_in_stores_its_time_and_a_failed_one_does_not(session: Session) -> None:
    user = accounts.create_user(session, "ada", PASSWORD)
    with pytest.raises(Unauthorized):
        accounts.log_in(session, "ada", "wrong wrong")
    assert user.last_login_at is None
    accounts.log_in(session, "ada", PASSWORD)
    assert user.last_login_at is not None


def test_accounts_are_listed_in_pages_with_what_they_own(session: Session) -> None:
    names = [f"user{number}" for number in range(5)]
    users = [accounts.create_user(session, name, PASSWORD) for name in names]
    session.add_all(Collection(id=new_id(), owner_id=users[1].id, name=name) for name in ("Birds", "Fish"))
    session.flush()
    first = accounts.list_users(session, limit=2)
    rest = accounts.list_users(session, after=first[-1].id)
    assert [one.user.name for one in (*first, *rest)] == names
    assert [one.collections for one in first] == [0, 2]
    assert [one.user.name for one in accounts.every_user(session)] == names
    # % is not a wildcard here
    assert [one.user.name for one in accounts.list_users(session, q="SER3")] == ["user3"]
    assert accounts.list_users(session, q="%") == []
