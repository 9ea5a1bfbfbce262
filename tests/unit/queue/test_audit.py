"""The audit finds rows, files and broken promises that no sequence of steps can produce."""

from __future__ import annotations

import io
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from tests.chaos.client_log import Accepted, Cancelled, ClientLog, Ending, SentFiles, client_violations
from tests.unit.stand_ins import FakeScorer, index, run, search
from tests.unit.uploads.conftest import Uploads, picture

from retllm.db.enums import Stage
from retllm.db.jobs import Attempt, Job, Unit
from retllm.db.searches import Candidate, Score, Search
from retllm.db.session import transaction
from retllm.db.tables import Embedding, Item
from retllm.db.uploads import Upload, UploadFile
from retllm.db.vectors import VectorIndex, index_name
from retllm.history import control
from retllm.indexing import vector_indexes
from retllm.indexing.submit import submit_index
from retllm.queue import lifecycle
from retllm.queue.audit import violations
from retllm.queue.audit_files import orphans


def _broken(world: Any, *statements: Any, log: ClientLog | None = None, quiet: bool = False) -> set[str]:
    """Return the rules that these statements break; then restore the rows."""
    with transaction(world.sessions) as session:
        for table in _TABLES:
            session.execute(sa.text(f"DROP TABLE IF EXISTS kept_{table}"))
            session.execute(sa.text(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}"))
    with transaction(world.sessions) as session:
        for statement in statements:
            session.execute(statement)
    found = {one.rule for one in violations(world.sessions, quiet=quiet)}
    if log is not None:
        found |= {one.rule for one in client_violations(world.sessions, log)}
    with transaction(world.sessions) as session:
        session.execute(sa.delete(Job))
        session.execute(sa.delete(Embedding))
        for table in _TABLES:
            session.execute(sa.text(f"INSERT INTO {table} SELECT * FROM kept_{table}"))
    return found


_UPLOADS = ("uploads", "upload_files")
_TABLES = ("jobs", "units", "attempts", *_UPLOADS, "searches", "candidates", "scores", "embeddings")
_ENDED = sa.update(Job).values(state="succeeded", finished_at=sa.func.now())


def _unit(number: int, **values: Any) -> Any:
    return sa.update(Unit).where(Unit.seq == number).values(**values)


def _submitted(world: Any) -> uuid.UUID:
    with transaction(world.sessions) as session:
        return submit_index(session, world.user, world.collection_id, world.settings).job.id


def test_broken_promises_to_clients_are_reported(world: Any) -> None:
    world.add_texts("a")
    job_id = _submitted(world)
    with transaction(world.sessions) as session:
        control.cancel_job(session, world.user, job_id)
    before, now = datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC)
    ended = world.job(job_id).finished_at
    kept = ClientLog([Accepted(job_id)], [Cancelled(job_id, now)], [Ending(job_id, ended)])
    assert _broken(world, log=kept, quiet=True) == set()
    assert _broken(world, log=ClientLog([Accepted(uuid.uuid4())])) == {"accepted_is_kept"}
    assert _broken(world, log=ClientLog([Accepted(job_id, "k")])) == {"one_job_a_key"}
    assert _broken(world, log=ClientLog(endings=[Ending(job_id, before)])) == {"ends_once"}
    done = _unit(0, state="done")
    assert _broken(world, done, log=ClientLog(cancelled=[Cancelled(job_id, before)])) >= {"nothing_after_cancel"}
    assert "cancelled_stays_so" in _broken(world, _ENDED, log=kept)


def test_inconsistent_units_are_reported(world: Any) -> None:
    world.add_texts("a", "b", "c")
    _submitted(world)
    assert _broken(world) == set()
    assert _broken(world, quiet=True) == {"ends_in_quiet"}
    assert _broken(world, sa.delete(Unit)) == {"open_has_work"}
    assert _broken(world, sa.update(Job).values(state="failed")) == {"over_has_an_end"}
    assert _broken(world, _ENDED) == {"over_has_no_work"}
    long_ago = sa.text("now() - interval '1 hour'")
    leased = {"state": "leased", "token": uuid.uuid4(), "lease_until": long_ago}
    assert _broken(world, _unit(0, **leased)) == {"lease_is_taken_back", "held_by_an_open_attempt"}
    assert _broken(world, _unit(0, token=uuid.uuid4())) == {"lease_is_whole"}
    assert _broken(world, _unit(0, finished_at=long_ago)) == {"unit_end_is_dated"}
    same = sa.update(Unit).values(payload={"items": ["x"]})
    assert _broken(world, same) == {"each_input_once"}
    assert _broken(world, _unit(0, state="split", finished_at=long_ago)) == {"split_loses_nothing"}


