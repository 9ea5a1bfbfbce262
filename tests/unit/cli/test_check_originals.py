"""`retllm doctor` says which places of originals that are not stored can't be read."""

from __future__ import annotations

from pathlib import Path

from tests import factories

from retllm.cli import checks
from retllm.cli.check import Check
from retllm.db.enums import ItemState
from retllm.db.session import Sessions, transaction
from retllm.settings import Settings


def told(database: str, home: Path, *roots: str) -> Check:
    settings = Settings(home=home, database_url=database, import_roots=roots)
    return checks.check_originals(database, settings)


def test_places_that_can_not_be_read_are_named_with_their_items(
    fresh_database: str, fresh_sessions: Sessions, tmp_path: Path
) -> None:
    here, away = tmp_path / "here", tmp_path / "away"
    here.mkdir()
    user = factories.make_user()
    collection = factories.make_collection(user.id)
    roots = [str(here), str(away), str(away), "s3://bucket/photos/", None]
    items = [factories.make_text(collection.id, str(n), original_root=root) for n, root in enumerate(roots)]
    deleted = factories.make_text(collection.id, "x", original_root="/gone", state=ItemState.DELETED)
    with transaction(fresh_sessions) as session:
        factories.store(session, user, collection, *items, deleted)
    found = told(fresh_database, tmp_path, str(tmp_path))
    assert found.state == "warning"
    assert f"{away} (2 items): there is no such folder." in found.message
    assert "s3://bucket/photos/ (1 item): it is not in RETLLM_IMPORT_ROOTS." in found.message
    assert str(here) not in found.message
    assert "/gone" not in found.message
    away.mkdir()
    found = told(fresh_database, tmp_path, str(tmp_path), "s3://bucket/photos")
    assert (found.state, found.message.split()[0]) == ("ok", "4")


def test_without_such_originals_all_is_well(fresh_database: str, tmp_path: Path) -> None:
    assert told(fresh_database, tmp_path).state == "ok"
