"""Each test has its own collection in the shared database and its own storage folder."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.factories import make_collection, make_user, store

from retllm.db.session import Sessions, make_sessions, transaction
from retllm.db.tables import Item
from retllm.media import sandbox
from retllm.media.decoding.opening import prepare
from retllm.media.ingest import Ingest
from retllm.media.storage import Storage, get_storage
from retllm.settings import Settings


@pytest.fixture
def fresh_decoders() -> Iterator[None]:
    """Stop all decoders before and after the test."""
    sandbox.close()
    yield
    sandbox.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with small limits, so that tests of the limits need little data."""
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
def decoding_here() -> None:
    """Lets a test call the decoder in this process, for many small pictures."""
    prepare()


@pytest.fixture
def storage(settings: Settings) -> Storage:
    """An empty storage."""
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
    """An ingest into the collection of this test."""
    return Ingest(media_sessions, storage, settings, collection_id)


@pytest.fixture
def items(media_sessions: Sessions, collection_id: uuid.UUID) -> Callable[[], list[Item]]:
    """Returns the current items of the collection."""

    def read() -> list[Item]:
        with media_sessions() as session:
            return list(session.scalars(sa.select(Item).filter_by(collection_id=collection_id).order_by(Item.id)))

    return read


@pytest.fixture
def stored(settings: Settings) -> Callable[[], list[str]]:
    """Returns the keys of the files that are now in the storage."""

    def read() -> list[str]:
        root = settings.home_path / "media"
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

    return read
