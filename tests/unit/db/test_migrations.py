"""The migrations build exactly the schema of the models, and can be taken back."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from retllm.db.migrate import config, upgrade
from retllm.db.session import make_engine
from retllm.db.tables import ITEM_WORDS, Item, Score, Search
from retllm.db.vectors import register_model
from retllm.errors import StackError


def test_models_and_migrated_schema_are_equal(own_database: str) -> None:
    command.check(config(own_database))


def test_the_vector_indexes_of_models_do_not_count_as_a_difference(own_database: str) -> None:
    engine = make_engine(own_database)
    with sa.orm.Session(engine) as session, session.begin():
        register_model(session, name="m", revision="r", dimension=8, preprocessing_hash="p")
    engine.dispose()
    command.check(config(own_database))


def test_every_migration_can_be_taken_back_and_run_again(own_database: str) -> None:
    command.downgrade(config(own_database), "base")
    engine = make_engine(own_database)
    assert set(sa.inspect(engine).get_table_names()) == {"alembic_version"}
    engine.dispose()
    upgrade(own_database)
    command.check(config(own_database))


_FIRST_SCHEMA_ROWS = """
    INSERT INTO users (id, name, password_hash, role) VALUES (:id, 'ada', '-', 'member');
    INSERT INTO collections (id, owner_id, name, description) VALUES (:id, :id, 'papers', '');
    INSERT INTO items (id, collection_id, kind, state, name, content_sha256, version, text, size_bytes)
        VALUES (:id, :id, 'text', 'ready', 'a', '0', 1, 'two circling birds', 18);
    INSERT INTO jobs (id, kind, state, user_id, collection_id, params, cancel_requested)
        VALUES (:id, 'search', 'succeeded', :id, :id, '{}', false);
    INSERT INTO searches (id, kind, k, item_kinds, query_image_weight, embedder, scorer, mode, injection, tie_decimals)
        VALUES (:id, 'text', 5, '{text}', 0.8, 'e', 's', 'true_false', '{}', 4);
    INSERT INTO candidates (search_id, item_id, coarse_rank, similarity) VALUES (:id, :id, 1, 0.5);
    INSERT INTO scores (search_id, item_id, scorer_version, score, entropy, tokens) VALUES (:id, :id, 'v', 0.9, 0.1, 9);
"""


def test_a_search_of_the_first_schema_keeps_its_meaning(own_database: str) -> None:
    command.downgrade(config(own_database), "0001")
    engine = make_engine(own_database)
    with engine.begin() as connection:
        for statement in filter(str.strip, _FIRST_SCHEMA_ROWS.split(";")):
            connection.execute(sa.text(statement), {"id": "00000000-0000-7000-8000-000000000001"})
    command.upgrade(config(own_database), "head")
    with sa.orm.Session(engine) as session, session.begin():
        search = session.scalars(sa.select(Search)).one()
        assert (search.adaptive, search.fusion_weight, search.trace, search.no_match) == (None, 0.0, False, None)
        score = session.scalars(sa.select(Score)).one()
        assert (score.score, score.entropy, score.log_odds, score.cached) == (0.9, 0.1, None, False)
        words = sa.func.to_tsquery("english", "bird & circle")
        assert session.scalar(sa.select(sa.func.count()).select_from(Item).where(ITEM_WORDS.op("@@")(words))) == 1
        score.score, score.error = None, "no number"
    command.downgrade(config(own_database), "0001")
    with engine.begin() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM scores")) == 0
        assert connection.scalar(sa.text("SELECT count(*) FROM candidates")) == 1
    engine.dispose()


def test_there_is_one_newest_migration() -> None:
    assert len(ScriptDirectory.from_config(config("postgresql://x/y")).get_heads()) == 1


def test_processes_that_migrate_at_once_do_not_hurt_each_other(own_database: str) -> None:
    command.downgrade(config(own_database), "base")
    environment = os.environ | {"DATABASE_URL": own_database}
    arguments = [sys.executable, "-m", "retllm.cli.main", "migrate"]
    running = [subprocess.Popen(arguments, env=environment) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    command.check(config(own_database))


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(StackError, match="can't be migrated") as caught:
        upgrade("postgresql://nobody@127.0.0.1:1/none")
    assert "\n" not in caught.value.message
