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
    """Create, list and revoke API tokens in the database of DATABASE_URL or of the running local stack."""


@token.command()
@click.argument("user")
@click.option("--name", default="token", show_default=True, help="Purpose of the token.")
@click.option(
    "--scope",
    type=click.Choice([scope.value for scope in TokenScope]),
    default=tokens.DEFAULT_SCOPE.value,
    show_default=True,
    help="Permissions: read; search and review; change collections; manage (all that the account may do).",
)
@click.option(
    "--days",
    type=click.IntRange(0, tokens.MAX_DAYS),
    default=tokens.DEFAULT_DAYS,
    show_default=True,
    help="Validity in days; 0: until it is revoked.",
)
@json_option
def create(user: str, name: str, scope: str, days: int, as_json: bool) -> None:
    """Create a token for the account USER; it is shown only once.

    The web server must have the same secret key: RETLLM_SECRET_KEY, or the one in the same RETLLM_HOME.
    """
    with administration() as session:
        created, secret = tokens.issue(
            session,
            tokens.token_key(Settings()),
            Actor.unlimited(accounts.find_user(session, user)),
            name,
            scope=TokenScope(scope),
            days=days or None,
        )
        note(session, Action.TOKEN_CREATED, created.name, created.id, account=user, scope=scope, days=days or None)
    show.as_json({"token": secret}) if as_json else click.echo(secret)


@token.command("list")
@click.argument("user")
@json_option
def list_tokens(user: str, as_json: bool) -> None:
    """List the valid tokens of the account USER."""
    with administration() as session:
        found = tokens.active(session, accounts.find_user(session, user))
    rows = [
        {
            "id": str(row.id),
            "name": row.name,
            "scope": row.scope.value,
            "created_at": row.created_at.isoformat(),
            "expires_at": row.expires_at.isoformat() if row.expires_at else None,
            "last_used_at": row.last_used_at.isoformat() if row.last_used_at else None,
        }
        for row in found
    ]
    if as_json:
        show.as_json({"tokens": rows})
    else:
        show.table(("id", "name", "scope", "created", "expires", "last used"), [tuple(row.values()) for row in rows])


@token.command()
@click.argument("user")
@click.argument("token_id", type=click.UUID)
def revoke(user: str, token_id: UUID) -> None:
    """Revoke a token of the account USER."""
    with administration() as session:
        revoked = tokens.revoke(session, Actor.unlimited(accounts.find_user(session, user)), token_id)
        note(session, Action.TOKEN_REVOKED, revoked.name, revoked.id, account=user)
    click.echo("The token is revoked.")