def test_inconsistent_results_are_reported(context: Any, world: Any) -> None:
    world.add_texts("a red house", "a blue house", "a green house")
    index(context, world)
    job_id = search(world, text="a house", k=3)
    run(context, world, job_id, FakeScorer(lambda candidate: (len(candidate.text or "") / 100, 0.5)))
    assert _broken(world, quiet=True) == set()
    of_search = Unit.job_id == job_id
    first = sa.select(Candidate.item_id).where(Candidate.coarse_rank == 1).scalar_subquery()
    assert _broken(world, sa.delete(Embedding).where(Embedding.item_id == first)) == {"done_is_embedded"}
    assert _broken(world, sa.update(Embedding).values(item_version=2)) == {"no_vector_of_a_later_version"}
    assert _broken(world, sa.update(Candidate).values(coarse_rank=1)) == {"coarse_ranks_are_whole"}
    assert _broken(world, sa.update(Candidate).values(final_rank=1)) == {"final_ranks_are_whole"}
    assert _broken(world, sa.update(Search).values(final_at=None)) == {"result_has_its_order"}
    assert _broken(world, sa.delete(Score).where(Score.item_id == first)) == {"done_is_scored"}
    assert _broken(world, sa.update(Candidate).values(error="bad")) == {"score_or_error"}
    assert _broken(world, sa.update(Score).values(scorer_version="v2")) == {"scored_once", "done_is_scored"}
    assert _broken(world, sa.update(Score).values(error="bad")) == {"score_is_whole"}
    assert _broken(world, sa.delete(Search)) >= {"job_has_its_search"}
    fine = sa.delete(Unit).where(of_search, Unit.stage == "fine")
    assert _broken(world, fine) == {"score_has_its_unit", "whole_pool_is_scored", "score_was_committed"}
    dead = sa.update(Unit).where(of_search, Unit.stage == "fine").values(state="dead")
    expected = {
        "dead_says_why",
        "dead_candidate_has_error",
        "score_has_its_unit",
        "end_state_matches_units",
        "committed_is_done",
    }
    assert _broken(world, dead) == expected


def test_an_index_in_use_that_the_server_lacks_or_calls_invalid_is_reported(
    context: Any, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_indexes, "EXACT_LIMIT", 1)
    world.add_texts("a", "b")
    index(context, world)
    with world.sessions() as session:
        (name,) = map(index_name, session.scalars(sa.select(VectorIndex.id)))

    def broken(statement: str) -> list[tuple[str, str]]:
        with transaction(world.sessions) as session:
            session.execute(sa.text(statement))
        return [(one.rule, one.detail) for one in violations(world.sessions, quiet=True)]

    assert broken("SELECT 1") == []
    invalid = f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{name}'::regclass"
    assert broken(invalid) == [("used_index_is_whole", "invalid")]
    assert broken(f"DROP INDEX {name}") == [("used_index_is_whole", "missing")]


def test_inconsistent_attempts_are_reported(world: Any) -> None:
    world.add_texts("a", "b", "c")
    (unit_id,) = [unit.id for unit in world.units(_submitted(world))][:1]
    world.must_claim(unit_id)
    assert _broken(world) == set()
    assert _broken(world, _attempts(ended_at=sa.func.now())) == {"attempt_end_is_dated"}
    lost = _attempts(outcome="lost", ended_at=sa.func.now())
    assert _broken(world, lost) == {"held_by_an_open_attempt"}
    released = {"state": "ready", "token": None, "lease_until": None}
    assert _broken(world, _unit(0, **released)) == {"attempt_holds_its_unit"}
    assert _broken(world, _unit(0, **released), lost) == set()
    done = _unit(0, state="done", token=None, lease_until=None, finished_at=sa.func.now())
    assert _broken(world, done, lost) >= {"done_was_committed"}
    assert _broken(world, done, sa.delete(Attempt)) >= {"done_was_committed"}
    assert _broken(world, _unit(0, token=uuid.uuid4())) == {"attempt_holds_its_unit", "held_by_an_open_attempt"}
    committed = _attempts(outcome="committed", ended_at=sa.func.now())
    assert _broken(world, _unit(0, **released), committed) == {"committed_is_done"}


