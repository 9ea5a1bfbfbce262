"""The attempts of a job through the API."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from tests.unit.web.conftest import Caller

from retllm.db.enums import Stage, UnitState
from retllm.db.jobs import Unit
from retllm.db.session import transaction
from retllm_web.http.services import Services


@pytest.fixture
def job(ada: Caller, served: Services) -> str:
    """An index job of ada's with five units, two of them dead."""
    key = str(ada.post("/collections", json={"name": "Texts"}).json["id"])
    assert ada.post(f"/collections/{key}/items?index=false", json={"items": [{"text": "a"}]}).status_code == 200
    job = str(ada.post(f"/collections/{key}/index").json["id"])
    with transaction(served.sessions) as session:
        first = session.scalars(sa.select(Unit).where(Unit.job_id == job)).one()
        for seq in range(1, 5):
            dead = {"state": UnitState.DEAD, "error": "no", "traceback": "where"} if seq > 2 else {}
            session.add(Unit(job_id=first.job_id, stage=Stage.EMBED, seq=seq, payload={"items": []}, **dead))
    return job


def test_attempts_are_paged(ada: Caller, job: str) -> None:
    first = ada.get(f"/jobs/{job}/attempts?limit=3").json
    assert [one["seq"] for one in first["attempts"]] == [0, 1, 2]
    rest = ada.get(f"/jobs/{job}/attempts?limit=3&after={first['next']}").json
    assert [one["seq"] for one in rest["attempts"]] == [3, 4]
    assert rest["next"] is None


def test_attempts_are_filtered_by_state_and_include_error_and_traceback(ada: Caller, job: str) -> None:
    found = ada.get(f"/jobs/{job}/attempts?state=dead").json["attempts"]
    assert [(one["seq"], one["error"], one["traceback"]) for one in found] == [(3, "no", "where"), (4, "no", "where")]


@pytest.mark.parametrize("query", ["after=fine", "after=fine.9999999999", "after=x.1", "state=x", "limit=0", "more=1"])
def test_invalid_query_parameters_are_rejected(ada: Caller, job: str, query: str) -> None:
    assert ada.get(f"/jobs/{job}/attempts?{query}").status_code == 422


def test_attempts_of_another_account_return_404(bob: Caller, job: str) -> None:
    assert bob.get(f"/jobs/{job}/attempts").status_code == 404
