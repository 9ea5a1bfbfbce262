"""A collection of its own for every test, in the session's database, with a storage in a folder."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.factories import make_collection, make_user, store

from retllm.db.session import Sessions, make_sessions, transaction
from retllm.db.tables import Item
from retllm.media.ingest import Ingest
from retllm.media.storage import Storage, get_storage
from retllm.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with small limits, so that tests of limits stay small."""
    return Settings(
        home=tmp_path / "home",
        storage_url=None,
        max_file_bytes=2 << 20,
        max_pixels=4_000_000,
        max_archive_files=50,
        max_archive_bytes=8 << 20,
        max_text_chars=200,
        thumbnail_size=64,
    )


@pytest.fixture
def storage(settings: Settings) -> Storage:
    """The storage of this test, empty."""
    return get_storage(settings)


@pytest.fixture(scope="session")
def media_sessions(database_url: str) -> Iterator[Sessions]:
    """Sessions of the shared database."""
    sessions = make_sessions(database_url)
    yield sessions
    sessions.kw["bind"].dispose()


@pytest.fixture
def collection_id(media_sessions: Sessions) -> uuid.UUID:
    """An empty collection."""
    with transaction(media_sessions) as session:
        user = make_user(f"user-{uuid.uuid4()}")
        collection = make_collection(user.id, "pictures")
        store(session, user, collection)
    return collection.id


@pytest.fixture
def ingest(media_sessions: Sessions, storage: Storage, settings: Settings, collection_id: uuid.UUID) -> Ingest:
    """The way into the collection of this test."""
    return Ingest(media_sessions, storage, settings, collection_id)


@pytest.fixture
def items(media_sessions: Sessions, collection_id: uuid.UUID) -> Callable[[], list[Item]]:
    """Reads the items of the collection as they are now."""

    def read() -> list[Item]:
        with media_sessions() as session:
            return list(session.scalars(sa.select(Item).filter_by(collection_id=collection_id).order_by(Item.id)))

    return read


@pytest.fixture
def stored(settings: Settings) -> Callable[[], list[str]]:
    """Lists the files in the storage as they are now, as keys."""

    def read() -> list[str]:
        root = settings.home_path / "media"
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

    return read
