"""The doctor warns about stuck work and says what to do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from retllm.cli import checks
from retllm.cli.check_work import inspect_work
from retllm.cli.doctor import doctor
from retllm.db.enums import JobKind, Stage
from retllm.db.jobs import Job, Unit
from retllm.db.session import make_sessions, transaction
from retllm.db.tables import Collection, new_id
from retllm.identity import accounts
from retllm.settings import Settings
from retllm.stack import LocalStack


def _waiting_unit(url: str) -> None:
    sessions = make_sessions(url)
    with transaction(sessions) as session:
        user = accounts.create_user(session, "ada", "a-long-password")
        collection = Collection(id=new_id(), owner_id=user.id, name="papers")
        session.add(collection)
        session.flush()
        job = Job(id=new_id(), kind=JobKind.INDEX, collection_id=collection.id, user_id=user.id, params={})
        session.add(job)
        session.flush()
        session.add(Unit(id=new_id(), job_id=job.id, stage=Stage.EMBED, seq=0, payload={"items": []}))
    sessions.kw["bind"].dispose()


@pytest.mark.slow
def test_stuck_work_is_a_warning_with_advice(
    fresh_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(database_url=fresh_database, home=tmp_path)
    (idle,) = checks.check_work(settings, None)
    assert (idle.name, idle.state, idle.advice) == ("work", "ok", "")
    assert idle.message == "Nothing is stuck; ready units: 0, leased units: 0."
    _waiting_unit(fresh_database)
    (found,) = checks.check_work(settings, None)
    assert (found.name, found.state) == ("work", "warning")
    assert "no live worker serves it" in found.message
    assert found.advice.startswith("Start a worker")
    monkeypatch.setenv("DATABASE_URL", fresh_database)
    monkeypatch.setenv("RETLLM_HOME", str(tmp_path))
    monkeypatch.delenv("REDIS_URL", raising=False)
    answer = json.loads(CliRunner().invoke(doctor, ["--json"], standalone_mode=False).output)
    (printed,) = [check for check in answer["checks"] if check["name"] == "work"]
    # by now the unit waits for longer
    assert printed == {**found.as_json(), "message": printed["message"]}
    assert re.sub(r"\d+ s", "", printed["message"]) == re.sub(r"\d+ s", "", found.message)


def test_an_unusable_database_gives_advice_instead_of_stuck_work(servers: LocalStack, tmp_path: Path) -> None:
    settings = Settings(database_url=None, home=tmp_path)
    assert "retllm migrate" in inspect_work(servers.database_url, settings)[0][1]
    assert "postgres" in inspect_work("postgresql://nobody@127.0.0.1:1/none", settings)[0][1]
    assert checks.check_work(settings, None) == [], "no stack is running"
