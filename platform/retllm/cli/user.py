"""``retllm user``: accounts, on the database of this machine."""

from __future__ import annotations

import secrets
import sys

import click
import sqlalchemy as sa

from retllm import accounts
from retllm.cli import show
from retllm.cli.client import json_option
from retllm.cli.database import administration
from retllm.db.enums import Role
from retllm.db.tables import User

password_option = click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")


@click.group()
def user() -> None:
    """Make and change accounts; works on DATABASE_URL, or on the running local stack."""


def _password(from_stdin: bool) -> tuple[str, bool]:
    """The password, and whether it was made up here and has to be shown."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n"), False
    return secrets.token_urlsafe(12), True


def _tell(name: str, password: str, made_up: bool, as_json: bool) -> None:
    if as_json:
        show.as_json({"name": name, "password": password if made_up else None})
    elif made_up:
        click.echo(f"{name} can log in with the password {password} (it is shown this once).")
    else:
        click.echo(f"{name} can log in.")


@user.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.EDITOR.value,
    show_default=True,
    help="What the account may do: an admin everything, an editor changes its own collections, a viewer searches.",
)
@password_option
@json_option
def create(name: str, role: str, password_stdin: bool, as_json: bool) -> None:
    """Make the account NAME; without --password-stdin its password is made up and shown once."""
    password, made_up = _password(password_stdin)
    with administration() as session:
        accounts.create_user(session, name, password, Role(role))
    _tell(name, password, made_up, as_json)


@user.command()
@click.argument("name")
@password_option
@json_option
def password(name: str, password_stdin: bool, as_json: bool) -> None:
    """Give the account NAME a new password."""
    new, made_up = _password(password_stdin)
    with administration() as session:
        accounts.set_password(session, accounts.find_user(session, name), new)
    _tell(name, new, made_up, as_json)


@user.command()
@click.argument("name")
@click.option("--undo", is_flag=True, help="Let the account in again.")
def disable(name: str, undo: bool) -> None:
    """Lock the account NAME out; its collections and results stay."""
    with administration() as session:
        accounts.find_user(session, name).disabled_at = None if undo else sa.func.now()
    click.echo(f"{name} is {'enabled' if undo else 'disabled'}.")


@user.command("list")
@json_option
def list_users(as_json: bool) -> None:
    """List the accounts."""
    with administration() as session:
        rows = [
            {"name": one.name, "role": one.role.value, "disabled": one.disabled_at is not None}
            for one in session.scalars(sa.select(User).order_by(User.name))
        ]
    if as_json:
        show.as_json({"users": rows})
    else:
        show.table(("name", "role", "disabled"), [(r["name"], r["role"], "yes" if r["disabled"] else "") for r in rows])
