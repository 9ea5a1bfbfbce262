"""Every transaction locks collection, job, unit and item in this order, so that there are no deadlocks.

Two transactions run against each other at every point: the first pauses after each of its statements that can lock rows
in turn, the second runs as far as it can, then the first continues. A removal of a collection has many statements: each
action comes after every sixth of them, and so six actions after each; with ``make soak`` every action after each.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from tests.databases import EmptiedDatabase
from tests.soak import scaled
from tests.unit.db.lock_scene import ACTIONS, MAIN, OTHER, Other, Scene, scene_of
from tests.unit.stand_ins import FakeEmbedder

from retllm.db import session as db_session
from retllm.db.deletion import WITH_DELETED
from retllm.db.jobs import Job
from retllm.db.session import Sessions, transaction
from retllm.db.tables import Collection, Embedding, Item, Source
from retllm.errors import DatabaseBusy, RetllmError
from retllm.identity import accounts
from retllm.identity.actor import Actor
from retllm.indexing.worker import register
from retllm.media.storage import get_storage
from retllm.settings import Settings
from retllm.uploads.removal import remove_deleted

pytestmark = pytest.mark.slow

_SECONDS = 60.0
_EVERY = scaled(6, 1)


@pytest.fixture(scope="module")
def kept(template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmptiedDatabase, Scene]]:
    """A database with the scene, which is restored instead of made again for each run."""
    database = EmptiedDatabase(template_database)
    settings = Settings(
        home=tmp_path_factory.mktemp("home"),
        database_url=database.url,
        embedder=MAIN,
        extra_embedders=(OTHER,),
        scorer="/models/scorer",
        lease_seconds=3600,
    )
    sessions = database.sessions()
    with transaction(sessions) as session:
        user = Actor.unlimited(accounts.create_user(session, "ada", "a-long-password"))
        register(session, FakeEmbedder())
        register(session, Other())
    scene = scene_of(sessions, settings, user)
    with database.kept():
        yield database, scene
    database.close()


@pytest.fixture
def restored(kept: tuple[EmptiedDatabase, Scene]) -> Callable[[], Scene]:
    """Returns the scene, as if nothing had happened to it."""
    database, scene = kept

    def restore() -> Scene:
        database.reset()
        return scene

    return restore


class Runner(threading.Thread):
    """An action in its own thread, which pauses after its locking statement number ``stop_after`` until released."""

    def __init__(self, scene: Scene, action: Callable[[Scene], object], stop_after: int | None = None) -> None:
        super().__init__(daemon=True)
        self._scene, self._action, self._left = scene, action, stop_after
        self.stopped, self.ended, self.go = threading.Event(), threading.Event(), threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._action(self._scene)
        except Exception as error:
            self.error = error
        self.ended.set()

    def count(self, _conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        """Run after each statement of any thread."""
        if threading.current_thread() is not self or self._left is None:
            return
        if statement.startswith("SELECT") and " FOR " not in statement:
            return
        self._left -= 1
        if self._left == 0:
            self.stopped.set()
            assert self.go.wait(_SECONDS)


@contextmanager
def counted(sessions: Sessions, runner: Runner) -> Iterator[None]:
    engine = sessions.kw["bind"]
    sa.event.listen(engine, "after_cursor_execute", runner.count)
    yield
    sa.event.remove(engine, "after_cursor_execute", runner.count)


def _until(condition: Callable[[], bool]) -> None:
    deadline = threading.Event()
    for _ in range(int(_SECONDS / 0.005)):
        if condition():
            return
        deadline.wait(0.005)
    raise AssertionError("the condition did not become true in time")


def _waits_for_a_lock(sessions: Sessions) -> bool:
    waiting = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with sessions() as session:
        return bool(session.scalar(waiting))


def against(scene: Scene, first: Callable[[Scene], object], second: Callable[[Scene], object], at: int) -> bool:
    """Run ``second`` while ``first`` pauses after its locking statement ``at``; return False if it has fewer."""
    one, other = Runner(scene, first, at), Runner(scene, second)
    with counted(scene.sessions, one):
        one.start()
        _until(lambda: one.stopped.is_set() or one.ended.is_set())
        reached = one.stopped.is_set()
        other.start()
        _until(lambda: other.ended.is_set() or _waits_for_a_lock(scene.sessions))
        one.go.set()
        assert one.ended.wait(_SECONDS)
        assert other.ended.wait(_SECONDS)
    for runner in (one, other):
        # the action came too late: its collection, job or unit was deleted or has changed
        expected = isinstance(runner.error, RetllmError) and not isinstance(runner.error, DatabaseBusy)
        if runner.error is not None and not expected:
            raise runner.error
    return reached


@pytest.fixture
def aborted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count aborted transactions, which retries would hide."""
    found: list[str] = []
    was_undone = db_session.was_undone

    def record(error: sa.exc.DBAPIError) -> bool:
        if was_undone(error):
            found.append(str(error.orig))
        return was_undone(error)

    monkeypatch.setattr(db_session, "was_undone", record)
    return found


