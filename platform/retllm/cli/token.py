"""``retllm token``: bearer tokens, on the database of this machine."""

from __future__ import annotations

from uuid import UUID

import click

from retllm.cli import show
from retllm.cli.client import json_option
from retllm.cli.database import administration, note
from retllm.db.enums import TokenScope
from retllm.identity import accounts, tokens
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm.settings import Settings


@click.group()
def token() -> None:
    """Make, list and end the API tokens of an account; works on DATABASE_URL, or on the running local stack."""


@token.command()
@click.argument("user")
@click.option("--name", default="token", show_default=True, help="What it is for.")
@click.option(
    "--scope",
    type=click.Choice([scope.value for scope in TokenScope]),
    default=tokens.DEFAULT_SCOPE.value,
    show_default=True,
    help="The most that it may do: read; search and review; change collections; manage (all that the account may).",
)
@click.option(
    "--days",
    type=click.IntRange(0, tokens.MAX_DAYS),
    default=tokens.DEFAULT_DAYS,
    show_default=True,
    help="How long it works; 0: until it is revoked.",
)
@json_option
def create(user: str, name: str, scope: str, days: int, as_json: bool) -> None:
    """Make a token for the account USER; it is shown this once.

    The web server must have the same secret key: RETLLM_SECRET_KEY, or the one in the same RETLLM_HOME.
    """
    with administration() as session:
        made, secret = tokens.issue(
            session,
            tokens.token_key(Settings()),
            Actor.unlimited(accounts.find_user(session, user)),
            name,
            scope=TokenScope(scope),
            days=days or None,
        )
        note(session, Action.TOKEN_CREATED, made.name, made.id, account=user, scope=scope, days=days or None)
    show.as_json({"token": secret}) if as_json else click.echo(secret)


@token.command("list")
@click.argument("user")
@json_option
def list_tokens(user: str, as_json: bool) -> None:
    """List the tokens of the account USER that still work."""
    with administration() as session:
        found = tokens.in_force(session, accounts.find_user(session, user))
    rows = [
        {
            "id": str(one.id),
            "name": one.name,
            "scope": one.scope.value,
            "created_at": one.created_at.isoformat(),
            "expires_at": one.expires_at.isoformat() if one.expires_at else None,
            "last_used_at": one.last_used_at.isoformat() if one.last_used_at else None,
        }
        for one in found
    ]
    if as_json:
        show.as_json({"tokens": rows})
    else:
        show.table(("id", "name", "scope", "created", "ends", "last used"), [tuple(row.values()) for row in rows])


@token.command()
@click.argument("user")
@click.argument("token_id", type=click.UUID)
def revoke(user: str, token_id: UUID) -> None:
    """End a token of the account USER."""
    with administration() as session:
        ended = tokens.revoke(session, Actor.unlimited(accounts.find_user(session, user)), token_id)
        note(session, Action.TOKEN_REVOKED, ended.name, ended.id, account=user)
    click.echo("The token is ended.")
