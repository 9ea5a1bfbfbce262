"""The migrations create exactly the schema of the models, and can be reverted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy.orm import Session
from tests.factories import make_collection, make_job, make_search, make_unit, make_user, store

from retllm.db import migrate
from retllm.db.enums import FileStatus, Stage
from retllm.db.jobs import Attempt, Unit
from retllm.db.migrate import config, upgrade
from retllm.db.searches import Candidate, Score
from retllm.db.session import make_engine
from retllm.db.tables import Embedding, new_id
from retllm.db.vectors import index_name
from retllm.errors import StackError
from retllm.queue.audit import violations

pytestmark = pytest.mark.slow


def test_models_and_migrated_schema_are_equal(own_database: str) -> None:
    command.check(config(own_database))


def test_vector_indexes_do_not_count_as_a_difference(own_database: str) -> None:
    engine = make_engine(own_database)
    with engine.begin() as connection:
        built = f"{index_name(new_id())} ON embeddings USING hnsw ((vector::halfvec(8)) halfvec_cosine_ops)"
        connection.execute(sa.text(f"CREATE INDEX {built}"))
    engine.dispose()
    command.check(config(own_database))


def test_vectors_are_kept_in_their_rows_and_may_have_more_dimensions_than_fit_in_a_row(own_database: str) -> None:
    engine = make_engine(own_database)
    inline = sa.text(
        "SELECT attstorage FROM pg_attribute WHERE attrelid = 'embeddings'::regclass AND attname = 'vector'"
    )
    with engine.connect() as connection:
        assert connection.scalar(inline) == "m"
        connection.execute(sa.text("CREATE TEMP TABLE kept (LIKE embeddings INCLUDING STORAGE)"))
        large = "SELECT array_agg(random())::real[]::vector FROM generate_series(1, 4096)"
        for column in Embedding.__table__.c:
            connection.execute(sa.text(f"ALTER TABLE kept ALTER {column.name} DROP NOT NULL"))
        connection.execute(sa.text(f"INSERT INTO kept (vector) {large}"))
        assert connection.scalar(sa.text("SELECT vector_dims(vector) FROM kept")) == 4096
    engine.dispose()


def test_every_migration_can_be_reverted_and_run_again(own_database: str) -> None:
    command.downgrade(config(own_database), "base")
    engine = make_engine(own_database)
    assert set(sa.inspect(engine).get_table_names()) == {"alembic_version"}
    engine.dispose()
    upgrade(own_database)
    command.check(config(own_database))


_ROWS_WITHOUT_TOKENS = """
    INSERT INTO users (id, name, password_hash, role) VALUES (:id, 'ada', '-', 'editor');
    INSERT INTO collections (id, owner_id, name, description) VALUES (:id, :id, 'papers', '');
    INSERT INTO items (id, collection_id, kind, state, name, content_sha256, version, text, size_bytes)
        VALUES (:id, :id, 'text', 'ready', 'a', '0', 1, 'two circling birds', 18);
    INSERT INTO embedding_models (id, name, revision, dimension, preprocessing_hash) VALUES (:id, 'e', 'r', 2, 'p');
    INSERT INTO embeddings (item_id, model_id, collection_id, item_version, image_weight, vector)
        VALUES (:id, :id, :id, 1, 0.5, '[1, 0]');
    INSERT INTO jobs (id, kind, state, user_id, collection_id, params, cancel_requested, finished_at)
        VALUES (:id, 'search', 'succeeded', :id, :id, '{}', false, now());
    INSERT INTO searches (id, kind, k, item_kinds, query_image_weight, embedder, scorer, mode, injection, tie_decimals,
            scorer_version, final_at)
        VALUES (:id, 'text', 5, '{text}', 0.8, 'e', 's', 'true_false', '{}', 4, 'v', now());
    INSERT INTO units (id, job_id, stage, seq, state, payload, attempt, worker, finished_at)
        SELECT gen_random_uuid(), CAST(:id AS uuid), stage, 0, 'done', payload, 2, 'host:1', now() FROM (VALUES
            ('coarse', CAST('{}' AS jsonb)),
            ('fine', jsonb_build_object('items', jsonb_build_array(CAST(:id AS text))))) AS made(stage, payload);
    INSERT INTO attempts (token, unit_id, number, worker)
        SELECT CAST(:id AS uuid), id, 1, 'lost:1' FROM units WHERE stage = 'fine';
    INSERT INTO candidates (search_id, item_id, coarse_rank, similarity, final_rank) VALUES (:id, :id, 1, 0.5, 1);
    INSERT INTO scores (search_id, item_id, scorer_version, score, entropy, tokens) VALUES (:id, :id, 'v', 0.9, 0.1, 9);
