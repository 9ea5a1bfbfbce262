"""Checks that stored files match the rows that name them, and finds files that no row names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa
from fsspec.core import url_to_fs
from sqlalchemy.orm import Session

from retllm.db.deletion import WITH_DELETED
from retllm.db.jobs import Job
from retllm.db.searches import Search
from retllm.db.tables import Item, Source
from retllm.db.uploads import UNPACKED, FilePart, UploadFile
from retllm.errors import NotFound, OriginalLost, StorageUnavailable
from retllm.media import query_pictures
from retllm.media.storage import Storage
from retllm.queue.violations import Violation

_MEANING = "a row's files are stored unchanged"


@dataclass(frozen=True)
class _NamedFile:
    """A file that a row names; ``sha256`` is None if the row has no hash of it."""

    owner: str
    key: str
    sha256: str | None


def wrong_files(session: Session, storage: Storage, sample: int | None) -> Iterator[Violation]:
    """Yield files that are missing or differ from their rows, and referenced originals that do.

    ``sample`` limits the number of items, of searches, of whole files and of uploaded files.
    ``session`` must see concurrent commits (READ COMMITTED).
    """
    for named in _named(session, sample):
        problem = _problem(storage, named)
        # the row, and so its files, may have been deleted meanwhile
        if problem and _is_named(session, named):
            yield Violation("files_match", named.owner, _MEANING, f"{named.key}: {problem}")


def _named(session: Session, sample: int | None) -> Iterator[_NamedFile]:
    # the picture of a part is made from the whole file
    sha256_of = sa.case((Item.part.is_(None), Item.content_sha256))
    items = sa.select(Item.id, Item.picture_key, sha256_of, Item.thumbnail_key, Item.copy_key).where(
        Item.picture_key.is_not(None)
    )
    searches = (
        sa.select(Search.id, Search.query_picture_key, Search.query_picture_sha256)
        .join(Job, Job.id == Search.id)
        .where(Search.query_picture_key.is_not(None))
    )
    for item, picture, sha256, *made in session.execute(_sampled(items, sample)).all():
        yield _NamedFile(f"item {item}", picture, sha256)
        for key in filter(None, made):
            yield _NamedFile(f"item {item}", key, None)
    for search, picture, sha256 in session.execute(_sampled(searches, sample)).all():
        yield _NamedFile(f"search {search}", picture, sha256)
    sources = sa.select(Source.id, Source.file_key, Source.content_sha256)
    for source, key, sha256 in session.execute(_sampled(sources, sample)).all():
        yield _NamedFile(f"source {source}", key, sha256)

    received = sa.case((UploadFile.file_key.not_like(f"%{UNPACKED}"), UploadFile.sha256))
    uploaded = (
        sa.select(UploadFile.id, UploadFile.file_key, received)
        .join(Job, Job.id == UploadFile.job_id)
        .where(UploadFile.file_key.is_not(None))
    )
    for file, key, sha256 in session.execute(_sampled(uploaded, sample)).all():
        yield _NamedFile(f"file {file}", key, sha256)


def _sampled(query: Any, sample: int | None) -> Any:
    return query if sample is None else query.order_by(sa.func.random()).limit(sample)


def _problem(storage: Storage, named: _NamedFile) -> str | None:
    try:
        if named.sha256 is None:
            return None if storage.size(named.key) else "it is empty"
        with storage.open(named.key) as file:
            found = hashlib.file_digest(cast("Any", file), "sha256").hexdigest()
    except (OriginalLost, StorageUnavailable) as error:
        return error.message
    except NotFound:
        return "it is missing"
    return None if found == named.sha256 else f"its SHA-256 is {found}, not {named.sha256}"


def _is_named(session: Session, named: _NamedFile) -> bool:
    keys = (Item.picture_key, Item.thumbnail_key, Item.copy_key)
    item = sa.select(Item.id).where(sa.or_(*(key == named.key for key in keys)))
    search = sa.select(Search.id).join(Job, Job.id == Search.id).where(Search.query_picture_key == named.key)
    source = sa.select(Source.id).where(Source.file_key == named.key)
    uploaded = sa.select(UploadFile.id).join(Job, Job.id == UploadFile.job_id).where(UploadFile.file_key == named.key)
    return session.scalar(sa.select(sa.or_(*(query.exists() for query in (item, search, source, uploaded))))) is True


def orphans(session: Session, storage: Storage) -> list[str]:
    """Return the keys of stored files that no row names.

    They are harmless. An idle system has none, except those of uploads during which the web server was killed.
    """
    fs, root = url_to_fs(storage.url)
    top = str(root).rstrip("/")
    stored = {str(path).removeprefix(top).lstrip("/") for path in fs.find(top)}
    pictures = (Item.picture_key, Item.thumbnail_key, Item.copy_key, Search.query_picture_key)
    columns = (*pictures, Source.file_key, UploadFile.file_key, FilePart.file_key)
    every = (sa.select(column).where(column.is_not(None)).execution_options(**WITH_DELETED) for column in columns)
    named = {key for query in every for key in session.scalars(query)}
    # the other form of an archive whose listing did not end goes with it, and what was made of a query's picture
    return sorted(
        key
        for key in stored
        if key not in named and key.removesuffix(UNPACKED) not in named and _query_of(key) not in named
    )


def _query_of(key: str) -> str | None:
    folder = query_pictures.folder_of(key)
    return None if folder is None else f"{folder}/picture"