@pytest.mark.parametrize("name", ACTIONS)
def test_a_collection_can_be_deleted_during_any_other_action(
    restored: Callable[[], Scene], aborted: list[str], name: str
) -> None:
    assert _pause_at_statements(restored, aborted, name, "delete the collection", range(1, 1000)) > 1


# a second deletion comes at every statement of the first one in the test above
@pytest.mark.parametrize("name", [name for name in ACTIONS if name != "delete the collection"])
def test_any_other_action_can_come_while_a_collection_is_removed(
    restored: Callable[[], Scene], aborted: list[str], name: str
) -> None:
    first = 1 + list(ACTIONS).index(name) % _EVERY
    assert _pause_at_statements(restored, aborted, "delete the collection", name, range(first, 1000, _EVERY)) > 10


def _pause_at_statements(
    restored: Callable[[], Scene], aborted: list[str], name: str, other: str, numbers: range
) -> int:
    """Pause an action at some of its statements while another one runs; return the first number that it has not."""
    for at in numbers:
        scene = restored()
        reached = against(scene, ACTIONS[name], ACTIONS[other], at)
        assert aborted == [], f"after statement {at}"
        _assert_removed(scene)
        if not reached:
            return at
    raise AssertionError(f"{name} does not end")


def _assert_removed(scene: Scene) -> None:
    # the next round of a dispatcher: the first one leaves alone what others had locked before the deletion
    remove_deleted(scene.sessions, get_storage(scene.settings))
    with scene.sessions() as session:
        for table in (Item, Embedding, Job, Source):
            left = sa.select(sa.func.count()).select_from(table).filter_by(collection_id=scene.collection.id)
            assert session.scalar(left.execution_options(**WITH_DELETED)) == 0
        collection = sa.select(Collection.id).where(Collection.id == scene.collection.id)
        assert session.scalar(collection.execution_options(**WITH_DELETED)) is None


_PAIRS = [
    ("commit vectors", "delete an item"),
    ("commit vectors", "change captions"),
    ("commit vectors", "remove vectors"),
    ("commit vectors", "cancel jobs"),
    ("commit vectors", "change the embedder"),
    ("commit vectors", "commit candidates"),
    ("commit candidates", "delete an item"),
    ("commit candidates", "change captions"),
    ("delete an item", "remove vectors"),
    ("change captions", "delete an item"),
    ("mark a result", "delete jobs"),
    ("replace groups", "delete items"),
    ("replace groups", "dismiss a group"),
    ("dismiss a group", "delete items"),
    ("delete an item", "delete items"),
    ("retry a job", "delete jobs"),
    ("change the embedder", "add a text"),
    ("rescue a unit", "cancel jobs"),
    ("delete the collection", "add a member"),
    ("delete the collection", "rename the collection"),
    ("delete the collection", "change the visibility"),
]


# a deletion that comes during each of the others is tested above
_REVERSED = [(b, a) for a, b in _PAIRS if a != "delete the collection"]


@pytest.mark.parametrize(("one", "other"), _PAIRS + _REVERSED)
def test_two_transactions_on_the_same_rows_do_not_deadlock(
    restored: Callable[[], Scene], aborted: list[str], one: str, other: str
) -> None:
    at = 1
    while against(restored(), ACTIONS[one], ACTIONS[other], at):
        assert aborted == [], f"after statement {at}"
        at += 1
    assert aborted == []
    assert at > 1