"""


def test_rows_without_a_token_get_the_token_of_the_attempt_that_stored_them(own_database: str) -> None:
    command.downgrade(config(own_database), "0004")
    engine = make_engine(own_database)
    with engine.begin() as connection:
        for statement in filter(str.strip, _ROWS_WITHOUT_TOKENS.split(";")):
            connection.execute(sa.text(statement), {"id": "00000000-0000-7000-8000-000000000001"})
    upgrade(own_database)
    sessions = sa.orm.sessionmaker(engine)
    assert [str(one) for one in violations(sessions, quiet=True)] == []
    with sessions() as session:
        trails = {
            stage: session.execute(
                sa.select(Attempt.outcome, Attempt.number, Attempt.worker)
                .join(Unit, Unit.id == Attempt.unit_id)
                .where(Unit.stage == stage)
                .order_by(Attempt.number)
            ).all()
            for stage in ("coarse", "fine")
        }
        done = session.scalars(sa.select(Attempt.token).where(Attempt.outcome == "committed"))
        assert set(done) == {session.scalars(sa.select(table.token)).one() for table in (Candidate, Score)}
        assert session.scalars(sa.select(Embedding.token)).one()
    assert trails == {
        "coarse": [("committed", 2, "host:1")],
        "fine": [("lost", 1, "lost:1"), ("committed", 2, "host:1")],
    }
    command.downgrade(config(own_database), "0004")
    upgrade(own_database)
    engine.dispose()


def test_the_previous_schema_has_no_text_in_pictures_nor_their_words(own_database: str) -> None:
    engine = make_engine(own_database)
    user, collection, item, *_ = filter(str.strip, _ROWS_WITHOUT_TOKENS.split(";"))
    read = sa.text("SELECT words::text FROM items")
    with engine.begin() as connection:
        for statement in (user, collection, item):
            connection.execute(sa.text(statement), {"id": "00000000-0000-7000-8000-000000000001"})
        connection.execute(sa.text("UPDATE items SET ocr_text = 'exit to boats'"))
        assert connection.scalar(read) == "'bird':3 'boat':6 'circl':2 'exit':4 'two':1"
    command.downgrade(config(own_database), "0038")
    with engine.connect() as connection:
        assert connection.scalar(read) == "'bird':3 'circl':2 'two':1"
    upgrade(own_database)
    with engine.begin() as connection:
        assert connection.scalar(read) == "'bird':3 'circl':2 'two':1"
        connection.execute(sa.text("UPDATE items SET text = 'three boats'"))
        assert connection.scalar(read) == "'boat':2 'three':1"
    engine.dispose()


_FILES = """
    INSERT INTO jobs (id, kind, state, user_id, collection_id, params, cancel_requested, finished_at)
        VALUES (:id, 'upload', 'succeeded', :id, :id, '{}', false, now());
    INSERT INTO uploads (id) VALUES (:id);
    INSERT INTO upload_files (id, job_id, name, status, error_code, error)
        SELECT gen_random_uuid(), CAST(:id AS uuid), name, 'rejected', code, error FROM (VALUES
            ('late.png', 'not_sent', 'Not sent: stopped.'),
            ('half.zip', 'incomplete', 'Only a part arrived.'),
            ('secret.png', 'not_sent', 'It can not be read.'),
            ('broken.png', 'media_rejected', 'Not sent by a camera.')) AS made(name, code, error);
