"""Login sessions: stored, listed, ended and expired."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import Role
from retllm.db.tables import Login, User
from retllm.errors import NotFound
from retllm.identity import accounts, logins

PASSWORD = "correct horse battery"
IDLE = timedelta(days=14)


@pytest.fixture
def ada(session: Session) -> User:
    """An account with sessions."""
    return accounts.create_user(session, "ada", PASSWORD)


def _begin(session: Session, user: User, address: str = "192.0.2.1") -> Login:
    return logins.begin(session, user, address=address, agent="a browser")


def _age(session: Session, login: Login, **days: float) -> None:
    """Make a session older by a number of days."""
    moments = {name: sa.func.now() - timedelta(days=number) for name, number in days.items()}
    session.execute(sa.update(Login).where(Login.id == login.id).values(**moments))
    session.expire(login)


def test_a_session_identifies_its_account_until_it_is_ended(session: Session, ada: User) -> None:
    first, second = _begin(session, ada), _begin(session, ada)
    assert logins.holder(session, first.id, IDLE) is ada
    logins.end(session, ada.id, first.id)
    assert logins.holder(session, first.id, IDLE) is None
    assert logins.holder(session, second.id, IDLE) is ada
    assert logins.holder(session, uuid.uuid4(), IDLE) is None
    with pytest.raises(NotFound):
        logins.end(session, ada.id, first.id)


def test_an_account_cannot_end_the_session_of_another(session: Session, ada: User) -> None:
    eve = accounts.create_user(session, "eve", PASSWORD)
    login = _begin(session, ada)
    with pytest.raises(NotFound):
        logins.end(session, eve.id, login.id)
    assert logins.end_all(session, eve.id) == 0
    assert logins.holder(session, login.id, IDLE) is ada


def test_an_idle_session_expires_and_a_used_one_does_not(session: Session, ada: User) -> None:
    idle, used = _begin(session, ada), _begin(session, ada)
    _age(session, idle, created_at=15, seen_at=14.01)
    _age(session, used, created_at=400, seen_at=13.9)
    assert logins.holder(session, idle.id, IDLE) is None
    assert logins.holder(session, used.id, IDLE) is ada
    assert [one.id for one in logins.active(session, ada, IDLE)] == [used.id]


def test_seen_at_is_updated_once_a_minute(session: Session, ada: User) -> None:
    login = _begin(session, ada)
    for days, written in ((30 / 86400, False), (61 / 86400, True)):
        _age(session, login, seen_at=days)
        before = login.seen_at
        assert logins.holder(session, login.id, IDLE) is ada
        session.expire(login)
        assert (login.seen_at > before) is written


@pytest.mark.parametrize("action", ["new password", "own new password", "lock out"])
def test_a_new_password_and_a_lock_end_all_sessions(session: Session, ada: User, action: str) -> None:
    accounts.create_user(session, "root", PASSWORD, Role.ADMIN)
    begun = [_begin(session, ada) for _ in range(3)]
    if action == "new password":
        accounts.set_password(session, ada, "another good one")
    elif action == "own new password":
        accounts.change_password(session, ada, PASSWORD, "another good one")
    else:
        accounts.lock_out(session, ada)
        accounts.unlock(session, ada)
    assert [logins.holder(session, one.id, IDLE) for one in begun] == [None] * 3


def test_a_new_role_keeps_the_sessions(session: Session, ada: User) -> None:
    login = _begin(session, ada)
    accounts.set_role(session, ada, Role.VIEWER)
    found = logins.holder(session, login.id, IDLE)
    assert found is not None
    assert found.role is Role.VIEWER


def test_old_ended_sessions_are_deleted_at_the_next_log_in(session: Session, ada: User) -> None:
    ended, idle, recent = (_begin(session, ada) for _ in range(3))
    keys = {"ended": ended.id, "idle": idle.id, "recent": recent.id}
    _age(session, ended, seen_at=31, ended_at=31)
    _age(session, idle, seen_at=31)
    logins.end(session, ada.id, recent.id)
    _begin(session, ada)
    left = set(session.scalars(sa.select(Login.id)))
    assert left & set(keys.values()) == {keys["recent"]}


def test_an_account_is_known_at_recent_addresses(session: Session, ada: User) -> None:
    login = _begin(session, ada, address="192.0.2.1")
    assert logins.is_known_at(session, "ADA", "192.0.2.1")
    assert not logins.is_known_at(session, "ada", "192.0.2.2")
    assert not logins.is_known_at(session, "eve", "192.0.2.1")
    _age(session, login, seen_at=31)
    assert not logins.is_known_at(session, "ada", "192.0.2.1")
    _begin(session, ada, address="2001:db8:1:2::1")
    assert logins.is_known_at(session, "ada", "2001:db8:1:2:ffff::9")
    assert not logins.is_known_at(session, "ada", "2001:db8:1:3::1")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "unknown"),
        (None, "unknown"),
        ("a socket", "a socket"),
    ],
)
def test_an_ipv6_address_counts_as_its_64_bit_network(address: str | None, network: str) -> None:
    assert logins.network_of(address) == network
