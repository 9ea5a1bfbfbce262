"""``retllm copies``: makes the working copies that older items lack."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from uuid import UUID

import click
import sqlalchemy as sa
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from retllm.cli import show
from retllm.cli.database import database_url
from retllm.errors import NotFound, RetllmError

if TYPE_CHECKING:
    from retllm.db.tables import Item
    from retllm.media.copies import ModelPictures

_PAGE = 256
_FAILED = 1


@click.command()
@click.option("--collection", type=click.UUID, help="Only the items of this collection.")
def copies(collection: UUID | None) -> None:
    """Make the working copies that are missing, on this machine, with its database and storage.

    Items uploaded before there were copies get theirs when a model first reads them; this command does it ahead. It can
    be interrupted and run again. Exit status 1: some pictures could not be read; each is printed with the reason.
    """
    from retllm.db.session import make_sessions
    from retllm.db.tables import Collection
    from retllm.media.copies import ModelPictures, lacks_copy
    from retllm.media.storage import get_storage
    from retllm.private import keep_private
    from retllm.settings import Settings

    settings = Settings()
    keep_private(settings)
    sessions = make_sessions(database_url(settings), pool_size=settings.decoders_at_once + 1)
    pictures = ModelPictures(sessions, get_storage(settings), settings)
    condition = lacks_copy(settings)
    if collection is not None:
        with sessions() as session:
            if session.get(Collection, collection) is None:
                raise NotFound(f"There is no collection with the id {collection}. `retllm collections` lists them.")
        condition = sa.and_(condition, _item().collection_id == collection)
    made, failed = _make_all(pictures, condition)
    click.echo(f"{made:,} working copies made, {failed:,} pictures could not be read.")
    if failed:
        sys.exit(_FAILED)


def _item() -> type[Item]:
    from retllm.db.tables import Item

    return Item


def _make_all(pictures: ModelPictures, condition: sa.ColumnElement[bool]) -> tuple[int, int]:
    """Make the copies of the items that meet ``condition``; return how many were made and how many failed."""
    made = failed = 0
    with pictures.sessions() as session:
        total = session.scalar(sa.select(sa.func.count()).select_from(_item()).where(condition)) or 0
    bar = Progress(
        TextColumn("working copies"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=show.console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    with bar, ThreadPoolExecutor(pictures.settings.decoders_at_once) as threads:
        task = bar.add_task("copies", total=total)
        for items in _pages(pictures, condition):
            for item, error in zip(items, threads.map(lambda item: _make(pictures, item), items), strict=True):
                made += error == ""
                if error:
                    failed += 1
                    click.echo(f"{item.name} ({item.id}): {error}", err=True)
                bar.advance(task)
    return made, failed


def _pages(pictures: ModelPictures, condition: sa.ColumnElement[bool]) -> Iterator[list[Item]]:
    last = UUID(int=0)
    while True:
        query = sa.select(_item()).where(condition, _item().id > last).order_by(_item().id).limit(_PAGE)
        with pictures.sessions() as session:
            items = list(session.scalars(query))
        if not items:
            return
        yield items
        last = items[-1].id


def _make(pictures: ModelPictures, item: Item) -> str | None:
    """Return an empty string if the copy was made, None if it is not needed (any more), else why it was not made."""
    from retllm.media.copies import needs_copy

    if not needs_copy(item, pictures.settings):
        return None
    try:
        return "" if pictures.make(item) else None
    except RetllmError as error:
        return None if isinstance(error, NotFound) and pictures.is_gone(item) else error.message