"""


def test_files_that_did_not_come_have_an_outcome_of_their_own_and_were_rejected_ones_before(own_database: str) -> None:
    command.downgrade(config(own_database), "0014")
    engine = make_engine(own_database)
    user, collection, *_ = filter(str.strip, _ROWS_WITHOUT_TOKENS.split(";"))
    with engine.begin() as connection:
        for statement in (user, collection, *filter(str.strip, _FILES.split(";"))):
            connection.execute(sa.text(statement), {"id": "00000000-0000-7000-8000-000000000001"})
    upgrade(own_database)
    read = sa.text("SELECT name, status FROM upload_files")
    with engine.connect() as connection:
        missing = {"late.png": "not_sent", "half.zip": "not_sent"}
        assert dict(connection.execute(read).all()) == missing | {"secret.png": "rejected", "broken.png": "rejected"}
    command.downgrade(config(own_database), "0014")
    with engine.connect() as connection:
        assert {status for _, status in connection.execute(read)} == {"rejected"}
    upgrade(own_database)
    engine.dispose()


_CANCELLED = """
    INSERT INTO jobs (id, kind, state, user_id, collection_id, params, cancel_requested, finished_at)
        VALUES (:id, 'upload', 'cancelled', :id, :id, '{}', true, now());
    INSERT INTO uploads (id) VALUES (:id);
    INSERT INTO upload_files (id, job_id, name, status, error_code, error)
        SELECT gen_random_uuid(), CAST(:id AS uuid), name, 'rejected', code, 'Why.' FROM (VALUES
            ('waited.png', 'cancelled'), ('broken.png', 'media_rejected')) AS made(name, code);
"""


def test_files_that_waited_at_a_cancellation_have_an_outcome_of_their_own(own_database: str) -> None:
    command.downgrade(config(own_database), "0017")
    engine = make_engine(own_database)
    user, collection, *_ = filter(str.strip, _ROWS_WITHOUT_TOKENS.split(";"))
    with engine.begin() as connection:
        for statement in (user, collection, *filter(str.strip, _CANCELLED.split(";"))):
            connection.execute(sa.text(statement), {"id": "00000000-0000-7000-8000-000000000001"})
    upgrade(own_database)
    read = sa.text("SELECT name, status, error_code FROM upload_files ORDER BY name")
    rejected = ("broken.png", "rejected", "media_rejected")
    with engine.connect() as connection:
        assert connection.execute(read).all() == [rejected, ("waited.png", "unprocessed", "job_cancelled")]
    command.downgrade(config(own_database), "0017")
    with engine.connect() as connection:
        assert connection.execute(read).all() == [rejected, ("waited.png", "rejected", "cancelled")]
    upgrade(own_database)
    engine.dispose()


def test_waiting_units_of_searches_get_their_scorer(own_database: str) -> None:
    engine = make_engine(own_database)
    with Session(engine) as session, session.begin():
        user = make_user()
        collection = make_collection(user.id)
        job = make_job(user.id, collection.id)
        stages = (Stage.COARSE, Stage.FINE)
        units = [make_unit(job.id, stage, payload={"items": []}) for stage in stages]
        store(session, user, collection, job, make_search(job.id, scorer="other"), *units)
    command.downgrade(config(own_database), "0018")
    upgrade(own_database)
    with engine.connect() as connection:
        found = dict(connection.execute(sa.text("SELECT stage, scorer FROM units")).all())
        # as the previous release does, which knows one scorer
        connection.execute(
            sa.text(
                "INSERT INTO units (id, job_id, stage, seq, state, payload, attempt) "
                "SELECT gen_random_uuid(), id, 'fine', 7, 'ready', '{}', 0 FROM jobs"
            )
        )
    assert found == {"coarse": "", "fine": "other"}
    engine.dispose()


_OUTCOMES = """
    INSERT INTO jobs (id, kind, state, user_id, collection_id, params, cancel_requested, finished_at)
        VALUES (:id, 'upload', 'cancelled', :id, :id, '{}', true, now());
    INSERT INTO uploads (id) VALUES (:id);
    INSERT INTO upload_files (id, job_id, name, status, error_code, error)
        SELECT gen_random_uuid(), CAST(:id AS uuid), status, status, code, 'Why.' FROM (VALUES
            ('waiting', NULL), ('added', NULL), ('duplicate', NULL), ('updated', NULL), ('read', NULL),
            ('ignored', NULL), ('rejected', 'media_rejected'), ('not_sent', 'not_sent'),
            ('unprocessed', 'job_cancelled')
        ) AS made(status, code);
    INSERT INTO upload_files (id, job_id, parent_id, name, status, error_code, error)
        SELECT gen_random_uuid(), job_id, id, 'sheet.csv, row 2', 'not_sent', 'not_sent', 'Why.' FROM upload_files
        WHERE name = 'read';
