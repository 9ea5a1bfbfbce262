"""``retllm bench jobs`` measures real units and bare tasks, alternately and with the same worker."""

from __future__ import annotations

import json
import os

import pytest

from retllm.bench import jobs
from retllm.bench.jobs import Overhead, quantile
from retllm.cli.main import main
from retllm.db.enums import UnitState
from retllm.db.jobs import Unit


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([3.0, 1.0, 2.0], 0.5, 2.0), ([1.0, 2.0], 0.5, 1.0), (list(range(1, 101)), 0.95, 95), ([7.0], 0.95, 7.0)],
)
def test_a_quantile_is_one_of_the_values(values: list[float], share: float, expected: float) -> None:
    assert quantile(values, share) == expected


def test_the_ratios_compare_the_job_core_with_the_bare_task() -> None:
    starts = {"job": [0.030, 0.010, 0.020], "task": [0.005, 0.004, 0.010]}
    measured = Overhead(starts, {"job": [50.0, 40.0, 90.0], "task": [1000.0, 500.0, 200.0]}, units=9).as_json()
    assert measured == {
        "starts": 3,
        "units": 9,
        "rounds": 3,
        "start_p50_ms": {"job": 20.0, "task": 5.0, "ratio": 4.0},
        "start_p95_ms": {"job": 30.0, "task": 10.0, "ratio": 3.0},
        "per_second": {"job": 50.0, "task": 500.0, "ratio": 0.1},
    }


def test_the_sides_alternate_and_each_starts_every_other_round() -> None:
    called: list[str] = []

    def side(name: str) -> float:
        called.append(name)
        return float(len(called))

    found = jobs._in_turns(2, {"job": lambda: side("job"), "task": lambda: side("task")})
    assert called == ["task", "job", "job", "task"]
    assert found == {"job": [2.0, 3.0], "task": [1.0, 4.0]}


def test_the_command_runs_real_units_and_prints_all_measurements(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There are more units than the submission notifies workers of, so that the dispatcher is involved."""
    ended: list[Unit] = []
    over = jobs._Sides._await_end

    def seen(sides: jobs._Sides, job_id: object) -> float:
        when = over(sides, job_id)
        with sides._sessions() as session:
            ended.extend(session.query(Unit).filter_by(job_id=job_id))
        return when

    monkeypatch.setattr(jobs._Sides, "_await_end", seen)
    # configured servers are not used: they may contain other work
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    with pytest.raises(SystemExit) as caught:
        main(["bench", "jobs", "--starts", "2", "--units", "70", "--rounds", "1", "--json"])
    assert not caught.value.code
    result = json.loads(capsys.readouterr().out)
    assert (result["starts"], result["units"], result["rounds"]) == (2, 70, 1)
    assert all(result[name][side] > 0 for name in ("start_p50_ms", "start_p95_ms", "per_second") for side in jobs.SIDES)
    # three more for the warm-up
    assert len(ended) == 3 + 2 + 70
    assert {(unit.state, unit.attempt) for unit in ended} == {(UnitState.DONE, 1)}
    assert len({unit.worker for unit in ended}) == 1
    assert str(os.getpid()) not in {str(unit.worker).partition(":")[2] for unit in ended}
