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
from retllm.db.vectors import register_model
from retllm.errors import StackError


def test_models_and_migrated_schema_are_equal(fresh_database: str) -> None:
    command.check(config(fresh_database))


def test_the_vector_indexes_of_models_do_not_count_as_a_difference(fresh_database: str) -> None:
    engine = make_engine(fresh_database)
    with sa.orm.Session(engine) as session, session.begin():
        register_model(session, name="m", revision="r", dimension=8, preprocessing_hash="p")
    engine.dispose()
    command.check(config(fresh_database))


def test_every_migration_can_be_taken_back_and_run_again(fresh_database: str) -> None:
    command.downgrade(config(fresh_database), "base")
    engine = make_engine(fresh_database)
    assert set(sa.inspect(engine).get_table_names()) == {"alembic_version"}
    engine.dispose()
    upgrade(fresh_database)
    command.check(config(fresh_database))


def test_there_is_one_newest_migration() -> None:
    assert len(ScriptDirectory.from_config(config("postgresql://x/y")).get_heads()) == 1


def test_processes_that_migrate_at_once_do_not_hurt_each_other(fresh_database: str) -> None:
    command.downgrade(config(fresh_database), "base")
    environment = os.environ | {"DATABASE_URL": fresh_database}
    arguments = [sys.executable, "-m", "retllm.cli.main", "migrate"]
    running = [subprocess.Popen(arguments, env=environment) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    command.check(config(fresh_database))


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(StackError, match="can't be migrated") as caught:
        upgrade("postgresql://nobody@127.0.0.1:1/none")
    assert "\n" not in caught.value.message
