"""Each test gets the shared database in the state of the template, whatever the previous test changed."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from tests import factories
from tests.databases import EmptiedDatabase, connect, copy_template

from retllm.db.base import Base, new_id
from retllm.db.counts import CollectionCount, FileCount, UnitCount
from retllm.db.duplicates import Dismissal, DuplicateGroup, DuplicateMember, DuplicateResult, SimilarPair
from retllm.db.enums import FileStatus, ItemKind, MemberRole, RunSource, Stage, TokenScope, UnitState
from retllm.db.imports import ImportedFile, ImportedFolder
from retllm.db.jobs import Attempt
from retllm.db.maps import MapPoint, MapResult
from retllm.db.operations import MetricTotal, PausedQueue, Worker
from retllm.db.people import AuditEntry, CollectionMember, SavedView, ShareLink
from retllm.db.reviews import EvaluationRun, Judgment
from retllm.db.searches import CachedScore, SearchCollection
from retllm.db.session import make_engine, transaction
from retllm.db.tables import ApiToken, EmbeddingClaim, Login, Source
from retllm.db.uploads import ExpectedFiles, FilePart, LargeFile, Upload, UploadFile
from retllm.db.vectors import VectorIndex

_OBJECTS = """
    SELECT 'relation', c.relname, c.relkind::text, coalesce(pg_get_indexdef(i.indexrelid), '') FROM pg_class c
        LEFT JOIN pg_index i ON i.indexrelid = c.oid WHERE c.relnamespace = 'public'::regnamespace
    UNION ALL SELECT 'column', attrelid::regclass::text, attname, format_type(atttypid, atttypmod) FROM pg_attribute
        WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r')
    UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT 'trigger', tgrelid::regclass::text, tgname, tgenabled::text FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'function', proname, prosrc, '' FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    ORDER BY 1, 2, 3, 4
