"""Bearer tokens: what is stored, and how long they are valid."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import Role, TokenScope
from retllm.db.tables import ApiToken, User
from retllm.errors import Forbidden, InvalidInput, NotFound, Unauthorized
from retllm.identity import accounts, tokens
from retllm.identity.actor import Actor

PASSWORD = "correct horse battery"
KEY = tokens.key_from("the key of one server")


@pytest.fixture
def ada(session: Session) -> User:
    """An account with tokens."""
    return accounts.create_user(session, "ada", PASSWORD)


def test_a_token_identifies_its_account_and_scope_and_its_use_is_recorded(session: Session, ada: User) -> None:
    made, secret = tokens.issue(session, KEY, Actor.unlimited(ada), "laptop", scope=TokenScope.SEARCH)
    assert made.last_used_at is None
    found = tokens.holder(session, KEY, secret)
    assert (found.id, found.scope) == (ada.id, TokenScope.SEARCH)
    session.refresh(made)
    assert made.last_used_at is not None


def test_the_digest_of_a_token_is_useless_without_the_key(session: Session, ada: User) -> None:
    _, secret = tokens.issue(session, KEY, Actor.unlimited(ada), "laptop")
    kept = session.scalars(sa.select(ApiToken.digest)).one()
    assert secret not in kept
    # a database dump does not reveal which guess is right
    assert kept != hashlib.sha256(secret.encode()).hexdigest()
    assert kept not in (hashlib.new(name, secret.encode()).hexdigest() for name in ("sha1", "sha512", "md5"))
    with pytest.raises(Unauthorized):
        tokens.holder(session, tokens.key_from("the key of another server"), secret)
    with pytest.raises(Unauthorized):
        tokens.holder(session, KEY, kept)


def test_a_token_expires_after_the_given_number_of_days(session: Session, ada: User) -> None:
    made, secret = tokens.issue(session, KEY, Actor.unlimited(ada), "laptop", days=90)
    now = session.scalars(sa.select(sa.func.now())).one()
    assert made.expires_at == now + timedelta(days=90)
    assert tokens.holder(session, KEY, secret).id == ada.id
    made.expires_at = now - timedelta(seconds=1)
    session.flush()
    with pytest.raises(Unauthorized):
        tokens.holder(session, KEY, secret)
    assert tokens.active(session, ada) == []
    with pytest.raises(NotFound):
        tokens.revoke(session, Actor.unlimited(ada), made.id)


@pytest.mark.parametrize("days", [0, -1, tokens.MAX_DAYS + 1])
def test_a_token_is_valid_for_at_most_ten_years(session: Session, ada: User, days: int) -> None:
    with pytest.raises(InvalidInput):
        tokens.issue(session, KEY, Actor.unlimited(ada), "laptop", days=days)


@pytest.mark.parametrize("name", ["", "  ", "x" * 101])
def test_an_invalid_token_name_is_rejected(session: Session, ada: User, name: str) -> None:
    with pytest.raises(InvalidInput):
        tokens.issue(session, KEY, Actor.unlimited(ada), name)


def test_a_revoked_token_is_invalid_and_cannot_be_revoked_twice_or_by_others(session: Session, ada: User) -> None:
    eve = accounts.create_user(session, "eve", PASSWORD)
    stored, secret = tokens.issue(session, KEY, Actor.unlimited(ada), "laptop")
    with pytest.raises(NotFound):
        tokens.revoke(session, Actor.unlimited(eve), stored.id)
    tokens.revoke(session, Actor.unlimited(ada), stored.id)
    with pytest.raises(Unauthorized):
        tokens.holder(session, KEY, secret)
    with pytest.raises(NotFound):
        tokens.revoke(session, Actor.unlimited(ada), stored.id)


def test_tokens_of_a_locked_account_are_invalid_until_it_is_unlocked(session: Session, ada: User) -> None:
    accounts.create_user(session, "root", PASSWORD, Role.ADMIN)
    _, secret = tokens.issue(session, KEY, Actor.unlimited(ada), "laptop")
    accounts.lock_out(session, ada)
    with pytest.raises(Unauthorized):
        tokens.holder(session, KEY, secret)
    accounts.unlock(session, ada)
    assert tokens.holder(session, KEY, secret).id == ada.id


@pytest.mark.parametrize("scope", [TokenScope.READ, TokenScope.SEARCH, TokenScope.CHANGE])
def test_only_the_scope_manage_creates_and_revokes_tokens(session: Session, ada: User, scope: TokenScope) -> None:
    other, _ = tokens.issue(session, KEY, Actor.unlimited(ada), "other")
    _, secret = tokens.issue(session, KEY, Actor.unlimited(ada), "small", scope=scope)
    small = tokens.holder(session, KEY, secret)
    with pytest.raises(Forbidden):
        tokens.issue(session, KEY, small, "larger", scope=TokenScope.READ)
    with pytest.raises(Forbidden):
        tokens.revoke(session, small, other.id)