def test_inconsistent_uploads_are_reported(context: Any, world: Any) -> None:
    uploads = Uploads(world, context)
    job_id = uploads.open()
    uploads.send(job_id, {"a.png": picture(1), "bad.png": picture(2)[:50], "note.txt": b"words"})
    assert _broken(world) == set(), "an open upload may have no unit"
    picture_waits = {"file_has_its_outcome", "waiting_file_has_its_unit"}
    assert _broken(world, sa.delete(Unit)) == {"waiting_file_has_its_unit"}
    uploads.run(job_id)
    assert _broken(world) == set()
    assert _broken(world, quiet=True) == {"ends_in_quiet"}
    assert _broken(world, sa.update(Upload).values(closed_at=sa.func.now())) == {"open_has_work"}
    uploads.close(job_id)
    uploads.run(job_id)
    assert _broken(world, quiet=True) == set()
    assert _broken(world, sa.delete(Upload)) == {"job_has_its_upload"}
    assert _broken(world, _file("a.png", status="waiting")) == picture_waits
    assert _broken(world, _file("note.txt", status="waiting")) == {"file_has_its_outcome"}
    cancelled = sa.update(Job).values(state="cancelled", cancel_requested=True)
    assert _broken(world, cancelled, _file("a.png", status="waiting")) == {"file_has_its_outcome"}
    assert _broken(world, _file("a.png", item_id=uuid.uuid4())) == {"added_is_there"}
    assert _broken(world, _file("a.png", item_id=None)) == {"added_is_there"}
    other = sa.select(UploadFile.item_id).where(UploadFile.name == "a.png").scalar_subquery()
    assert _broken(world, _file("note.txt", item_id=other)) == {"added_once"}
    assert _broken(world, _file("bad.png", error=None)) == {"rejected_says_why"}
    assert _broken(world, _file("bad.png", status="not_sent")) == set()
    assert _broken(world, _file("a.png", error="bad")) == {"rejected_says_why"}


def test_files_that_clients_sent_and_that_are_lost_or_doubled_are_reported(context: Any, world: Any) -> None:
    uploads = Uploads(world, context)
    job_id = uploads.open()
    (key,) = uploads.send(job_id, {"a.png": picture(1)})
    uploads.close(job_id)
    uploads.run(job_id)
    kept = ClientLog(sent=[SentFiles(job_id, ("a.png",), {"a.png": key})])
    assert _broken(world, log=kept, quiet=True) == set()
    assert _broken(world, sa.delete(UploadFile), log=kept) == {"acknowledged_is_kept"}
    assert _broken(world, log=ClientLog(sent=[SentFiles(job_id, ("b.png",), {})])) == {"acknowledged_is_kept"}
    other = ClientLog(sent=[SentFiles(job_id, ("a.png",), {"a.png": uuid.uuid4()})])
    assert _broken(world, log=other) == {"acknowledged_is_kept"}
    again = sa.insert(UploadFile).values(job_id=job_id, name="a.png", status="read")
    assert _broken(world, again, log=kept) == {"one_outcome_a_file"}
    rejected = _file("a.png", status="rejected", error="bad", error_code="media_rejected")
    assert _broken(world, rejected, log=kept) == {"good_file_goes_in"}


def _file(name: str, **values: Any) -> Any:
    return sa.update(UploadFile).where(UploadFile.name == name).values(**values)


