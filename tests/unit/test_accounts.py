"""Accounts and tokens: who gets in, who does not, and what is kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm import accounts
from retllm.db.enums import Role
from retllm.db.session import make_engine
from retllm.db.tables import ApiToken, User
from retllm.errors import Conflict, InvalidInput, NotFound, Unauthorized

PASSWORD = "correct horse battery"


@pytest.fixture
def session(fresh_database: str) -> Iterator[Session]:
    engine = make_engine(fresh_database)
    with Session(engine) as opened:
        yield opened
    engine.dispose()


def test_the_right_password_gets_in_whatever_the_case_of_the_name(session: Session) -> None:
    user = accounts.create_user(session, "Ada", PASSWORD)
    assert accounts.check_password(session, "ada", PASSWORD) is user


def test_a_wrong_name_and_a_wrong_password_are_told_alike(session: Session) -> None:
    accounts.create_user(session, "ada", PASSWORD)
    messages = []
    for name, password in (("ada", "wrong password"), ("eve", PASSWORD)):
        with pytest.raises(Unauthorized) as caught:
            accounts.check_password(session, name, password)
        messages.append(caught.value.message)
    assert messages[0] == messages[1]


def test_no_password_or_token_is_stored_as_it_is(session: Session) -> None:
    user = accounts.create_user(session, "ada", PASSWORD)
    _, token = accounts.issue_token(session, user, "laptop")
    assert PASSWORD not in session.scalars(sa.select(User.password_hash)).one()
    assert session.scalars(sa.select(ApiToken.digest)).one() not in token


def test_a_disabled_account_and_its_tokens_are_shut_out(session: Session) -> None:
    user = accounts.create_user(session, "ada", PASSWORD)
    _, token = accounts.issue_token(session, user, "laptop")
    assert accounts.user_for_token(session, token) is user
    user.disabled_at = sa.func.now()
    session.flush()
    with pytest.raises(Unauthorized):
        accounts.user_for_token(session, token)
    with pytest.raises(Unauthorized):
        accounts.check_password(session, "ada", PASSWORD)


def test_a_revoked_token_is_shut_out_and_cannot_be_revoked_twice_or_by_others(session: Session) -> None:
    ada, eve = (accounts.create_user(session, name, PASSWORD) for name in ("ada", "eve"))
    _, token = accounts.issue_token(session, ada, "laptop")
    (stored,) = accounts.list_tokens(session, ada)
    with pytest.raises(NotFound):
        accounts.revoke_token(session, eve, stored.id)
    accounts.revoke_token(session, ada, stored.id)
    for again in (
        lambda: accounts.user_for_token(session, token),
        lambda: accounts.revoke_token(session, ada, stored.id),
    ):
        with pytest.raises((Unauthorized, NotFound)):
            again()


def test_the_first_administrator_is_made_once(session: Session) -> None:
    made, password = accounts.ensure_admin(session)
    assert password is not None
    assert accounts.check_password(session, "admin", password).role is Role.ADMIN
    assert accounts.ensure_admin(session) == (made, None)


@pytest.mark.parametrize("name", ["", " ", "-x", "a b", "a/b", "x" * 101, "zoë\n"])
def test_names_that_make_trouble_are_refused(session: Session, name: str) -> None:
    with pytest.raises(InvalidInput):
        accounts.create_user(session, name, PASSWORD)


def test_a_name_is_taken_whatever_its_case(session: Session) -> None:
    accounts.create_user(session, "ada", PASSWORD)
    with pytest.raises(Conflict):
        accounts.create_user(session, "ADA", PASSWORD)


def test_a_short_password_is_refused_and_a_new_one_replaces_the_old(session: Session) -> None:
    with pytest.raises(InvalidInput):
        accounts.create_user(session, "ada", "short")
    user = accounts.create_user(session, "ada", PASSWORD)
    accounts.set_password(session, user, "another good one")
    with pytest.raises(Unauthorized):
        accounts.check_password(session, "ada", PASSWORD)
    assert accounts.check_password(session, "ada", "another good one") is user
