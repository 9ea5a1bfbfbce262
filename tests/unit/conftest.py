"""A session on a database of one's own, passwords that take no time, and the order of tests for pytest-xdist."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from sqlalchemy.orm import Session

from retllm.db.session import Sessions
from retllm.identity import passwords

_HERE = Path(__file__).parent
# tests that would hold everybody up if they came last
_LONG = ("jobs/test_state_machine.py", "test_worker_presence.py", "bench/test_jobs.py", "cli/test_evaluate.py")
# with more processes than this, building the model families in each costs less than waiting for one of them
_FEW = 3


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For pytest-xdist: one process builds the model families of ``fine/``, and long tests begin first."""
    processes = int(getattr(config, "workerinput", {}).get("workercount", 1))
    if processes == 1:
        return
    fine = [item for item in items if item.path.is_relative_to(_HERE / "fine")]
    if processes <= _FEW:
        for item in fine:
            item.add_marker(pytest.mark.xdist_group("fine"), append=False)
    long = [item for name in _LONG for item in items if item.path == _HERE / name]
    first = {item: place for place, item in enumerate([*fine, *long])}
    items.sort(key=lambda item: first.get(item, len(first)))


@pytest.fixture
def session(fresh_sessions: Sessions) -> Iterator[Session]:
    """A session on an empty database that this test has for itself; nothing is committed unless the test does."""
    with Session(fresh_sessions.kw["bind"]) as opened:
        yield opened


@pytest.fixture(scope="module", autouse=True)
def light_passwords() -> Iterator[None]:
    """Hash with little work: with as much as is wanted to keep passwords, these tests would do little else."""
    with pytest.MonkeyPatch.context() as patch:
        hasher = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
        patch.setattr(passwords, "HASHER", hasher)
        # the hash that stands for an unknown name carries parameters of its own
        patch.setattr(passwords, "_NOBODY", hasher.hash("nobody"))
        yield
