"""The dispatcher as a separate process."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.factories import make_collection, make_picture, make_user, store

from retllm.db.deletion import WITH_DELETED
from retllm.db.session import Sessions, transaction
from retllm.db.tables import Collection
from retllm.stack import commands


@pytest.mark.slow
def test_the_dispatcher_deletes_leftovers_of_killed_uploads_and_deleted_collections_and_stops_on_sigterm(
    fresh_database: str, fresh_sessions: Sessions, redis_url: str, tmp_path: Path
) -> None:
    with transaction(fresh_sessions) as session:
        user = make_user()
        collection = make_collection(user.id, deleted_at=sa.func.now())
        item = make_picture(collection.id)
        store(session, user, collection, item)
    picture = tmp_path / "media" / str(item.picture_key)
    picture.parent.mkdir(parents=True)
    picture.touch()
    folder = tmp_path / "media" / "tmp"
    folder.mkdir(parents=True)
    left, fresh = folder / "left", folder / "fresh"
    left.touch()
    fresh.touch()
    two_days_ago = time.time() - 2 * 86_400
    os.utime(left, (two_days_ago, two_days_ago))
    environment = os.environ | {
        "DATABASE_URL": fresh_database,
        "REDIS_URL": redis_url,
        "RETLLM_HOME": str(tmp_path),
        "RETLLM_STORAGE_URL": f"file://{tmp_path}/media",
    }
    process = subprocess.Popen(commands.python(commands.DISPATCH), env=environment)
    try:
        deadline = time.monotonic() + 60
        while left.exists() or picture.exists() or _has_collections(fresh_sessions):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert fresh.exists(), "an upload may still be writing this file"


def _has_collections(sessions: Sessions) -> bool:
    with sessions() as session:
        return session.scalar(sa.select(Collection.id).execution_options(**WITH_DELETED)) is not None
