"""`retllm doctor --audit` reports broken rules of accepted work."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from retllm.cli.audit_jobs import audit_jobs
from retllm.db.enums import JobKind
from retllm.db.jobs import Job
from retllm.db.session import make_sessions, transaction
from retllm.db.tables import Collection, new_id
from retllm.identity import accounts
from retllm.settings import Settings


def test_a_job_without_units_is_reported(own_database: str, tmp_path: Path) -> None:
    settings = Settings(database_url=own_database, home=tmp_path)
    (sound,) = audit_jobs(settings)
    assert (sound.state, sound.message) == ("ok", "No accepted work is lost or counted twice.")
    sessions = make_sessions(own_database)
    with transaction(sessions) as session:
        user = accounts.create_user(session, "ada", "a-long-password")
        collection = Collection(id=new_id(), owner_id=user.id, name="papers")
        session.add(collection)
        session.flush()
        # neither unit nor query
        session.add(Job(id=new_id(), kind=JobKind.SEARCH, user_id=user.id, collection_id=collection.id, params={}))
    found = audit_jobs(settings)
    assert [one.state for one in found] == ["failed", "failed"]
    assert found[0].message.startswith("job_has_its_search: every search job has its query, but ")
    assert found[1].message.startswith("open_has_work: a job that is not over has a ready or leased unit")
    with transaction(sessions) as session:
        session.execute(sa.text("DROP TABLE units CASCADE"))
    (broken,) = audit_jobs(settings)
    assert broken.state == "failed"
    assert "can't be read" in broken.message
    sessions.kw["bind"].dispose()


def test_an_unreachable_database_is_reported(tmp_path: Path) -> None:
    (check,) = audit_jobs(Settings(database_url="postgres://me@127.0.0.1:1/name", home=tmp_path))
    assert check.state == "failed"
    assert "can't be read" in check.message
