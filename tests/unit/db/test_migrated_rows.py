"""Rows that an earlier release wrote keep what they say when they are migrated, and when that is reverted."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy.orm import Session
from tests.factories import make_user
from tests.unit.db.test_migrations import _CANCELLED, _ROWS_WITHOUT_TOKENS

from retllm.db.migrate import config, upgrade
from retllm.db.session import make_engine
from retllm.identity import audit
from retllm.identity.audit import Action

pytestmark = pytest.mark.slow


def test_collections_from_before_languages_stay_english_with_their_words(own_database: str) -> None:
    command.downgrade(config(own_database), "0012")
    engine = make_engine(own_database)
    key = "00000000-0000-7000-8000-000000000001"
    user, collection, item, *_ = filter(str.strip, _ROWS_WITHOUT_TOKENS.split(";"))
    with engine.begin() as connection:
        for statement in (user, collection, item):
            connection.execute(sa.text(statement), {"id": key})
    read = sa.text("SELECT c.language, i.words::text FROM items i JOIN collections c ON c.id = i.collection_id")
    upgrade(own_database)
    with engine.begin() as connection:
        assert connection.execute(read).all() == [("english", "'bird':3 'circl':2 'two':1")]
        # as the previous release does, which knows no language
        connection.execute(sa.text("UPDATE items SET text = 'three boats'"))
        assert connection.execute(read).all() == [("english", "'boat':2 'three':1")]
    command.downgrade(config(own_database), "0012")
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT words::text FROM items")) == "'boat':2 'three':1"
    upgrade(own_database)
    engine.dispose()


def test_names_of_refused_log_ins_that_are_no_accounts_are_forgotten(own_database: str) -> None:
    command.downgrade(config(own_database), "0024")
    engine = make_engine(own_database)
    with Session(engine) as session, session.begin():
        session.add(make_user("Ada"))
        for name in ("ada", "correct horse"):
            audit.record(session, None, Action.LOGIN_REFUSED, name=name)
        audit.record(session, None, Action.ITEM_DELETED, name="correct horse")
    upgrade(own_database)
    with engine.connect() as connection:
        kept = connection.execute(sa.text("SELECT detail FROM audit_log ORDER BY id")).scalars().all()
    assert kept == [{"name": "ada"}, {"no_account": True}, {"name": "correct horse"}]
    engine.dispose()


def test_files_keep_their_rows_when_raw_names_come_and_go(own_database: str) -> None:
    command.downgrade(config(own_database), "0018")
    engine = make_engine(own_database)
    user, collection, *_ = filter(str.strip, _ROWS_WITHOUT_TOKENS.split(";"))
    large = """INSERT INTO large_files (id, job_id, collection_id, name, size_bytes)
        VALUES (:id, :id, :id, 'large.zip', 9)"""
    with engine.begin() as connection:
        for statement in (user, collection, *filter(str.strip, _CANCELLED.split(";")), large):
            connection.execute(sa.text(statement), {"id": "00000000-0000-7000-8000-000000000001"})
    names = sa.text("SELECT name FROM upload_files UNION ALL SELECT name FROM large_files ORDER BY name")
    raw = sa.text("SELECT raw_end FROM upload_files UNION ALL SELECT raw_end FROM large_files")
    kept = ["broken.png", "large.zip", "waited.png"]
    upgrade(own_database)
    with engine.begin() as connection:
        assert (connection.scalars(names).all(), connection.scalars(raw).all()) == (kept, [None] * 3)
        connection.execute(sa.text("UPDATE upload_files SET raw_end = 'x'"))
        # as the previous release does, which knows no raw names
        connection.execute(sa.text("UPDATE upload_files SET name = name, status = 'waiting', error = NULL"))
    command.downgrade(config(own_database), "0018")
    with engine.connect() as connection:
        assert connection.scalars(names).all() == kept
    upgrade(own_database)
    command.check(config(own_database))
    engine.dispose()


def test_large_files_keep_their_rows_when_fingerprints_come_and_go(own_database: str) -> None:
    command.downgrade(config(own_database), "0022")
    engine = make_engine(own_database)
    large = """INSERT INTO large_files (id, collection_id, name, size_bytes)
        VALUES (gen_random_uuid(), gen_random_uuid(), 'large.zip', 9)"""
    with engine.begin() as connection:
        connection.execute(sa.text(large))
    upgrade(own_database)
    with engine.begin() as connection:
        assert connection.scalars(sa.text("SELECT fingerprint FROM large_files")).all() == [None]
        # as the previous release does, which knows no fingerprints
        connection.execute(sa.text(large))
        connection.execute(sa.text("UPDATE large_files SET fingerprint = 'x'"))
    command.downgrade(config(own_database), "0022")
    with engine.connect() as connection:
        assert connection.scalars(sa.text("SELECT name FROM large_files")).all() == ["large.zip"] * 2
    upgrade(own_database)
    command.check(config(own_database))
    engine.dispose()