"""

_SEQUENCES = "SELECT sequencename, last_value FROM pg_sequences"


def _contents(url: str) -> tuple[list[Any], dict[str, list[Any]]]:
    """Everything in the database: its objects, and the rows of each table."""
    engine = make_engine(url)
    with engine.connect() as connection:
        tables = sa.inspect(connection).get_table_names()
        rows = {one: [tuple(row) for row in connection.execute(sa.text(f"SELECT * FROM {one}"))] for one in tables}
        objects = [tuple(row) for row in connection.execute(sa.text(_OBJECTS))]
    engine.dispose()
    return objects, rows


@pytest.fixture
def pristine(template_database: str) -> tuple[list[Any], dict[str, list[Any]]]:
    """The contents of a copy of the template."""
    return _contents(copy_template(template_database))


def _rows() -> list[Base]:
    """A row of every table."""
    user, other = factories.make_user(), factories.make_user("bob")
    collection = factories.make_collection(user.id)
    item = factories.make_text(collection.id, "a robin")
    model = factories.make_model("other")
    job = factories.make_job(user.id, collection.id)
    search = factories.make_search(job.id)
    unit = factories.make_unit(job.id)
    large = LargeFile(id=new_id(), job_id=job.id, collection_id=collection.id, name="b.zip", size_bytes=9)
    report: dict[str, Any] = {}
    folder = ImportedFolder(id=new_id(), collection_id=collection.id, path=b"/a")
    group = DuplicateGroup(id=new_id(), collection_id=collection.id, size=2)
    return [
        *(user, other, collection, item, model, job, search, unit),
        factories.make_embedding(item, model.id),
        factories.make_candidate(job.id, item.id, 1),
        SearchCollection(search_id=job.id, collection_id=collection.id),
        factories.make_score(job.id, item.id, 0.5),
        Attempt(unit_id=unit.id, number=1, worker="w"),
        CachedScore(key="k", score=0.5, tokens=1),
        ApiToken(id=new_id(), user_id=user.id, name="t", digest="d", scope=TokenScope.READ),
        Login(id=new_id(), user_id=user.id),
        CollectionMember(collection_id=collection.id, user_id=other.id, role=MemberRole.VIEWER),
        ShareLink(
            id=new_id(),
            collection_id=collection.id,
            user_id=user.id,
            name="l",
            digest="d",
            downloads=False,
            expires_at=datetime.now(UTC),
        ),
        AuditEntry(id=new_id(), action="logged_in"),
        SavedView(id=new_id(), user_id=user.id, name="v", address=""),
        Worker(name="host:1", queues=["score"], device="cpu", release="1"),
        PausedQueue(queue="score"),
        MetricTotal(name="n", labels="{}", value=1.0),
        EmbeddingClaim(item_id=item.id, model_id=model.id, token=new_id()),
        Upload(id=job.id),
        ExpectedFiles(job_id=job.id, first=0, names=["b.png"]),
        UploadFile(id=new_id(), job_id=job.id, name="a.png"),
        large,
        folder,
        group,
        DuplicateMember(item_id=item.id, group_id=group.id, distance=1),
        DuplicateResult(collection_id=collection.id, job_id=job.id, pictures=1),
        SimilarPair(job_id=job.id, first=new_id(), second=new_id(), similarity=0.99),
        Dismissal(item_id=item.id, dismissal_id=new_id(), collection_id=collection.id),
        MapResult(collection_id=collection.id, job_id=job.id, model_id=model.id, through=item.id, items=1),
        MapPoint(item_id=item.id, collection_id=collection.id, rank=0, x=1.0, y=2.0),
        ImportedFile(
            folder_id=folder.id, path=b"b.png", name="a/b.png", size_bytes=9, changed_ns=1, pending=True, run=1
        ),
        FilePart(large_file_id=large.id, start=0, size_bytes=3, file_key="uploads/a"),
        Source(
            id=new_id(),
            collection_id=collection.id,
            name="a.pdf",
            media_type="application/pdf",
            content_sha256="0",
            size_bytes=9,
            file_key="sources/a",
        ),
        CollectionCount(collection_id=collection.id, kind=ItemKind.IMAGE, failed=True, fresh=True, count=1),
        UnitCount(
            job_id=job.id,
            stage=Stage.FINE,
            state=UnitState.DONE,
            again=False,
            units=1,
            items=1,
            attempts=1,
            changes=1,
        ),
        FileCount(job_id=job.id, status=FileStatus.ADDED, part=False, come=True, arrived=True, count=1),
        VectorIndex(id=new_id(), model_id=model.id, collection_id=collection.id, through=item.id, counts={"text": 1}),
        Judgment(collection_id=collection.id, question=search.question, item_id=item.id, relevant=True),
        EvaluationRun(id=new_id(), name="run", source=RunSource.UPLOADED, report=report),
    ]


def test_a_reset_deletes_the_rows_of_every_table(
    emptied_database: EmptiedDatabase, fresh_database: str, pristine: Any
) -> None:
    rows = _rows()
    assert {row.__tablename__ for row in rows} == set(Base.metadata.tables)
    with transaction(emptied_database.sessions()) as session:
        factories.store(session, *rows)
    left = _contents(fresh_database)[1]
    assert all(left[table] for table in Base.metadata.tables)
    emptied_database.reset()
    assert _contents(fresh_database) == pristine


def test_a_reset_drops_indexes_tables_views_and_sequences_created_at_run_time(
    emptied_database: EmptiedDatabase, fresh_database: str, pristine: Any
) -> None:
    with transaction(emptied_database.sessions()) as session:
        session.execute(sa.text("CREATE INDEX ix_embeddings_hnsw_x ON embeddings (created_at)"))
        session.execute(sa.text("CREATE TABLE kept AS SELECT * FROM users"))
        session.execute(sa.text("CREATE VIEW seen AS SELECT * FROM kept"))
        session.execute(sa.text("CREATE SEQUENCE counted"))
        session.execute(sa.text("CREATE TABLE numbered (id bigint GENERATED ALWAYS AS IDENTITY)"))
    emptied_database.reset()
    assert _contents(fresh_database) == pristine


def test_a_reset_restores_a_row_written_by_a_migration(emptied_database: EmptiedDatabase, fresh_database: str) -> None:
    before = _contents(fresh_database)
    with connect(fresh_database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'changed'")
    emptied_database.reset()
    assert _contents(fresh_database) == before


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE units RENAME lease_until TO away",
        "ALTER TABLE users DROP COLUMN last_login_at",
        "ALTER TABLE metric_totals RENAME TO away",
        "DROP TABLE units CASCADE",
        "DROP INDEX ix_items_words",
        "ALTER TABLE items ALTER name DROP NOT NULL",
        "ALTER TABLE jobs ALTER params SET DEFAULT '{}'",
        "ALTER TABLE scores ADD CONSTRAINT positive CHECK (tokens > 0)",
        "CREATE FUNCTION answer() RETURNS int LANGUAGE sql AS 'SELECT 42'",
        "CREATE SCHEMA elsewhere",
    ],
)
def test_a_reset_replaces_a_changed_schema(
    emptied_database: EmptiedDatabase, fresh_database: str, pristine: Any, change: str
) -> None:
    with connect(fresh_database) as connection:
        connection.execute(change)  # type: ignore[call-overload]
    emptied_database.reset()
    assert _contents(fresh_database) == pristine
    with connect(fresh_database) as connection:
        schemas = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname = 'elsewhere'").fetchall()
    assert schemas == []


def test_a_reset_empties_a_large_table(emptied_database: EmptiedDatabase, fresh_database: str, pristine: Any) -> None:
    with connect(fresh_database) as connection:
        connection.execute(
            "INSERT INTO metric_totals SELECT 'n', repeat(gen_random_uuid()::text, 30) || n, 1"
            " FROM generate_series(1, 20000) AS n"
        )
    emptied_database.reset()
    assert _contents(fresh_database) == pristine


def test_a_reset_closes_open_connections_with_their_transactions_and_locks(
    emptied_database: EmptiedDatabase, fresh_database: str
) -> None:
    idle, listening = connect(fresh_database), connect(fresh_database)
    listening.execute("LISTEN somewhere")
    idle.execute("SELECT pg_advisory_lock(1)")
    idle.execute("BEGIN")
    idle.execute("LOCK TABLE users")
    idle.execute("INSERT INTO metric_totals VALUES ('n', '{}', 1)")
    emptied_database.reset()
    for left in (idle, listening):
        with pytest.raises(psycopg.OperationalError):
            left.execute("SELECT 1")
    with connect(fresh_database) as connection:
        assert connection.execute("SELECT pg_try_advisory_lock(1)").fetchone() == (True,)
        assert connection.execute("SELECT count(*) FROM metric_totals").fetchone() == (0,)


def test_event_listeners_of_one_test_get_no_events_of_the_next(
    emptied_database: EmptiedDatabase, fresh_database: str
) -> None:
    events: list[str] = []
    first = emptied_database.sessions()
    sa.event.listen(first.kw["bind"], "before_cursor_execute", lambda *args: events.append(args[2]))
    sa.event.listen(first, "after_commit", lambda *args: events.append("commit"))
    with transaction(emptied_database.sessions()) as session:
        session.execute(sa.text("SELECT 1"))
    assert events == []
    with transaction(first) as session:
        session.execute(sa.text("SELECT 2"))
    assert events == ["SELECT 2", "commit"]


def test_a_reset_restores_the_rows_that_are_kept_as_long_as_they_are(template_database: str) -> None:
    database = EmptiedDatabase(template_database)
    empty = _contents(database.url)
    with transaction(database.sessions()) as session:
        factories.store(session, *_rows())
    before = _contents(database.url)
    with database.kept():
        with transaction(database.sessions()) as session:
            session.execute(sa.text("UPDATE items SET text = 'a wren'"))
            session.execute(sa.text("TRUNCATE users, embedding_models CASCADE"))
            used = set(session.execute(sa.text(_SEQUENCES)))
            session.execute(sa.text("SELECT nextval(oid) FROM pg_class WHERE relkind = 'S'"))
        database.reset()
        assert _contents(database.url) == before
        with database.sessions()() as session:
            assert set(session.execute(sa.text(_SEQUENCES))) == used
    database.reset()
    assert _contents(database.url) == empty
    database.close()


@pytest.mark.parametrize("turn", [1, 2])
def test_fresh_database_is_empty_in_every_test(fresh_sessions: Any, turn: int) -> None:
    with transaction(fresh_sessions) as session:
        assert session.scalar(sa.text("SELECT count(*) FROM users")) == 0
        factories.store(session, factories.make_user(f"user-{uuid.uuid4()}"))