"""


@pytest.mark.parametrize("release", ["0017", "0014", "0011"])
def test_outcomes_that_an_older_release_has_not_are_rejections_there(own_database: str, release: str) -> None:
    engine = make_engine(own_database)
    user, collection, *_ = filter(str.strip, _ROWS_WITHOUT_TOKENS.split(";"))
    with engine.begin() as connection:
        for statement in (user, collection, *filter(str.strip, _OUTCOMES.split(";"))):
            connection.execute(sa.text(statement), {"id": "00000000-0000-7000-8000-000000000001"})
    command.downgrade(config(own_database), release)
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT name, status, error_code, error FROM upload_files")).all()
    found = {row.name: tuple(row[1:]) for row in rows}
    assert len(rows) == len(found) == len(FileStatus) + 1
    assert found["unprocessed"] == ("rejected", "cancelled", "Why.")
    not_sent = ("not_sent" if release > "0014" else "rejected", "not_sent", "Why.")
    assert found["not_sent"] == found["sheet.csv, row 2"] == not_sent
    kept = {status: status for status in FileStatus if status not in (FileStatus.UNPROCESSED, FileStatus.NOT_SENT)}
    assert {name: found[name][0] for name in kept} == kept
    upgrade(own_database)
    engine.dispose()


def test_the_previous_schema_has_no_deleted_collections(own_database: str) -> None:
    engine = make_engine(own_database)
    user, collection, item, *_ = filter(str.strip, _ROWS_WITHOUT_TOKENS.split(";"))
    with engine.begin() as connection:
        for statement in (user, collection, item, "UPDATE collections SET deleted_at = now()"):
            connection.execute(sa.text(statement), {"id": "00000000-0000-7000-8000-000000000001"})
        again = collection.replace("(:id,", "(gen_random_uuid(),")
        connection.execute(sa.text(again), {"id": "00000000-0000-7000-8000-000000000001"})
        with pytest.raises(sa.exc.IntegrityError, match="uq_collections_owner_id_name"), connection.begin_nested():
            connection.execute(sa.text(again), {"id": "00000000-0000-7000-8000-000000000001"})
    command.downgrade(config(own_database), "0019")
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM collections")) == 1
        assert connection.scalar(sa.text("SELECT count(*) FROM items")) == 0
    upgrade(own_database)
    engine.dispose()


def test_the_previous_schema_has_no_searches_of_several_collections(own_database: str) -> None:
    engine = make_engine(own_database)
    with engine.begin() as connection:
        for statement in _ROWS_WITHOUT_TOKENS.split(";"):
            if re.search("INTO (users|collections|jobs|searches) ", statement):
                connection.execute(sa.text(statement), {"id": "00000000-0000-7000-8000-000000000001"})
        connection.execute(sa.text("INSERT INTO search_collections SELECT id, collection_id FROM jobs"))
        connection.execute(sa.text("UPDATE jobs SET collection_id = NULL"))
    command.downgrade(config(own_database), "0033")
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM jobs")) == 0
        assert connection.scalar(sa.text("SELECT count(*) FROM collections")) == 1
    upgrade(own_database)
    command.check(config(own_database))
    engine.dispose()


_TRASH = """
    UPDATE collections SET deleted_at = now(), kept_until = now() + interval '1 day';
    INSERT INTO collections (id, owner_id, name, description)
        SELECT gen_random_uuid(), owner_id, name, '' FROM collections;
    INSERT INTO items (id, collection_id, kind, state, name, content_sha256, version, text, size_bytes, kept_until)
        SELECT gen_random_uuid(), :id, 'text', CASE WHEN kept THEN 'trashed' ELSE 'ready' END, name, sha256, 1,
            'secret', 9, CASE WHEN kept THEN now() END
        FROM (VALUES ('restored', 'a', true), ('twin', 'b', true), ('again', 'b', false)) AS made(name, sha256, kept)
