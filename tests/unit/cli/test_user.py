"""Accounts and tokens on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy.orm import Session

from retllm.cli.token import token
from retllm.cli.user import user
from retllm.db.enums import Role, TokenScope
from retllm.db.session import make_engine
from retllm.errors import Conflict, InvalidInput, NotFound, Unauthorized
from retllm.identity import accounts, audit, logins, tokens
from retllm.identity.audit import AuditFilters
from retllm.settings import Settings

PASSWORD = "correct horse battery"


@pytest.fixture
def database(fresh_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """The database that the commands use."""
    monkeypatch.setenv("DATABASE_URL", fresh_database)
    monkeypatch.setenv("RETLLM_HOME", str(tmp_path / "home"))
    engine = make_engine(fresh_database)
    with Session(engine) as session:
        yield session
    engine.dispose()


def _run(command: Any, *arguments: str, typed: str | None = None) -> str:
    result = CliRunner().invoke(command, arguments, input=typed)
    if result.exception is not None:
        raise result.exception
    return result.output


def test_an_account_is_created_listed_and_given_another_role(database: Session) -> None:
    made = json.loads(_run(user, "create", "ada", "--role", "admin", "--json"))
    assert accounts.log_in(database, "ada", made["password"]).role is Role.ADMIN
    database.commit()
    _run(user, "create", "bob", "--password-stdin", typed=f"{PASSWORD}\n")
    assert "bob is now viewer" in _run(user, "role", "bob", "viewer")
    ada, bob = json.loads(_run(user, "list", "--json"))["users"]
    assert (ada["name"], ada["role"], ada["disabled"]) == ("ada", "admin", False)
    assert ada["last_login_at"] is not None
    assert (bob["name"], bob["role"], bob["last_login_at"]) == ("bob", "viewer", None)
    shown = _run(user, "list")
    assert "never" in shown
    assert "locked out" not in shown


def test_the_last_administrator_cannot_be_demoted_or_locked_out(database: Session) -> None:
    _run(user, "create", "ada", "--role", "admin")
    for arguments in (("role", "ada", "editor"), ("disable", "ada")):
        with pytest.raises(Conflict):
            _run(user, *arguments)
    assert accounts.find_user(database, "ada").role is Role.ADMIN


def test_an_unlocked_account_keeps_its_password(database: Session) -> None:
    _run(user, "create", "bob", "--password-stdin", typed=f"{PASSWORD}\n")
    assert "locked out" in _run(user, "disable", "bob")
    assert "locked out" in _run(user, "list")
    with pytest.raises(Unauthorized):
        accounts.check_password(database, "bob", PASSWORD)
    database.rollback()
    assert "is unlocked" in _run(user, "disable", "bob", "--undo")
    assert accounts.check_password(database, "bob", PASSWORD).name == "bob"


def test_command_line_actions_are_recorded_in_the_audit_log_without_secrets(database: Session) -> None:
    password = json.loads(_run(user, "create", "bob", "--json"))["password"]
    secret = _run(token, "create", "bob", "--name", "laptop").strip()
    assert tokens.holder(database, tokens.token_key(Settings()), secret).name == "bob"
    database.commit()
    (row,) = json.loads(_run(token, "list", "bob", "--json"))["tokens"]
    _run(token, "revoke", "bob", row["id"])
    _run(user, "role", "bob", "viewer")
    entries = audit.page(database, AuditFilters())
    assert [(one.action, one.target) for one in entries] == [
        ("user changed", "bob"),
        ("token revoked", "laptop"),
        ("token created", "laptop"),
        ("user created", "bob"),
    ]
    assert {(one.user_name, one.address) for one in entries} == {(None, "command line")}
    assert entries[0].detail == {"role": {"from": "editor", "to": "viewer"}}
    assert not [one for one in entries if password in str(one.detail) or secret in str(one.detail)]


def test_a_token_has_the_scope_change_and_is_valid_for_90_days_by_default(database: Session) -> None:
    _run(user, "create", "bob")
    _run(token, "create", "bob")
    secret = json.loads(_run(token, "create", "bob", "--scope", "read", "--days", "0", "--json"))["token"]
    usual, other = json.loads(_run(token, "list", "bob", "--json"))["tokens"]
    assert usual["scope"] == "change"
    days = datetime.fromisoformat(usual["expires_at"]) - datetime.fromisoformat(usual["created_at"])
    assert days == timedelta(days=90)
    assert (other["scope"], other["expires_at"]) == ("read", None)
    assert tokens.holder(database, tokens.token_key(Settings()), secret).scope is TokenScope.READ
    shown = _run(token, "list", "bob")
    assert "change" in shown
    assert secret not in shown


def test_an_account_cannot_be_created_with_an_easily_guessed_password(database: Session) -> None:
    with pytest.raises(InvalidInput):
        _run(user, "create", "bob", "--password-stdin", typed="password123\n")
    with pytest.raises(NotFound):
        accounts.find_user(database, "bob")


def test_a_new_password_on_the_command_line_ends_the_sessions_of_the_account(database: Session) -> None:
    _run(user, "create", "bob")
    bob = accounts.find_user(database, "bob")
    begun = logins.begin(database, bob, address=None, agent=None)
    database.commit()
    _run(user, "password", "bob")
    assert logins.holder(database, begun.id, timedelta(days=1)) is None