def test_units_of_an_embedder_and_a_pass_are_compared_with_each_other(world: Any) -> None:
    (item,) = world.add_texts("a")
    job_id = _submitted(world)
    named = {"items": [str(item)]}
    further = [named | {"embedder": "e"}, named | {"pass": "again"}, named | {"embedder": "e", "pass": "again"}]

    def append(session: Any) -> None:
        lifecycle.append_units(session, session.get_one(Job, job_id), Stage.EMBED, further)

    world.in_transaction(append)
    assert _broken(world) == set()
    assert _broken(world, _unit(1, payload=further[1])) == {"each_input_once"}


def test_kept_bytes_of_uploads_that_are_missing_changed_or_orphaned_are_reported(context: Any, world: Any) -> None:
    uploads = Uploads(world, context)
    job_id = uploads.open()
    uploads.send(job_id, {"a.png": picture(1), "b.png": picture(2)})
    assert violations(world.sessions, context.storage) == []
    rows = uploads.rows(job_id)
    first, second = rows["a.png"].file_key, rows["b.png"].file_key
    assert first
    assert second
    with world.sessions() as session:
        assert orphans(session, context.storage) == []
    context.storage.delete(first)
    context.storage.put(second, io.BytesIO(b"another"))
    found = {one.subject for one in violations(world.sessions, context.storage) if one.rule == "files_match"}
    assert found == {f"file {rows[name].id}" for name in ("a.png", "b.png")}
    with transaction(world.sessions) as session:
        session.execute(sa.delete(Job))
    with world.sessions() as session:
        assert orphans(session, context.storage) == [second]


def test_results_that_no_attempt_committed_are_reported(context: Any, world: Any) -> None:
    world.add_texts("a red house", "a blue house", "a green house")
    index(context, world)
    job_id = search(world, text="a house", k=3)
    run(context, world, job_id, FakeScorer(lambda candidate: (len(candidate.text or "") / 100, 0.5)))
    assert _broken(world, quiet=True) == set()
    other = {"token": uuid.uuid4()}
    assert _broken(world, sa.update(Score).values(other)) == {"score_was_committed"}
    assert _broken(world, sa.update(Candidate).values(other)) == {"candidate_was_committed"}
    # an embedding outlives its job and the attempt
    assert _broken(world, sa.update(Embedding).values(other)) == set()
    for table, name in ((Score, "score"), (Candidate, "candidate"), (Embedding, "vector")):
        signed = sa.select(table.token).limit(1).scalar_subquery()
        lost = sa.update(Attempt).where(Attempt.token == signed).values(outcome="lost")
        assert _broken(world, lost) == {f"{name}_was_committed", "done_was_committed"}
        elsewhere = sa.select(Attempt.token).where(Attempt.token != signed).limit(1).scalar_subquery()
        assert _broken(world, sa.update(table).values(token=elsewhere)) == {f"{name}_was_committed"}
        with pytest.raises(sa.exc.IntegrityError, match="token"), transaction(world.sessions) as session:
            session.execute(sa.update(table).values(token=None))


def _attempts(**values: Any) -> Any:
    return sa.update(Attempt).values(**values)


def test_missing_changed_and_orphaned_files_are_reported(context: Any, world: Any) -> None:
    import hashlib

    (item,) = world.add_texts("a")
    context.storage.put("items/x/original", io.BytesIO(b"picture"))
    context.storage.put("items/x/thumbnail", io.BytesIO(b"small"))
    sha256 = hashlib.sha256(b"picture").hexdigest()
    with transaction(world.sessions) as session:
        keys = {"picture_key": "items/x/original", "thumbnail_key": "items/x/thumbnail"}
        session.execute(sa.update(Item).values(content_sha256=sha256, **keys))
    assert violations(world.sessions, context.storage) == []
    with world.sessions() as session:
        assert orphans(session, context.storage) == []
    context.storage.put("items/y/original", io.BytesIO(b"nobody's"))
    with world.sessions() as session:
        assert orphans(session, context.storage) == ["items/y/original"]
    context.storage.put("items/x/original", io.BytesIO(b"another"))
    context.storage.delete("items/x/thumbnail")
    found = violations(world.sessions, context.storage, sample=5)
    assert [(one.rule, one.subject) for one in found] == [("files_match", f"item {item}")] * 2