"""


def test_the_previous_schema_has_no_trash(own_database: str) -> None:
    engine = make_engine(own_database)
    user, collection, *_ = filter(str.strip, _ROWS_WITHOUT_TOKENS.split(";"))
    with engine.begin() as connection:
        for statement in (user, collection, *_TRASH.split(";")):
            connection.execute(sa.text(statement), {"id": "00000000-0000-7000-8000-000000000001"})
    command.downgrade(config(own_database), "0034")
    with engine.connect() as connection:
        names = connection.scalars(sa.text("SELECT name FROM collections WHERE deleted_at IS NULL")).all()
        items = connection.execute(sa.text("SELECT name, state, text FROM items ORDER BY name")).all()
        counts = connection.scalar(sa.text("SELECT sum(count) FROM collection_counts"))
    assert len(set(names)) == len(names) == 2
    # nothing is lost but what is there twice
    assert items == [("again", "ready", "secret"), ("restored", "ready", "secret"), ("twin", "deleted", None)]
    assert counts == 2
    upgrade(own_database)
    command.check(config(own_database))
    engine.dispose()


def test_there_is_exactly_one_head_revision() -> None:
    assert len(ScriptDirectory.from_config(config("postgresql://x/y")).get_heads()) == 1


def test_an_unknown_schema_is_rejected_with_advice(own_database: str) -> None:
    engine = make_engine(own_database)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0003'"))
    engine.dispose()
    with pytest.raises(StackError, match=r"from release 0\.1 or from a newer release.*retllm migrate"):
        upgrade(own_database)


def test_migrations_of_several_versions_are_rejected_with_advice(
    own_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = tmp_path / "migrations"
    shutil.copytree(migrate._scripts(), scripts)
    newest = ScriptDirectory(str(scripts)).get_current_head()
    assert newest is not None
    before = ScriptDirectory(str(scripts)).get_revision(newest).down_revision
    (scripts / "versions" / "other.py").write_text(f'revision = "other"\ndown_revision = "{before}"\n')
    monkeypatch.setattr(migrate, "_scripts", lambda: scripts)
    with pytest.raises(StackError, match=rf"{newest} and other are both the newest migration.*Remove those") as caught:
        upgrade(own_database)
    assert str(scripts) in caught.value.message


def test_several_processes_can_migrate_at_once(own_database: str) -> None:
    command.downgrade(config(own_database), "base")
    environment = os.environ | {"DATABASE_URL": own_database}
    arguments = [sys.executable, "-m", "retllm.cli.main", "migrate"]
    running = [subprocess.Popen(arguments, env=environment) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    command.check(config(own_database))


def test_an_unreachable_server_gives_a_one_sentence_error() -> None:
    with pytest.raises(StackError, match="Cannot migrate the database") as caught:
        upgrade("postgresql://nobody@127.0.0.1:1/none")
    assert "\n" not in caught.value.message
