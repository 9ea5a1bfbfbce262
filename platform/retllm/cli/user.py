"""``retllm user``: accounts, on the database of this machine."""

from __future__ import annotations

import sys
from typing import Any

import click

from retllm.cli import show
from retllm.cli.client import json_option
from retllm.cli.database import administration, note
from retllm.db.enums import Role
from retllm.identity import accounts, passwords
from retllm.identity.audit import Action

password_option = click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")


@click.group()
def user() -> None:
    """Create and change accounts in the database of DATABASE_URL or of the running local stack."""


def _password(from_stdin: bool) -> tuple[str, bool]:
    """Return the password, and whether it was generated and must be shown."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n"), False
    return passwords.generate(), True


def _print_login(name: str, password: str, generated: bool, as_json: bool) -> None:
    if as_json:
        show.as_json({"name": name, "password": password if generated else None})
    elif generated:
        click.echo(f"{name} can log in with the password {password} (it is shown only once).")
    else:
        click.echo(f"{name} can log in.")


@user.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.EDITOR.value,
    show_default=True,
    help="Permissions: an admin may do everything, an editor changes its own collections, a viewer searches.",
)
@password_option
@json_option
def create(name: str, role: str, password_stdin: bool, as_json: bool) -> None:
    """Create the account NAME; without --password-stdin its password is generated and shown once."""
    password, generated = _password(password_stdin)
    with administration() as session:
        created = accounts.create_user(session, name, password, Role(role))
        note(session, Action.USER_CREATED, created.name, created.id, role=role)
    _print_login(name, password, generated, as_json)


@user.command()
@click.argument("name")
@password_option
@json_option
def password(name: str, password_stdin: bool, as_json: bool) -> None:
    """Set a new password for the account NAME."""
    new, generated = _password(password_stdin)
    with administration() as session:
        found = accounts.find_user(session, name)
        accounts.set_password(session, found, new)
        note(session, Action.PASSWORD_CHANGED, found.name, found.id)
    _print_login(name, new, generated, as_json)


@user.command()
@click.argument("name")
@click.option("--undo", is_flag=True, help="Unlock the account.")
def disable(name: str, undo: bool) -> None:
    """Lock the account NAME out; its collections and results stay."""
    with administration() as session:
        found = accounts.find_user(session, name)
        accounts.unlock(session, found) if undo else accounts.lock_out(session, found)
        note(session, Action.USER_CHANGED, found.name, found.id, locked_out=not undo)
    click.echo(f"{name} is {'unlocked' if undo else 'locked out'}.")


@user.command()
@click.argument("name")
@click.argument("role", type=click.Choice([role.value for role in Role]))
def role(name: str, role: str) -> None:
    """Set the role of the account NAME; the last administrator stays listed."""
    with administration() as session:
        found = accounts.find_user(session, name)
        before = found.role
        accounts.set_role(session, found, Role(role))
        note(session, Action.USER_CHANGED, found.name, found.id, role={"from": before.value, "to": role})
    click.echo(f"{name} is now {role}.")


@user.command("list")
@json_option
def list_users(as_json: bool) -> None:
    """List the accounts, oldest first."""
    with administration() as session:
        rows = [_row(listed) for listed in accounts.every_user(session)]
    if as_json:
        show.as_json({"users": rows})
        return
    columns = ("name", "role", "collections", "last log-in", "")
    show.table(
        columns,
        [
            (r["name"], r["role"], r["collections"], r["last_login_at"] or "never", "locked out" * r["disabled"])
            for r in rows
        ],
    )


def _row(listed: accounts.Listed) -> dict[str, Any]:
    last = listed.user.last_login_at
    return {
        "name": listed.user.name,
        "role": listed.user.role.value,
        "disabled": listed.user.disabled_at is not None,
        "collections": listed.collections,
        "last_login_at": last.isoformat(timespec="seconds") if last else None,
    }
