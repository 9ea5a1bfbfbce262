"""``retllm migrate``."""

from __future__ import annotations

import click

from retllm.cli.database import database_url
from retllm.settings import Settings


@click.command()
def migrate() -> None:
    """Upgrade the database to the newest schema; safe at every start and on several machines at once."""
    from retllm.db.migrate import upgrade

    upgrade(database_url(Settings()))
    click.echo("The database has the newest schema.")
