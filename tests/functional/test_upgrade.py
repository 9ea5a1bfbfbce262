"""Workers and dispatchers of the release before live with the newest schema, beside those of today.

That is how an upgrade goes: migrate, then replace the processes one by one while work goes on.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.chaos.client import Client
from tests.chaos.plant import LEASE, ROOT, Plant

from retllm.db.enums import AttemptOutcome, UnitState
from retllm.db.session import transaction
from retllm.db.tables import Score, Unit
from retllm.queue import attempts as trails
from retllm.queue.audit import violations
from retllm.stack import commands

from .hands import holding, trail, unit, worker

# the commit that the newest release was made from; a release writes its own here
RELEASE, COMMIT = "0.1.0", "d31140f08c2274ae6e3493d62a5f28b4be352cc9"


@pytest.fixture(scope="module")
def released() -> Iterator[Path]:
    """The code of the release before, in a folder of its own."""
    git = [shutil.which("git") or pytest.skip("git is not on this machine"), "-C", str(ROOT)]
    if subprocess.run([*git, "cat-file", "-e", COMMIT], capture_output=True).returncode:
        pytest.skip(f"the code of release {RELEASE} is not in this copy: it needs the whole history")
    archive = subprocess.run([*git, "archive", COMMIT], capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="retllm-release-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
            packed.extractall(folder, filter="data")
        yield Path(folder)


@pytest.fixture(scope="module")
def plant() -> Iterator[Plant]:
    with tempfile.TemporaryDirectory(prefix="retllm-old-") as folder, Plant(Path(folder) / "home", workers=0) as made:
        yield made


@pytest.fixture
def client(plant: Plant) -> Client:
    return Client(plant.url, plant.token)


def _index_job(client: Client, texts: int = 3) -> UUID:
    collection = client.collection()
    client.upload_texts(collection, texts)
    return client.index(collection)


def _sound(plant: Plant) -> None:
    assert [str(one) for one in violations(plant.sessions, plant.storage, quiet=True)] == []


def test_both_work_side_by_side(plant: Plant, client: Client, released: Path) -> None:
    with ExitStack() as stack:
        old = [stack.enter_context(worker(plant, kind, f"old-{kind}", code=released)) for kind in ("embed", "score")]
        new = [stack.enter_context(worker(plant, kind, f"new-{kind}")) for kind in ("embed", "score")]
        collections = [client.collection() for _ in range(3)]
        for collection in collections:
            client.upload_texts(collection, 30)
        jobs = [client.index(collection) for collection in collections]
        assert [client.wait(job)["state"] for job in jobs] == ["succeeded"] * 3
        jobs = [client.search(collections[number % 3]) for number in range(12)]
        jobs += [client.search(collections[0], adaptive=True) for _ in range(3)]
        jobs += [client.search_picture(collections[1], (number, 9, 9)) for number in range(3)]
        assert [client.wait(job)["state"] for job in jobs] == ["succeeded"] * 18
        with plant.sessions() as session:
            hands = {str(name).rpartition(":")[2] for name in session.scalars(sa.select(Unit.worker).distinct())}
            signed = set(session.scalars(sa.select(Score.token.is_not(None)).distinct()))
        assert hands == {str(one.pid) for one in (*old, *new)}, "each did a part"
        assert signed == {True, False}
    _sound(plant)


@pytest.mark.parametrize("kind", ["embed", "score"])
def test_what_one_leaves_the_other_finishes(plant: Plant, client: Client, released: Path, kind: str) -> None:
    with worker(plant, "embed", f"for-{kind}") as indexer:
        library = client.collection()
        client.upload_texts(library, 3)
        assert client.wait(client.index(library))["state"] == "succeeded"
        if kind == "embed":
            # all its units are for those that follow
            indexer.kill()
        for first, second, left in (
            (released, ROOT, [(2, AttemptOutcome.COMMITTED)]),
            (ROOT, released, [(1, AttemptOutcome.LOST)]),
        ):
            with worker(plant, kind, f"{kind}-first-{first.name}", code=first, CHAOS_PAUSE="300") as one:
                job_id = _index_job(client) if kind == "embed" else client.search(library)
                held = holding(plant, one)
                one.kill()
                with worker(plant, kind, f"{kind}-second-{first.name}", code=second) as other:
                    assert client.wait(job_id)["state"] == "succeeded"
            done = unit(plant, held)
            assert (done.state, done.attempt) == (UnitState.DONE, 2)
            assert str(done.worker).endswith(f":{other.pid}")
            assert trail(plant, held) == left
    _sound(plant)


@pytest.fixture
def old_dispatcher(plant: Plant, released: Path) -> Iterator[None]:
    """A dispatcher of the release before, in place of those of today."""
    for name in plant.dispatchers:
        plant.forked[name].held = True
        plant.kill(name)
    path = os.pathsep.join(str(released / folder) for folder in (".", "platform", "workers", "web"))
    with (plant.logs / "old-dispatch.log").open("ab") as log:
        dispatcher = subprocess.Popen(
            commands.python(commands.DISPATCH),
            cwd=released,
            env=plant.environment() | {"PYTHONPATH": path},
            stdout=log,
            stderr=log,
        )
    yield
    assert dispatcher.poll() is None, (plant.logs / "old-dispatch.log").read_text()
    dispatcher.kill()
    dispatcher.wait()
    for name in plant.dispatchers:
        plant.forked[name].held = False


@pytest.mark.usefixtures("old_dispatcher")
def test_a_dispatcher_of_before_takes_units_of_today_back(plant: Plant, client: Client) -> None:
    with worker(plant, "embed", "lost", CHAOS_PAUSE="300") as lost:
        job_id = _index_job(client)
        held = holding(plant, lost)
        lost.kill()
        time.sleep(LEASE)
        with worker(plant, "embed", "finds"):
            assert client.wait(job_id)["state"] == "succeeded"
    assert trail(plant, held) == [(1, None), (2, AttemptOutcome.COMMITTED)], "it knows nothing of attempts"
    # which a dispatcher of today sets right, the first time that it looks
    with transaction(plant.sessions) as session:
        assert trails.end_forgotten(session) == 1
    assert trail(plant, held) == [(1, AttemptOutcome.LOST), (2, AttemptOutcome.COMMITTED)]
    _sound(plant)
