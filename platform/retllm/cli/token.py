"""``retllm token``: bearer tokens, on the database of this machine."""

from __future__ import annotations

from uuid import UUID

import click

from retllm import accounts
from retllm.audit import Action
from retllm.cli import show
from retllm.cli.client import json_option
from retllm.cli.database import administration, note


@click.group()
def token() -> None:
    """Make, list and end the API tokens of an account; works on DATABASE_URL, or on the running local stack."""


@token.command()
@click.argument("user")
@click.option("--name", default="token", show_default=True, help="What it is for.")
@json_option
def create(user: str, name: str, as_json: bool) -> None:
    """Make a token for the account USER; it is shown this once."""
    with administration() as session:
        made, secret = accounts.issue_token(session, accounts.find_user(session, user), name)
        note(session, Action.TOKEN_CREATED, made.name, made.id, account=user)
    show.as_json({"token": secret}) if as_json else click.echo(secret)


@token.command("list")
@click.argument("user")
@json_option
def list_tokens(user: str, as_json: bool) -> None:
    """List the tokens of the account USER that still work."""
    with administration() as session:
        found = accounts.list_tokens(session, accounts.find_user(session, user))
    rows = [
        {
            "id": str(one.id),
            "name": one.name,
            "created_at": one.created_at.isoformat(),
            "last_used_at": one.last_used_at.isoformat() if one.last_used_at else None,
        }
        for one in found
    ]
    if as_json:
        show.as_json({"tokens": rows})
    else:
        show.table(("id", "name", "created", "last used"), [tuple(row.values()) for row in rows])


@token.command()
@click.argument("user")
@click.argument("token_id", type=click.UUID)
def revoke(user: str, token_id: UUID) -> None:
    """End a token of the account USER."""
    with administration() as session:
        ended = accounts.revoke_token(session, accounts.find_user(session, user), token_id)
        note(session, Action.TOKEN_REVOKED, ended.name, ended.id, account=user)
    click.echo("The token is ended.")
